"""What the heart data sets share: five labels, the choice of test and few-shot cases, and how one case is written.

Names and values of the labels are the same in all of them, and in the phantom, so that a model trained on one data set
can be tested on another.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from dataset_conversion.case_files import has_mark
from dataset_conversion.phantom_anatomy import LABELS
from dataset_conversion.raw_layout import (
    FOLDERS,
    LayoutDescription,
    check_leftovers,
    for_each_case,
    image_name,
    make_folders,
    place_file,
    raise_bad_cases,
    with_temporary,
    write_description,
)
from diffatlas_pipeline.datasets.splits import SHOT_SEEDS, SHOTS, few_shot_name
from diffatlas_pipeline.errors import DatasetError, UserError
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.volumes import nifti
from diffatlas_pipeline.volumes.grids import Grid

FILE_ENDINGS = (".nii.gz", ".nii")
TEST_FRACTION = 0.2  # the paper's split, section 3.1
MOST_VALIDATION_CASES = 8  # of a few-shot split: each costs time after training, and none of them chooses anything
_FEW_SHOT_NAME = re.compile(r"\d+-shot(-seed\d+)?")
_VERSION = 1  # part of every mark: raise it when the same sources give other files


@dataclass(frozen=True)
class HeartCase:
    """Where a case comes from: its image, and the file or files that its labels are made of."""

    image: Path
    labels: tuple[Path, ...]


@dataclass(frozen=True)
class HeartOptions:
    """What a user can choose. Raises UserError for numbers that cannot be."""

    test_fraction: float = TEST_FRACTION  # of the cases, 0 to below 1
    test_cases: Sequence[str] | None = None  # None: drawn
    seed: int = 0  # of the test cases and the few-shot splits
    exclude: Sequence[str] = ()  # cases that are left out
    crop_margin_mm: float | None = None  # around the labels' box; None: whole scans
    copy: bool = False  # else hard links, where the file system allows
    workers: int = 1
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.test_fraction < 1:
            raise UserError(f"`test_fraction` {self.test_fraction:g}: give a number from 0 to below 1.")
        if self.crop_margin_mm is not None and not 0 <= self.crop_margin_mm < np.inf:
            raise UserError(f"`crop_margin_mm` {self.crop_margin_mm:g}: give 0 or more millimetres.")


# ------------------------------------------------------------------------------------------------------ choice of cases
def shuffled(cases: Sequence[str], key: str) -> list[str]:
    """``cases`` in an order that depends on their names and ``key`` alone: adding a case does not disturb the
    others.
    """
    return sorted(cases, key=lambda case: hashlib.sha256(f"{key}:{case}".encode()).digest())


def choose_test(cases: Sequence[str], options: HeartOptions, folder: Path) -> list[str]:
    """The test cases: those of ``options.test_cases``, else a fraction of ``cases`` drawn with the seed.

    At least one case is left for training. Raises DatasetError for a named case that ``folder`` does not hold.
    """
    if options.test_cases is None:
        count = min(round(options.test_fraction * len(cases)), len(cases) - 1)
        return sorted(shuffled(cases, f"test:{options.seed}")[:count])
    unknown = [case for case in options.test_cases if case not in cases]
    if unknown:
        raise DatasetError(
            f"{folder}: {len(unknown)} test case(s) are not among its {len(cases)} cases: {some(unknown)}. Correct the list."
        )
    if len(set(options.test_cases)) == len(cases):
        raise DatasetError(f"{folder}: all {len(cases)} cases are test cases. Leave at least one for training.")
    return sorted(set(options.test_cases))


def check_excluded(exclude: Sequence[str], cases: Collection[str], folder: Path) -> None:
    """Raise DatasetError if ``exclude`` names a case that is not among ``cases`` of ``folder``, or all of them."""
    unknown = [case for case in exclude if case not in cases]
    if unknown:
        raise DatasetError(f"`exclude`: {folder} holds no case {some(unknown)}. Its cases are named like {min(cases)}.")
    if set(exclude) == set(cases):
        raise DatasetError(f"`exclude`: no case of {folder} is left. Name fewer.")


def some(names: Sequence[str]) -> str:
    """The first few of ``names``, for a message."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def few_shot_splits(training: Sequence[str], seed: int) -> dict[str, dict[str, list[str]]]:
    """Few-shot splits by name: ``2-shot``, ``4-shot`` ... for seed 0, ``2-shot-seed1`` ... for the others.

    With one seed, fewer shots are a subset of more, and all have the same validation cases: a fifth of ``training``, at
    most eight. Left out are those that ``training`` is too small for.
    """
    splits = {}
    for draw in SHOT_SEEDS:
        order = shuffled(training, f"few-shot:{seed}:{draw}")
        held_out = min(MOST_VALIDATION_CASES, max(1, round(len(order) / 5)))
        for shots in SHOTS:
            if shots + held_out <= len(order):
                splits[few_shot_name(shots, draw)] = {"train": sorted(order[:shots]), "validation": sorted(order[-held_out:])}
    return splits


