"""Medical Segmentation Decathlon and nnU-Net v1: TaskNN_Name/{imagesTr, labelsTr, imagesTs, dataset.json} to the raw
layout.

In the Decathlon a case is one file: three-dimensional images are linked (or copied) under the name of channel 0;
four-dimensional ones are split into one file per channel. In nnU-Net v1 ``dataset.json`` lists ``case.nii.gz``, and the
files are ``case_0000.nii.gz`` and so on. Labels are linked unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dataset_conversion.labelled_cases import CaseOptions, Conversion, write_cases
from dataset_conversion.raw_layout import dataset_folder, image_name
from dataset_conversion.source_cases import ImageFile, LabelFiles, SourceCase
from diffatlas_pipeline import console
from diffatlas_pipeline.datasets.raw import listed
from diffatlas_pipeline.errors import DatasetError, UserError

_ENDINGS = (".nii.gz", ".nii")
_NOTES = ("description", "reference", "licence", "release")


@dataclass(frozen=True)
class Source:
    """What a Decathlon ``dataset.json`` says. ``training`` maps a case to (image, label), ``test`` to its image."""

    folder: Path
    name: str
    channels: tuple[str, ...]
    labels: Mapping[str, int]
    file_ending: str
    training: Mapping[str, tuple[Path, Path]]
    test: Mapping[str, Path]
    notes: Mapping[str, Any]


def read_source(folder: Path) -> Source:
    """Read a task's ``dataset.json``. Raises DatasetError if it is missing, damaged, or not of the Decathlon's form."""
    path = folder / "dataset.json"
    if not path.is_file():
        raise DatasetError(
            f"{path}: no such file. Give the unpacked TaskNN_Name folder of the Decathlon or of nnU-Net v1 with `source`."
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
        modality, labels, training = raw["modality"], raw["labels"], raw["training"]
        channels = tuple(str(modality[str(index)]) for index in range(len(modality)))
        pairs = [(str(item["image"]), str(item["label"])) for item in training]
        images = [str(item["image"] if isinstance(item, dict) else item) for item in raw.get("test", [])]
        values = {str(label): int(value) for value, label in labels.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path}: not a Decathlon dataset.json ({type(error).__name__}: {error}). Needed are modality, labels and training."
        ) from error
    if not channels:
        raise DatasetError(f'{path}: modality is empty. Write one name per channel, such as {{"0": "MRI"}}.')
    if len(values) != len(labels):
        raise DatasetError(f"{path}: two labels have the same name ({', '.join(map(str, labels.values()))}). Rename one.")
    endings = {_ending(name, path) for pair in pairs for name in pair} | {_ending(name, path) for name in images}
    if len(endings) != 1:
        raise DatasetError(
            f"{path}: image and label files end in {', '.join(sorted(endings)) or 'nothing'}; one ending is needed."
        )
    ending = endings.pop()
    foreground = {label: value for label, value in values.items() if value != 0}
    return Source(
        folder,
        str(raw.get("name") or re.sub(r"^Task\d+_", "", folder.name)),
        channels,
        foreground,
        ending,
        _unique(((_case(image, ending), (folder / image, folder / label)) for image, label in pairs), path),
        _unique(((_case(image, ending), folder / image) for image in images), path),
        {key: raw[key] for key in _NOTES if key in raw},
    )


def _ending(name: str, path: Path) -> str:
    for ending in _ENDINGS:
        if name.endswith(ending):
            return ending
    raise DatasetError(f"{path}: '{name}' ends in neither {' nor '.join(_ENDINGS)}. Export it so, or mend the name.")


def _case(name: str, ending: str) -> str:
    return PurePosixPath(name).name[: -len(ending)]


def _unique(items: Any, path: Path) -> dict[str, Any]:
    """A dict from pairs; DatasetError if a case is listed twice."""
    found: dict[str, Any] = {}
    for case, value in items:
        if case in found:
            raise DatasetError(f"{path}: case '{case}' is listed twice. Remove one entry.")
        found[case] = value
    return found


def convert_msd(
    source: Path,
    raw_folder: Path,
    dataset_id: int | None = None,
    *,
    name: str | None = None,
    training_cases: Sequence[str] | None = None,
    test_cases: Sequence[str] | None = None,
    options: CaseOptions | None = None,
) -> Path:
    """Convert a task of the Decathlon or of nnU-Net v1; returns the raw data set's folder.

    ``dataset_id`` None: the number in the name of ``source``, TaskNN_Name. ``training_cases`` None: all labelled
    cases that are not test cases. ``test_cases`` None: the task's own test images. Cases named here may come from the
    labelled ones, and then their labels go to ``labelsTs``. Raises DatasetError, before anything is written, that lists
    every case that is missing, damaged or of the wrong shape.
    """
    number = _task_number(source) if dataset_id is None else dataset_id
    task = read_source(source)
    training, test = _choose(task, training_cases, test_cases)
    folder = dataset_folder(raw_folder, number, name or re.sub(r"[^A-Za-z0-9_-]+", "_", task.name).strip("_-"))
    cases = [_source_case(task, case, part) for part, names in (("Tr", training), ("Ts", test)) for case in names]
    bad = {case.name: problem for case in cases if (problem := _too_many(task, case)) is not None}
    _say_unlisted(task)
    kept = [case for case in cases if case.name not in bad]
    conversion = Conversion("msd", source, task.name, task.channels, kept, bad, task.labels, notes=task.notes)
    write_cases(folder, conversion, options or CaseOptions())
    return folder


def _source_case(task: Source, case: str, part: str) -> SourceCase:
    """The files of a case: one image of all channels, as in the Decathlon, or one file per channel, as in nnU-Net v1.

    A test image has labels if they are in ``labelsTs``.
    """
    if case in task.training:
        image, label = task.training[case]
    else:
        image, label = task.test[case], task.folder / "labelsTs" / (case + task.file_ending)
    labels = LabelFiles((label,)) if case in task.training or label.is_file() else None
    count = len(task.channels)
    if not image.exists() and _channel_file(image, task, 0).exists():
        images = tuple(ImageFile(_channel_file(image, task, channel)) for channel in range(count))
    elif count > 1:
        images = tuple(ImageFile(image, channel, count) for channel in range(count))
    else:
        images = (ImageFile(image),)
    return SourceCase(case, images, labels, part == "Ts")


def _channel_file(image: Path, task: Source, channel: int) -> Path:
    """The file of one channel of the image that an nnU-Net v1 ``dataset.json`` lists without its channels."""
    return image.with_name(image_name(_case(image.name, task.file_ending), channel, task.file_ending))


def _too_many(task: Source, case: SourceCase) -> str | None:
    """What is wrong if a case has more channel files than ``dataset.json`` names."""
    listed_image = task.training[case.name][0] if case.name in task.training else task.test[case.name]
    extra = _channel_file(listed_image, task, len(task.channels))
    if listed_image.exists() or not extra.exists():
        return None
    return f"{extra}: is one channel too many; dataset.json names {len(task.channels)} in modality"


def _say_unlisted(task: Source) -> None:
    """Warn of files that no list in ``dataset.json`` names: they are not converted."""
    known = {path for pair in task.training.values() for path in pair} | set(task.test.values())
    stems = {path.parent / _case(path.name, task.file_ending) for path in known}
    unlisted = []
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        for path in sorted((task.folder / part).glob(f"[!.]*{task.file_ending}")):
            stem = path.parent / re.sub(r"_\d{4}$", "", _case(path.name, task.file_ending))
            if path not in known and stem not in stems:
                unlisted.append(f"{part}/{path.name}")
    if unlisted:
        console.warn(f"{task.folder}: dataset.json does not list {len(unlisted)} file(s), left out: {listed(unlisted)}")


def _task_number(folder: Path) -> int:
    match = re.match(r"Task(\d+)_", folder.name)
    if not match:
        raise UserError(f"{folder.name} does not begin with TaskNN_. Give the data set a number with `dataset_id`.")
    return int(match.group(1))


def _choose(source: Source, training: Sequence[str] | None, test: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Training and test cases, checked against what the source has and against each other."""
    chosen_test = list(source.test) if test is None else list(test)
    chosen = [case for case in source.training if case not in set(chosen_test)] if training is None else list(training)
    for cases, known, what in (
        (chosen, set(source.training), "training case(s)"),
        (chosen_test, set(source.training) | set(source.test), "test case(s)"),
    ):
        unknown = [case for case in cases if case not in known]
        if unknown:
            some = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
            raise DatasetError(
                f"{source.folder / 'dataset.json'}: {len(unknown)} {what} not in its lists: {some}. Correct the names that you "
                "gave, or its lists."
            )
        if len(set(cases)) != len(cases):
            raise DatasetError(f"The list of {what} names a case twice. Take one of them out.")
    both = sorted(set(chosen) & set(chosen_test))
    if both:
        raise DatasetError(
            f"{len(both)} case(s) are both training and test cases: {', '.join(both[:5])}. Remove them from one list."
        )
    if not chosen:
        raise DatasetError(f"{source.folder}: no training cases are left. Choose some with `training_cases`.")
    return chosen, chosen_test
