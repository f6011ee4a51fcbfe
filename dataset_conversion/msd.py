"""Medical Segmentation Decathlon: TaskNN_Name/{imagesTr, labelsTr, imagesTs, dataset.json} to the raw layout.

Three-dimensional images are linked (or copied) under the name of channel 0; four-dimensional ones are split into one
file per channel. Labels are linked unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import nibabel as nib
import numpy as np

from dataset_conversion.raw_layout import (
    LayoutDescription,
    check_leftovers,
    dataset_folder,
    for_each_case,
    image_name,
    make_folders,
    place_file,
    raise_bad_cases,
    with_temporary,
    write_description,
)
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
        raise DatasetError(f"{path}: no such file. Give the unpacked TaskNN_Name folder of the Decathlon with `source`.")
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
    raise DatasetError(f"{path}: '{name}' ends in neither {' nor '.join(_ENDINGS)}.")


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
    copy: bool = False,
    workers: int = 1,
    overwrite: bool = False,
) -> Path:
    """Convert a Decathlon task; returns the raw data set's folder.

    ``dataset_id`` None: the number in the name of ``source``, TaskNN_Name. ``training_cases`` None: all labelled
    cases that are not test cases. ``test_cases`` None: the task's own test images. Cases named here may come from the
    labelled ones, and then their labels go to ``labelsTs``. Raises DatasetError that lists every case that is missing,
    damaged or of the wrong shape.
    """
    number = _task_number(source) if dataset_id is None else dataset_id
    task = read_source(source)
    training, test = _choose(task, training_cases, test_cases)
    folder = dataset_folder(raw_folder, number, name or re.sub(r"[^A-Za-z0-9_-]+", "_", task.name).strip("_-"))
    ending, channels = task.file_ending, len(task.channels)

    jobs: list[tuple[Any, ...]] = []
    expected: dict[str, set[str]] = {part: set() for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs")}
    for part, cases in (("Tr", training), ("Ts", test)):
        for case in cases:
            image, label = task.training[case] if case in task.training else (task.test[case], None)
            jobs.append((case, image, label, folder, part, channels, ending, copy))
            expected[f"images{part}"] |= {image_name(case, channel, ending) for channel in range(channels)}
            expected[f"labels{part}"] |= {case + ending} if label else set()
    check_leftovers(folder, expected, overwrite)
    make_folders(folder, [part for part, names in expected.items() if names])
    raise_bad_cases(for_each_case(_convert_case, jobs, workers, "Converting"), folder)
    write_description(folder, task.name, len(training), LayoutDescription(task.channels, task.labels, ending, task.notes))
    return folder


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
            raise DatasetError(f"{source.folder / 'dataset.json'}: {len(unknown)} {what} not in its lists: {some}.")
        if len(set(cases)) != len(cases):
            raise DatasetError(f"The list of {what} names a case twice.")
    both = sorted(set(chosen) & set(chosen_test))
    if both:
        raise DatasetError(
            f"{len(both)} case(s) are both training and test cases: {', '.join(both[:5])}. Remove them from one list."
        )
    if not chosen:
        raise DatasetError(f"{source.folder}: no training cases are left. Choose some with `training_cases`.")
    return chosen, chosen_test


def _convert_case(
    case: str, image: Path, label: Path | None, folder: Path, part: str, channels: int, ending: str, copy: bool
) -> None:
    """Check and place one case. Raises DatasetError if a file is missing, damaged or of an unexpected shape."""
    scan = _open(image)
    shape = scan.shape
    found = shape[3] if len(shape) == 4 else 1
    if len(shape) not in (3, 4) or found != channels:
        raise DatasetError(f"{image}: shape {shape} does not hold the {channels} channel(s) that dataset.json names")
    if label is not None:
        label_shape = _open(label).shape
        if label_shape != shape[:3]:
            raise DatasetError(f"{label}: shape {label_shape} differs from its image's {shape[:3]}")
    targets = [folder / f"images{part}" / image_name(case, channel, ending) for channel in range(channels)]
    if len(shape) == 3:
        place_file(image, targets[0], copy)
    else:
        newest = image.stat().st_mtime_ns
        for channel, target in enumerate(targets):
            if not (target.is_file() and target.stat().st_mtime_ns >= newest):
                with_temporary(target, _channel(scan, channel).to_filename)
    if label is not None:
        place_file(label, folder / f"labels{part}" / (case + ending), copy)


def _open(path: Path) -> nib.Nifti1Image:
    """A NIfTI image whose whole content has been read once, so that a truncated file is found here and not during
    training.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    try:
        image = nib.load(path)
        np.asanyarray(image.dataobj)  # type: ignore[attr-defined]
    except Exception as error:  # nibabel, zlib and gzip each raise their own kinds
        raise DatasetError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error
    return image  # type: ignore[return-value]


def _channel(scan: nib.Nifti1Image, channel: int) -> nib.Nifti1Image:
    """One channel of a (X, Y, Z, C) image with its header; stored values that were scaled become float32."""
    data = np.asanyarray(scan.dataobj[..., channel])
    if data.dtype == np.float64:
        data = data.astype(np.float32)
    header = scan.header.copy()
    header.set_data_dtype(data.dtype)
    header.set_slope_inter(1, 0)
    return nib.Nifti1Image(data, scan.affine, header)
