"""A folder of images and a folder of their labels, matched by name, to the raw layout.

Channels are told apart by the end of the name or by sub-folders. There may be a sub-folder for each case instead. An
image may also be a folder with a DICOM series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dataset_conversion.file_names import Matched, NamedFile, in_case_folder, looks_like_labels, match
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
from diffatlas_pipeline.volumes.dicom_series import has_series
from diffatlas_pipeline.volumes.io import FILE_ENDINGS, ending_of, modality_in_header


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
    places = [place for place in (source, labels, test_images, test_labels) if place is not None]
    for place in places:
        check_apart(place, folder)
    training = _matched(source, labels, channels, channels is not None and len(channels) > 1, places)
    split = any(channel is not None for channel in training.channels)
    test = _matched(test_images, test_labels, channels, split, places) if test_images is not None else Matched()
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
    others = {"labels": labels, "test_images": test_images, "test_labels": test_labels}
    origin = {kind: str(place) for kind, place in others.items() if place is not None}
    write_cases(folder, Conversion("folder", source, name, final, cases, bad, named, origin=origin), options)
    return folder


# ------------------------------------------------------------------------------------------------------------- listing
def _matched(images: Path, labels: Path | None, channels: Sequence[str] | None, split: bool, places: Sequence[Path]) -> Matched:
    """The files of two folders by case; ``places`` are all folders that were given, which may lie in one another."""
    found, by_folder = _files_in(images, places, channels or (), "images")
    if labels == images:
        segmentations = [file for file in found if looks_like_labels(file)]
        found = [file for file in found if not looks_like_labels(file)]
    else:
        segmentations = _files_in(labels, places, (), "label files")[0] if labels is not None else []
    words = list(channels) if channels is not None and len(channels) > 1 else None
    return match(found, segmentations, words, split and not by_folder)


def _files_in(folder: Path, places: Sequence[Path], words: Sequence[str], what: str) -> tuple[list[NamedFile], bool]:
    """The images or label files in ``folder``, or in its sub-folders if each is a case, or each a channel of images;
    and whether sub-folders are channels. What else is there is said.

    Sub-folders that are among ``places`` are not looked into. Raises DatasetError.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder. Give a folder of {what}.")
    direct, skipped = _images_of(folder), {place for place in places if place.parent == folder}
    known = {*direct, *skipped}
    below = {path: _images_of(path) for path in sorted(folder.iterdir()) if path.is_dir() and path not in known}
    below = {path: files for path, files in below.items() if files and not path.name.startswith(".")}
    shown = listed([path.name for path in below])
    if direct and below:
        raise DatasetError(
            f"{folder}: holds images and sub-folders with images ({shown}). "
            "Give a folder of images, or one with a sub-folder for each channel or each case."
        )
    if not direct and not below:
        raise DatasetError(
            f"{folder}: holds no {what}. Allowed are files ending in {', '.join(FILE_ENDINGS)}, for images also folders with "
            "a DICOM series; all of them there, or in one sub-folder for each case or each channel."
        )
    for place, used in below.items() or [(folder, direct)]:
        _say_left_out(place, [*used, *skipped])
    if not below:
        return [NamedFile.of(path) for path in direct], False
    _say_left_out(folder, [*below, *skipped])
    of_cases = [in_case_folder(path, words) for paths in below.values() for path in paths]
    if all(of_cases):
        console.say(f"{folder}: its sub-folders are taken as cases: {shown}.")
        return [file for file in of_cases if file is not None], False
    if what == "images":
        console.say(f"{folder}: its sub-folders are taken as channels: {shown}.")
    return [NamedFile.of(path, place.name) for place, paths in below.items() for path in paths], True


def _images_of(folder: Path) -> list[Path]:
    """Image files and DICOM series that lie in ``folder`` itself."""
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    return [path for path in paths if ending_of(path) or (path.is_dir() and has_series(path))]


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
        by_word = {word and word.lower(): file for word, file in images.items()}
        if len(keys) == len(by_word) == 1 and None in (*keys, *by_word):  # the one channel need not be named everywhere
            by_word = {keys[0]: next(iter(by_word.values()))}
        lacking = [str(word) for word, key in zip(words, keys, strict=True) if key not in by_word]
        extra = [key for key in by_word if key not in keys]
        if lacking or extra:
            there = ", ".join(map(str, images.values()))
            what = f"lacks channel {', '.join(lacking)}" if lacking else f"has {len(extra)} channel(s) too many"
            bad[f"{prefix}{name}"] = f"{what} (found {there})"
            continue
        label = matched.labels.get(name)
        files = tuple(ImageFile(by_word[key].path) for key in keys)
        cases.append(SourceCase(name, files, LabelFiles((label.path,)) if label is not None else None))
    return cases
