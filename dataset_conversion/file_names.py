"""Which image belongs to which labels, and which channel it is, as file names tell.

``case1_t1_img`` and ``case1_seg`` are channel ``t1`` and the labels of ``case1``. A name is taken as it stands wherever
that fits; only then are words such as ``_seg`` taken off. Whatever fits twice is a problem, and never a guess.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffatlas_pipeline.volumes.io import name_without_ending

IMAGE_WORDS = ("image", "img", "scan", "volume", "vol")
LABEL_WORDS = (
    *("segmentation", "seg", "dseg", "labelmap", "labels", "label", "masks", "mask"),
    *("groundtruth", "gt", "annotation"),
)
CHANNEL_WORDS = (
    *("t1w", "t1ce", "t1c", "t1gd", "t1n", "t1", "t2w", "t2f", "t2", "flair", "pdw", "pd"),
    *("dwi", "adc", "swi", "lge", "bssfp", "ct", "cta", "pet", "mri", "mr"),
)
_NUMBER = r"\d{4}"


@dataclass
class Matched:
    """What the names tell: ``channels`` and ``labels`` of each case, and ``bad``, the names that fit nothing or
    several.

    A channel is None where no name tells one, else the word as it is written in the first name that has it.
    """

    images: dict[str, dict[str | None, Path]] = field(default_factory=dict)
    labels: dict[str, Path] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)

    @property
    def channels(self) -> list[str | None]:
        """All channels of any case, sorted."""
        return sorted({channel for found in self.images.values() for channel in found}, key=lambda channel: channel or "")


@dataclass(frozen=True)
class ImageName:
    """An image as it was found; ``channel`` is that of the sub-folder that it lies in, if sub-folders are channels."""

    path: Path
    channel: str | None = None


def stem_of(path: Path) -> str:
    """The name without its file ending; of a DICOM series the folder's name."""
    return path.name if path.is_dir() else name_without_ending(path)


def looks_like_labels(path: Path) -> bool:
    """Whether the name has one of :data:`LABEL_WORDS` at its end or beginning."""
    return _without(stem_of(path), LABEL_WORDS) != stem_of(path)


def match(images: Sequence[ImageName], labels: Sequence[Path], words: Sequence[str] | None, split: bool) -> Matched:
    """Match ``images`` and ``labels`` by name.

    ``words`` are the channels that names may end in, None for :data:`CHANNEL_WORDS`; four digits always may. With
    ``split`` they are taken off every name; without it only where the labels' names lack them.
    """
    pattern = re.compile(rf"(.+?)[_.-]({'|'.join(map(re.escape, words or CHANNEL_WORDS))}|{_NUMBER})", re.IGNORECASE)
    exact = {stem_of(image.path) for image in images} if not split else set()
    by_key, matched = _label_keys(labels, exact), Matched()
    found: dict[str, dict[str | None, list[Path]]] = defaultdict(lambda: defaultdict(list))
    spelled: dict[str, str] = {}
    unfound = []
    for image in images:
        place = _place(image, by_key, pattern, split)
        if place is None:
            unfound.append(image)
            continue
        case, channel = place
        found[case][channel and spelled.setdefault(channel.lower(), channel)].append(image.path)
    splits = split or any(channel is not None for channels in found.values() for channel in channels)
    for image in unfound:
        case, channel = _unlabelled(image, pattern, splits)
        found[case][channel and spelled.setdefault(channel.lower(), channel)].append(image.path)
    for case, channels in found.items():
        _settle(case, channels, by_key.get(case, ()), matched)
    _refuse_shared(matched)
    used = {path for case in found for path in by_key.get(case, ())}
    for path in labels:
        if path not in used:
            matched.bad[path.name] = "labels without an image of that name"
    return matched


def _label_keys(labels: Iterable[Path], exact: set[str]) -> dict[str, list[Path]]:
    """Label files by the case that they may belong to: by name as it stands if an image of ``exact`` has it, else also
    without one of :data:`LABEL_WORDS`.
    """
    keys: dict[str, list[Path]] = defaultdict(list)
    rest = []
    for path in labels:
        if stem_of(path) in exact:
            keys[stem_of(path)].append(path)
        else:
            rest.append(path)
    taken = set(keys)
    for path in rest:
        for key in dict.fromkeys((_without(stem_of(path), LABEL_WORDS), stem_of(path))):
            if key not in taken:
                keys[key].append(path)
    return keys


def _place(
    image: ImageName, labels: Mapping[str, object], pattern: re.Pattern[str], split: bool
) -> tuple[str, str | None] | None:
    """Case and channel of an image that has labels, or None."""
    stem = stem_of(image.path)
    plain = _without(stem, IMAGE_WORDS)
    if not split or image.channel is not None:
        for key in (stem, plain):
            if key in labels:
                return key, image.channel
    for name in (plain, stem):
        if parts := pattern.fullmatch(name):
            for key in (_without(parts[1], IMAGE_WORDS), parts[1]):
                if key in labels:
                    return key, image.channel or parts[2]
    return None


def _unlabelled(image: ImageName, pattern: re.Pattern[str], split: bool) -> tuple[str, str | None]:
    """Case and channel of an image without labels."""
    plain = _without(stem_of(image.path), IMAGE_WORDS)
    parts = pattern.fullmatch(plain) if split else None
    if parts is None:
        return plain, image.channel
    return _without(parts[1], IMAGE_WORDS), image.channel or parts[2]


def _settle(case: str, channels: Mapping[str | None, list[Path]], labels: Sequence[Path], matched: Matched) -> None:
    """Put one case into ``matched``, or what is not clear about it."""
    doubled = [paths for paths in channels.values() if len(paths) > 1]
    if len(labels) > 1:
        matched.bad[case] = f"several files could be its labels: {_names(labels)}"
    elif doubled:
        matched.bad[case] = f"several files could be the same image: {_names(doubled[0])}"
    elif None in channels and len(channels) > 1:
        others = [path for channel, paths in channels.items() if channel is not None for path in paths]
        matched.bad[case] = f"{channels[None][0].name} names no channel, but {_names(others)} do"
    else:
        matched.images[case] = {channel: paths[0] for channel, paths in channels.items()}
        if labels:
            matched.labels[case] = labels[0]


def _refuse_shared(matched: Matched) -> None:
    """Put cases that would share one file of labels among the bad ones."""
    cases: dict[Path, list[str]] = defaultdict(list)
    for case, path in matched.labels.items():
        cases[path].append(case)
    for path, several in cases.items():
        if len(several) > 1:
            for case in several:
                images = _names(matched.images.pop(case).values())
                del matched.labels[case]
                matched.bad[case] = f"{path.name} could be the labels of {' and '.join(sorted(several))} ({images})"


def _without(stem: str, words: Sequence[str]) -> str:
    """``stem`` without one of ``words`` at its end (``case1_seg``), or else at its beginning (``seg_case1``)."""
    any_word = "|".join(words)
    for pattern in (rf"(?P<rest>.+)[_.-](?:{any_word})", rf"(?:{any_word})[_.-](?P<rest>.+)"):
        if found := re.fullmatch(pattern, stem, re.IGNORECASE):
            return found["rest"]
    return stem


def _names(paths: Iterable[Path]) -> str:
    return " and ".join(sorted(path.name for path in paths))