def write_few_shot_splits(path: Path, splits: Mapping[str, Any]) -> None:
    """Write ``splits`` into a raw data set's ``splits.json``. Splits of other names that are there already are kept."""
    found: dict[str, Any] = {}
    if path.is_file():
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise DatasetError(f"{path}: cannot be read as JSON ({error}). Correct or remove it.") from error
    content = {**{name: split for name, split in found.items() if not _FEW_SHOT_NAME.fullmatch(name)}, **splits}
    if not content:
        path.unlink(missing_ok=True)
    elif content != found:
        write_text_atomically(path, json.dumps(content, indent=2) + "\n")


# ------------------------------------------------------------------------------------------------------------- one case
def mark_of(case: HeartCase, margin_mm: float | None) -> str:
    """What a case's files are made from, in a short text that is kept in their headers: sources by size and time,
    settings.
    """
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in (case.image, *case.labels)]
    return "DiffAtlas_convert " + hashlib.sha256(repr((_VERSION, stats, margin_mm)).encode()).hexdigest()[:24]


def write_case(
    name: str,
    case: HeartCase,
    folder: Path,
    part: str,
    read_labels: Callable[[HeartCase, Grid], np.ndarray],
    options: HeartOptions,
) -> None:
    """Write image and label file of one case, whole or cropped to the heart; nothing is done if they are there already.

    ``read_labels(case, grid)`` gives the labels (X, Y, Z) uint8 on the image's grid. The image is read once, so that a
    damaged one is found here. Raises DatasetError or ImageError.
    """
    ending = ending_of(case.image)
    margin_mm, mark = options.crop_margin_mm, mark_of(case, options.crop_margin_mm)
    image_path = folder / f"images{part}" / image_name(name, 0, ending)
    label_path = folder / f"labels{part}" / (name + ending)
    if has_mark(label_path, mark) and (margin_mm is None or has_mark(image_path, mark)):  # labels are written last
        if margin_mm is None:
            place_file(case.image, image_path, options.copy)
        return
    values, grid = nifti.read(case.image)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DatasetError(f"{case.image}: holds voxels that are NaN or infinite")
    box = (slice(None),) * 3
    if margin_mm is None:
        del values  # a large scan and its labels need not be in memory together
        labels = read_labels(case, grid)
    else:
        labels = read_labels(case, grid)
        box = heart_box(labels, grid, margin_mm)
    if not labels.any():
        raise DatasetError(f"{case.labels[0]}: holds none of the structures {', '.join(LABELS)}")
    like = nib.load(case.image)
    if margin_mm is None:
        place_file(case.image, image_path, options.copy)
    else:
        with_temporary(image_path, _nifti(values[box], like, box, mark).to_filename)
    with_temporary(label_path, _nifti(labels[box], like, box, mark).to_filename)


def heart_box(labels: np.ndarray, grid: Grid, margin_mm: float) -> tuple[slice, slice, slice]:
    """The box of all labelled voxels with at least ``margin_mm`` around it, within the volume; the whole volume if none
    is.
    """
    box = []
    for axis, (count, spacing_mm) in enumerate(zip(grid.shape, grid.spacing_mm, strict=True)):
        found = np.flatnonzero(labels.any(axis=tuple(other for other in range(3) if other != axis)))
        if not found.size:
            return slice(None), slice(None), slice(None)
        margin = int(np.ceil(margin_mm / spacing_mm))
        box.append(slice(max(0, int(found[0]) - margin), min(count, int(found[-1]) + 1 + margin)))
    return box[0], box[1], box[2]


