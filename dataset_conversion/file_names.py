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


@dataclass(frozen=True)
class NamedFile:
    """A file by the name that counts, ``stem``; ``channel`` is its sub-folder, if sub-folders are channels. ``shown``
    is its name in messages.
    """

    path: Path
    stem: str
    channel: str | None = None
    shown: str = ""

    def __str__(self) -> str:
        return self.shown or self.path.name

    @staticmethod
    def of(path: Path, channel: str | None = None) -> NamedFile:
        """A file, or a folder with a DICOM series, by its own name; ``channel`` if its folder is one."""
        return NamedFile(path, _stem(path), channel, path.name if channel is None else f"{channel}/{path.name}")


@dataclass
class Matched:
    """What the names tell: ``channels`` and ``labels`` of each case, and ``bad``, the names that fit nothing or
    several.

    A channel is None where no name tells one, else the word as it is written in the first name that has it.
    """

    images: dict[str, dict[str | None, NamedFile]] = field(default_factory=dict)
    labels: dict[str, NamedFile] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)

    @property
    def channels(self) -> list[str | None]:
        """All channels of any case, sorted."""
        return sorted({channel for found in self.images.values() for channel in found}, key=lambda channel: channel or "")


def looks_like_labels(file: NamedFile) -> bool:
    """Whether the name has one of :data:`LABEL_WORDS` at its end or beginning."""
    return _without(file.stem, LABEL_WORDS) != file.stem


def in_case_folder(path: Path, words: Sequence[str] = ()) -> NamedFile | None:
    """A file in a folder of its case's name: ``p1/p1_t1.nii.gz``, or ``p1/t1.nii.gz``, which counts as ``p1_t1``.

    None if the name tells neither: it neither begins with the folder's name, nor is one of the known ``words``.
    """
    stem, case = _stem(path), path.parent.name
    if stem.lower().startswith(case.lower()):
        return NamedFile(path, stem, shown=f"{case}/{path.name}")
    known = {word.lower() for word in (*words, *IMAGE_WORDS, *LABEL_WORDS, *CHANNEL_WORDS)}
    return NamedFile(path, f"{case}_{stem}", shown=f"{case}/{path.name}") if stem.lower() in known else None


def match(images: Sequence[NamedFile], labels: Sequence[NamedFile], words: Sequence[str] | None, split: bool) -> Matched:
    """Match ``images`` and ``labels`` by name.

    ``words`` are the channels that names may end in, None for :data:`CHANNEL_WORDS`; four digits always may. With
    ``split`` they are taken off every name; without it only where the labels' names lack them.
    """
    pattern = re.compile(rf"(.+?)[_.-]({'|'.join(map(re.escape, words or CHANNEL_WORDS))}|{_NUMBER})", re.IGNORECASE)
    exact = {image.stem for image in images} if not split else set()
    by_key, matched = _label_keys(labels, exact), Matched()
    found: dict[str, dict[str | None, list[NamedFile]]] = defaultdict(lambda: defaultdict(list))
    spelled: dict[str, str] = {}
    unfound = []
    for image in images:
        place = _place(image, by_key, pattern, split)
        if place is None:
            unfound.append(image)
            continue
        case, channel = place
        found[case][channel and spelled.setdefault(channel.lower(), channel)].append(image)
    splits = split or any(channel is not None for channels in found.values() for channel in channels)
    for image in unfound:
        case, channel = _unlabelled(image, pattern, splits)
        found[case][channel and spelled.setdefault(channel.lower(), channel)].append(image)
    for case, channels in found.items():
        _settle(case, channels, by_key.get(case, ()), matched)
    _refuse_shared(matched)
    used = {file for case in found for file in by_key.get(case, ())}
    for file in labels:
        if file not in used:
            matched.bad[str(file)] = "labels without an image of that name"
    return matched


def _label_keys(labels: Iterable[NamedFile], exact: set[str]) -> dict[str, list[NamedFile]]:
    """Label files by the case that they may belong to: by name as it stands if an image of ``exact`` has it, else also
    without one of :data:`LABEL_WORDS`.
    """
    keys: dict[str, list[NamedFile]] = defaultdict(list)
    rest = []
    for file in labels:
        if file.stem in exact:
            keys[file.stem].append(file)
        else:
            rest.append(file)
    taken = set(keys)
    for file in rest:
        for key in dict.fromkeys((_without(file.stem, LABEL_WORDS), file.stem)):
            if key not in taken:
                keys[key].append(file)
    return keys


def _place(
    image: NamedFile, labels: Mapping[str, object], pattern: re.Pattern[str], split: bool
) -> tuple[str, str | None] | None:
    """Case and channel of an image that has labels, or None."""
    stem, plain = image.stem, _without(image.stem, IMAGE_WORDS)
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


def _unlabelled(image: NamedFile, pattern: re.Pattern[str], split: bool) -> tuple[str, str | None]:
    """Case and channel of an image without labels."""
    plain = _without(image.stem, IMAGE_WORDS)
    parts = pattern.fullmatch(plain) if split else None
    if parts is None:
        return plain, image.channel
    return _without(parts[1], IMAGE_WORDS), image.channel or parts[2]


def _settle(case: str, channels: Mapping[str | None, list[NamedFile]], labels: Sequence[NamedFile], matched: Matched) -> None:
    """Put one case into ``matched``, or what is not clear about it."""
    doubled = [files for files in channels.values() if len(files) > 1]
    if len(labels) > 1:
        matched.bad[case] = f"several files could be its labels: {_names(labels)}"
    elif doubled:
        matched.bad[case] = f"several files could be the same image: {_names(doubled[0])}"
    elif None in channels and len(channels) > 1:
        others = [file for channel, files in channels.items() if channel is not None for file in files]
        matched.bad[case] = f"{channels[None][0]} names no channel, but {_names(others)} do"
    else:
        matched.images[case] = {channel: files[0] for channel, files in channels.items()}
        if labels:
            matched.labels[case] = labels[0]


def _refuse_shared(matched: Matched) -> None:
    """Put cases that would share one file of labels among the bad ones."""
    cases: dict[NamedFile, list[str]] = defaultdict(list)
    for case, file in matched.labels.items():
        cases[file].append(case)
    for file, several in cases.items():
        if len(several) > 1:
            for case in several:
                images = _names(matched.images.pop(case).values())
                del matched.labels[case]
                matched.bad[case] = f"{file} could be the labels of {' and '.join(sorted(several))} ({images})"


def _without(stem: str, words: Sequence[str]) -> str:
    """``stem`` without one of ``words`` at its end (``case1_seg``), or else at its beginning (``seg_case1``)."""
    any_word = "|".join(words)
    for pattern in (rf"(?P<rest>.+)[_.-](?:{any_word})", rf"(?:{any_word})[_.-](?P<rest>.+)"):
        if found := re.fullmatch(pattern, stem, re.IGNORECASE):
            return found["rest"]
    return stem


def _stem(path: Path) -> str:
    """The name without its file ending; of a DICOM series the folder's name."""
    return path.name if path.is_dir() else name_without_ending(path)


def _names(files: Iterable[NamedFile]) -> str:
    return " and ".join(sorted(map(str, files)))
