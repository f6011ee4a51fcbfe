"""MM-WHS 2017 (Multi-Modality Whole Heart Segmentation): its labelled CT or MRI scans to the raw layout.

``ct_train_1001_image.nii.gz`` with ``ct_train_1001_label.nii.gz``, and ``mr_train_...`` alike, in ``ct_train`` and
``mr_train`` or all in one folder. CT and MRI become two data sets with the same labels. Images are linked; labels are
renumbered.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from dataset_conversion.heart import (
    LABELS,
    HeartCase,
    HeartOptions,
    check_excluded,
    choose_test,
    conversion_notes,
    ending_of,
    write_heart_dataset,
)
from dataset_conversion.raw_layout import dataset_folder
from diffatlas_pipeline.errors import DatasetError, UserError
from diffatlas_pipeline.volumes.grids import Grid, grid_difference
from diffatlas_pipeline.volumes.io import read_labels

PREFIXES = {"CT": "ct_train", "MRI": "mr_train"}
# 421 is a stray value beside 420 in a published label file; 820 and 850 are the great vessels, which the paper leaves
# out.
VALUES = {
    0: 0,
    205: LABELS["Myo"],
    420: LABELS["LA"],
    421: LABELS["LA"],
    500: LABELS["LV"],
    550: LABELS["RA"],
    600: LABELS["RV"],
    820: 0,
    850: 0,
}
_FILE = re.compile(r"((?:ct|mr)_train_\d+)_(image|label)(?:\.nii\.gz|\.nii)")
_UNKNOWN = 255
_SLICES = 16  # renumbered at a time, so that no second array of the volume's size is needed
NOTES = {
    "description": "MM-WHS 2017: myocardium of the left ventricle and the four chambers",
    "reference": "Zhuang et al., Evaluation of algorithms for Multi-Modality Whole Heart Segmentation, MedIA 2019",
}


def find_cases(folder: Path, modality: str) -> tuple[dict[str, HeartCase], dict[str, str]]:
    """Labelled cases of ``modality`` (CT or MRI) in ``folder`` or up to two folders below it, and what is wrong with
    others.

    Raises DatasetError if ``folder`` is missing, holds none, or holds a file twice.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder. Give the unpacked MM-WHS folder with `source`.")
    files: dict[str, dict[str, Path]] = {}
    for pattern in ("*", "*/*", "*/*/*"):
        for path in sorted(folder.glob(pattern)):
            match = _FILE.fullmatch(path.name)
            if match:
                case, kind = match.groups()
                other = files.setdefault(case, {}).setdefault(kind, path)
                if other != path:
                    raise DatasetError(f"{folder}: holds the {kind} of {case} twice, {other} and {path}. Remove one of them.")
    chosen = {case: kinds for case, kinds in files.items() if case.startswith(PREFIXES[modality])}
    if not chosen:
        raise DatasetError(
            f"{folder}: holds no {PREFIXES[modality]}_1001_image.nii.gz or the like (found: {len(files)} cases of the other "
            f"modality). Give the unpacked MM-WHS folder with its {PREFIXES[modality]} files with `source`."
        )
    bad = {
        case: f"no file {case}_{kind}{ending_of(path)} beside {path}"
        for case, kinds in chosen.items()
        for kind, path in (("image", kinds.get("label")), ("label", kinds.get("image")))
        if path is not None and kind not in kinds
    }
    cases = {case: HeartCase(kinds["image"], (kinds["label"],)) for case, kinds in chosen.items() if case not in bad}
    return cases, bad


def read_case_labels(case: HeartCase, grid: Grid) -> np.ndarray:
    """The labels (X, Y, Z) uint8 of a case, numbered as in LABELS. Raises DatasetError if they are not on ``grid``."""
    (path,) = case.labels
    volume = read_labels(path)
    difference = grid_difference(grid, volume.grid)
    if difference:
        raise DatasetError(f"{path}: not on its image's grid ({difference})")
    return renumbered(volume.array, path)


def renumbered(labels: np.ndarray, path: Path) -> np.ndarray:
    """MM-WHS ``labels`` (X, Y, Z) numbered as in LABELS, uint8. Raises DatasetError for a value that is not in
    VALUES.
    """
    table = np.full(max(VALUES) + 2, _UNKNOWN, np.uint8)
    table[list(VALUES)] = list(VALUES.values())
    result = np.empty(labels.shape, np.uint8, order="F")
    unknown: set[int] = set()
    for start in range(0, labels.shape[2], _SLICES):
        slab = labels[..., start : start + _SLICES].astype(np.int64)
        inside = (slab >= 0) & (slab <= max(VALUES))
        part = table[np.where(inside, slab, max(VALUES) + 1)]
        unknown.update(int(value) for value in np.unique(slab[part == _UNKNOWN]))
        result[..., start : start + _SLICES] = part
    if unknown:
        found = ", ".join(str(value) for value in sorted(unknown)[:5])
        raise DatasetError(f"{path}: holds label value {found}; known are {', '.join(str(value) for value in VALUES)}")
    return result


def convert_mmwhs(
    source: Path,
    raw_folder: Path,
    dataset_id: int,
    *,
    modality: str,
    name: str | None = None,
    options: HeartOptions | None = None,
) -> Path:
    """Convert the scans of one modality, CT or MRI; returns the raw data set's folder.

    ``options`` None: the defaults. Raises DatasetError; one that lists every case that is incomplete, damaged, on two
    grids or has an unknown label value.
    """
    options = options or HeartOptions()
    if modality not in PREFIXES:
        raise UserError(f"`modality` {modality}: must be one of {', '.join(PREFIXES)}.")
    cases, bad = find_cases(source, modality)
    check_excluded(options.exclude, {*cases, *bad}, source)
    cases = {case: files for case, files in cases.items() if case not in options.exclude}
    bad = {case: problem for case, problem in bad.items() if case not in options.exclude}
    if not cases:
        raise DatasetError(f"{source}: no case has both files: {'; '.join(list(bad.values())[:3])}. Download it again.")
    folder = dataset_folder(raw_folder, dataset_id, name or f"MMWHS{modality}")
    test = choose_test([*cases, *bad], options, source)
    notes = {**NOTES, "conversion": conversion_notes(options, source="MM-WHS", modality=modality)}
    write_heart_dataset(folder, f"MM-WHS {modality}", cases, test, modality, read_case_labels, options, notes, bad)
    return folder