def _nifti(values: np.ndarray, like: Any, box: tuple[slice, ...], mark: str) -> Any:
    """A NIfTI image of ``values`` on the part ``box`` of the grid of ``like``; float64 (scaled values) becomes
    float32.
    """
    if values.dtype == np.float64:
        values = values.astype(np.float32)
    header = like.header.copy()
    header.set_data_dtype(values.dtype)
    header.set_slope_inter(1, 0)
    for field in ("cal_min", "cal_max"):
        header[field] = 0
    header["descrip"], header["aux_file"] = mark.encode(), b""
    start = [part.start or 0 for part in box]
    if not any(start):
        return type(like)(values, like.affine, header)
    affine = like.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    image = type(like)(values, affine, header)
    image.set_sform(affine, code=int(like.header["sform_code"]) or 1)
    image.set_qform(affine, code=int(like.header["qform_code"]))
    return image


def ending_of(path: Path) -> str:
    """``.nii.gz`` or ``.nii``."""
    return next(ending for ending in FILE_ENDINGS if path.name.endswith(ending))


# -------------------------------------------------------------------------------------------------------- the data set
def write_heart_dataset(
    folder: Path,
    title: str,
    cases: Mapping[str, HeartCase],
    test: Sequence[str],
    channel: str,
    read_labels: Callable[[HeartCase, Grid], np.ndarray],
    options: HeartOptions,
    notes: Mapping[str, Any],
    bad: Mapping[str, str],
) -> None:
    """Write ``cases`` (those of ``test`` with labels in ``labelsTs``), the few-shot splits, and ``dataset.json`` last.

    Cases found ``bad`` before are listed with those found bad here, after all others are written. Raises DatasetError.
    """
    parts = {case: "Ts" if case in set(test) else "Tr" for case in cases}
    endings = {ending_of(case.image) for case in cases.values()}
    if len(endings) != 1:
        raise DatasetError(f"{title}: images end in {' and '.join(sorted(endings))}. Bring all to one ending.")
    if "Tr" not in parts.values():
        raise DatasetError(f"{title}: all {len(cases)} cases are test cases. Choose another split.")
    ending = endings.pop()
    expected: dict[str, set[str]] = {part: set() for part in FOLDERS}
    for case, part in parts.items():
        expected[f"images{part}"].add(image_name(case, 0, ending))
        expected[f"labels{part}"].add(case + ending)
    check_leftovers(folder, expected, options.overwrite)
    make_folders(folder, [part for part, names in expected.items() if names])
    _forget_other_conversion(folder / "dataset.json", notes)
    jobs = [(name, case, folder, parts[name], read_labels, options) for name, case in cases.items()]
    found = for_each_case(write_case, jobs, options.workers, "Converting")
    remedy = "Mend these cases, or leave them out with `exclude`, then run the same command again."
    raise_bad_cases({**bad, **found}, folder, remedy)
    training = [case for case, part in parts.items() if part == "Tr"]
    # Without test cases the planned splits are right: they keep fold0's validation cases apart, which then test all.
    splits = few_shot_splits(training, options.seed) if len(training) < len(parts) else {}
    write_few_shot_splits(folder / "splits.json", splits)
    write_description(folder, title, len(training), LayoutDescription((channel,), LABELS, ending, notes))


def _forget_other_conversion(path: Path, notes: Mapping[str, Any]) -> None:
    """Remove a ``dataset.json`` that describes a conversion with other settings: its folder is no longer complete."""
    if not path.is_file():
        return
    try:
        same = json.loads(path.read_text(encoding="utf-8")).get("conversion") == notes["conversion"]
    except (ValueError, AttributeError):
        same = False
    if not same:
        path.unlink()


def conversion_notes(options: HeartOptions, **settings: Any) -> dict[str, Any]:
    """The settings that decide what a data set holds, for its ``dataset.json``."""
    drawn = {"test_fraction": options.test_fraction} if options.test_cases is None else {"test": sorted(options.test_cases)}
    own = {"seed": options.seed, "excluded": sorted(options.exclude), "crop_margin_mm": options.crop_margin_mm}
    return {"version": _VERSION, **settings, **drawn, **own}
