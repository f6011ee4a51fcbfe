"""A folder of images and a folder of their labels, matched by name, to the raw layout.

Channels are told apart by the end of the name or by sub-folders; an image may also be a folder with a DICOM series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dataset_conversion.file_names import ImageName, Matched, looks_like_labels, match
from dataset_conversion.label_names import named_labels
from dataset_conversion.labelled_cases import CaseOptions, Conversion, as_test_cases, check_apart, write_cases
from dataset_conversion.raw_layout import dataset_folder
from dataset_conversion.source_cases import ImageFile, LabelFiles, SourceCase
from diffatlas_pipeline import console
from diffatlas_pipeline.datasets.cases import left_out
from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.datasets.header_modality import believed_modality
from diffatlas_pipeline.datasets.raw import listed
from diffatlas_pipeline.errors import DatasetError, UserError
from diffatlas_pipeline.volumes import dicom
from diffatlas_pipeline.volumes.io import FILE_ENDINGS, ending_of, modality_in_header


@dataclass(frozen=True)
class _Found:
    """The images of a folder; ``by_folder`` if its sub-folders are channels."""

    images: tuple[ImageName, ...]
    by_folder: bool


def convert_folder(
    source: Path,
    raw_folder: Path,
    dataset_id: int,
    *,
    name: str,
    labels: Path,
    test_images: Path | None = None,
    test_labels: Path | None = None,
    channels: Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
    label_table: Path | None = None,
    options: CaseOptions | None = None,
) -> Path:
    """Convert the images in ``source`` with their ``labels``; returns the raw data set's folder.

    ``channels`` names the channels in order; None: as file names, sub-folders or DICOM headers tell. ``label_names``
    are NAME=VALUE, ``label_table`` a file of them; both None: ``label_1`` and so on. Raises DatasetError that lists all
    that is unmatched, ambiguous or broken, before anything is written.
    """
    options = options or CaseOptions()
    if test_labels is not None and test_images is None:
        raise UserError("`test_labels` without `test_images`: give the folder of the test images, too.")
    named = named_labels(label_names, label_table)
    folder = dataset_folder(raw_folder, dataset_id, name)
    for place in (source, labels, test_images, test_labels):
        if place is not None:
            check_apart(place, folder)
    training = _matched(source, labels, channels, split=channels is not None and len(channels) > 1)
    split = any(channel is not None for channel in training.channels)
    test = _matched(test_images, test_labels, channels, split) if test_images is not None else Matched()
    tokens = _channel_words(training, channels, source)
    bad = training.bad | {f"test images: {case}": problem for case, problem in test.bad.items()}
    cases, bad = as_test_cases(_cases(training, tokens, bad, ""), bad, options, source)
    known = {case.name for case in cases} | set(bad)
    for case in _cases(test, tokens, bad, "test images: "):
        if case.name in known:
            bad[f"test images: {case.name}"] = "a training case has the same name"
        else:
            cases.append(replace(case, test=True))
    final = _channel_names(tokens, channels, cases, source) if cases else ()  # without cases all is refused
    write_cases(folder, Conversion("folder", source, name, final, cases, bad, named), options)
    return folder


# ------------------------------------------------------------------------------------------------------------- listing
def _matched(images: Path, labels: Path | None, channels: Sequence[str] | None, split: bool) -> Matched:
    found = _images_in(images)
    if labels == images:
        label_paths = [image.path for image in found.images if looks_like_labels(image.path)]
        found = _Found(tuple(image for image in found.images if image.path not in set(label_paths)), found.by_folder)
    else:
        label_paths = _labels_in(labels) if labels is not None else []
    words = list(channels) if channels is not None and len(channels) > 1 else None
    return match(found.images, label_paths, words, split and not found.by_folder)


def _images_in(folder: Path) -> _Found:
    """The images in ``folder``, or in its sub-folders if those are channels; what else is there is said."""
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder. Give a folder of images.")
    direct = _images_of(folder)
    below = {path: _images_of(path) for path in sorted(folder.iterdir()) if path.is_dir() and path not in direct}
    below = {path: images for path, images in below.items() if images and not path.name.startswith(".")}
    if direct and below:
        raise DatasetError(
            f"{folder}: holds images and sub-folders with images ({listed([path.name for path in below])}). "
            "Give a folder of images, or one with a sub-folder for each channel."
        )
    if not direct and not below:
        raise DatasetError(
            f"{folder}: holds no images. Allowed are files ending in {', '.join(FILE_ENDINGS)}, folders with a DICOM series, "
            "and one sub-folder of such images for each channel."
        )
    for place, used in below.items() or [(folder, direct)]:
        _say_left_out(place, used)
    if below:
        console.say(f"{folder}: its sub-folders are taken as channels: {listed([place.name for place in below])}.")
        images = tuple(ImageName(path, place.name) for place, paths in below.items() for path in paths)
        return _Found(images, by_folder=True)
    return _Found(tuple(ImageName(path) for path in direct), by_folder=False)


def _images_of(folder: Path) -> list[Path]:
    """Image files and DICOM series that lie in ``folder`` itself."""
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    return [path for path in paths if ending_of(path) or (path.is_dir() and dicom.has_series(path))]


def _labels_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder. Give a folder of label files.")
    paths = [path for path in sorted(folder.iterdir()) if ending_of(path) and not path.name.startswith(".")]
    if not paths:
        raise DatasetError(f"{folder}: holds no label files. Allowed are files ending in {', '.join(FILE_ENDINGS)}.")
    _say_left_out(folder, paths)
    return paths


def _say_left_out(folder: Path, used: Sequence[Path]) -> None:
    if others := left_out(folder, used):
        console.warn(f"{folder}: {len(others)} file(s) or folder(s) are none that can be read, and left out: {listed(others)}")


# ------------------------------------------------------------------------------------------------------------ channels
def _channel_words(training: Matched, channels: Sequence[str] | None, source: Path) -> list[str | None]:
    """What file or folder names call each channel, in order; [None] if they call the only one nothing.

    DatasetError if these are not as many as ``channels``, or other ones.
    """
    found = training.channels
    if len(found) > 1 and None in found:
        found.remove(None)
    if not found or channels is None:
        return found or [None]
    shown = ", ".join(str(word) for word in found)
    if len(channels) == 1:
        if len(found) > 1:
            raise DatasetError(
                f"{source}: file names tell {len(found)} channels apart ({shown}). Name them all with `channels`, in order."
            )
        return found
    order: list[str | None] = []
    for index, channel in enumerate(channels):
        fitting = [word for word in found if word is not None and word.lower() in (channel.lower(), f"{index:04d}")]
        order += fitting[:1]
    if len(order) != len(channels) or len(found) != len(channels):
        shown = shown if found != [None] else "none"
        raise DatasetError(
            f"{source}: file or folder names tell the channels {shown}; `channels` is {', '.join(channels)}. "
            "Each file name must end in _ and the name of its channel, or in _0000, _0001, ...; or name the sub-folders so."
        )
    return order


def _channel_names(
    words: Sequence[str | None], channels: Sequence[str] | None, cases: Sequence[SourceCase], source: Path
) -> tuple[str, ...]:
    """The channels' names for ``dataset.json``. DatasetError if nothing tells them."""
    series = [CaseFiles(case.name, (case.images[0].path,), None) for case in cases if case.images[0].path.is_dir()]
    if channels is not None:
        if series:
            for warning in believed_modality(series, [channels[0].upper() == "CT"], _modality(channels[0]))[1]:
                console.warn(warning.replace("`modality`", "`channels`"))
        return tuple(channels)
    if all(word is not None and not word.isdigit() for word in words):
        names = tuple(str(word) for word in words)
        console.say(f"Channels, as file or folder names call them: {', '.join(names)}.")
        return names
    said = {modality_in_header(files.images[0]) for files in series} if len(series) == len(cases) else {None}
    only = said.pop() if len(said) == 1 else None
    if len(words) == 1 and only is not None:
        console.say(f"Channel, as the headers say: {only}.")
        return (only,)
    raise DatasetError(
        f"{source}: nothing tells what the images are. Give `channels`: {len(words)} name(s), such as CT or MRI. "
        "CT means Hounsfield units, any other name intensities without a unit."
    )


def _modality(channel: str) -> str:
    return "CT" if channel.upper() == "CT" else "MRI"


def _cases(matched: Matched, words: Sequence[str | None], bad: dict[str, str], prefix: str) -> list[SourceCase]:
    """The cases that have all channels; the others are put into ``bad``."""
    cases = []
    keys = [word and word.lower() for word in words]
    for name, images in sorted(matched.images.items()):
        by_word = {word and word.lower(): path for word, path in images.items()}
        if len(keys) == len(by_word) == 1 and None in (*keys, *by_word):  # the one channel need not be named everywhere
            by_word = {keys[0]: next(iter(by_word.values()))}
        lacking = [str(word) for word, key in zip(words, keys, strict=True) if key not in by_word]
        extra = [path.name for key, path in by_word.items() if key not in keys]
        if lacking or extra:
            there = ", ".join(path.name for path in images.values())
            what = f"lacks channel {', '.join(lacking)}" if lacking else f"has {len(extra)} channel(s) too many"
            bad[f"{prefix}{name}"] = f"{what} (found {there})"
            continue
        label = matched.labels.get(name)
        files = tuple(ImageFile(by_word[key]) for key in keys)
        cases.append(SourceCase(name, files, LabelFiles((label,)) if label is not None else None))
    return cases
