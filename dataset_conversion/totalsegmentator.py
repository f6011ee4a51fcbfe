"""TotalSegmentator's CT data set, versions 1 and 2: its whole hearts to the raw layout, with the five labels of MM-WHS.

``s0000/ct.nii.gz`` with ``s0000/segmentations/heart_myocardium.nii.gz`` and four more masks, and ``meta.csv`` (with
``;``). The published labels of version 2 hold the heart as one structure; its chambers come from TotalSegmentator's own
task ``heartchambers_highres``, written into a folder of each case.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion.heart import (
    LABELS,
    HeartCase,
    HeartOptions,
    check_excluded,
    choose_test,
    conversion_notes,
    mark_of,
    some,
    write_heart_dataset,
)
from dataset_conversion.raw_layout import dataset_folder, for_each_case, make_folders
from diffatlas_pipeline import console
from diffatlas_pipeline.errors import DatasetError, UserError
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.volumes.grids import Grid, grid_difference
from diffatlas_pipeline.volumes.io import read_grid, read_labels

MASKS = {
    "Myo": "heart_myocardium",
    "LV": "heart_ventricle_left",
    "LA": "heart_atrium_left",
    "RA": "heart_atrium_right",
    "RV": "heart_ventricle_right",
}
MINIMUM_ML = 10.0  # an adult's chambers hold 30 ml and more: what is smaller is cut off by the field of view, or no heart
SELECTION = "selection.json"
_CASE = re.compile(r"s\d{4}")
NOTES = {
    "description": "TotalSegmentator CT: myocardium of the left ventricle and the four chambers",
    "reference": "Wasserthal et al., TotalSegmentator, Radiology: Artificial Intelligence 2023",
}


def find_cases(folder: Path, masks: str) -> tuple[dict[str, HeartCase], dict[str, str], list[str]]:
    """Cases with all five masks in their folder ``masks``, what is wrong with others, and those that have no heart mask
    at all.

    Raises DatasetError if ``folder`` is missing or holds no case, or if no case has a mask.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder. Give the unpacked Totalsegmentator_dataset folder with `source`.")
    cases: dict[str, HeartCase] = {}
    bad: dict[str, str] = {}
    without: list[str] = []
    for path in sorted(path for path in folder.iterdir() if _CASE.fullmatch(path.name) and path.is_dir()):
        image, files = path / "ct.nii.gz", [path / masks / f"{MASKS[label]}.nii.gz" for label in LABELS]
        missing = [file for file in (image, *files) if not file.is_file()]
        if not image.is_file():
            bad[path.name] = f"no file {image}"
        elif len(missing) == len(files):
            without.append(path.name)
        elif missing:
            bad[path.name] = f"no file {some([str(file) for file in missing])}"
        else:
            cases[path.name] = HeartCase(image, tuple(files))
    if not (cases or bad or without):
        raise DatasetError(
            f"{folder}: holds no case, that is, no folder s0000, s0001 or the like with a ct.nii.gz. "
            "Give the unpacked Totalsegmentator_dataset folder with `source`."
        )
    if without and not (cases or bad):
        raise DatasetError(
            f"{folder}: none of its {len(without)} cases has a mask {masks}/{MASKS['Myo']}.nii.gz. The published labels of "
            "version 2 hold no heart chambers: use version 1, or run TotalSegmentator's task heartchambers_highres on each "
            "ct.nii.gz into a folder of its case and give that folder's name with `masks`."
        )
    return cases, bad, without


def merged_masks(case: HeartCase, grid: Grid) -> tuple[np.ndarray, dict[str, float], int]:
    """Labels (X, Y, Z) uint8 of a case, the volume of each mask in ml, and how many voxels lie in two masks.

    Such a voxel gets the label with the higher number. Raises DatasetError for a mask that is not on ``grid`` or holds
    other values than 0 and 1.
    """
    labels = np.zeros(grid.shape, np.uint8, order="F")
    voxel_ml = abs(float(np.linalg.det(grid.matrix[:3, :3]))) / 1000
    volumes_ml: dict[str, float] = {}
    shared = 0
    for (label, value), path in zip(LABELS.items(), case.labels, strict=True):
        mask = read_labels(path)
        difference = grid_difference(grid, mask.grid)
        if difference:
            raise DatasetError(f"{path}: not on the grid of {case.image.name} ({difference})")
        low, high = int(mask.array.min()), int(mask.array.max())
        if low < 0 or high > 1:
            raise DatasetError(f"{path}: holds values from {low} to {high}; a mask holds 0 and 1 only")
        inside = mask.array > 0
        shared += int(np.count_nonzero(np.logical_and(labels, inside)))
        np.copyto(labels, value, where=inside)  # many times faster than indexing with a mask
        volumes_ml[label] = round(int(np.count_nonzero(inside)) * voxel_ml, 3)
    return labels, volumes_ml, shared


def read_case_labels(case: HeartCase, grid: Grid) -> np.ndarray:
    """The labels (X, Y, Z) uint8 of a case, numbered as in LABELS."""
    return merged_masks(case, grid)[0]


def _measure(name: str, case: HeartCase) -> dict[str, Any]:
    """What decides whether a case is taken, for selection.json."""
    _, volumes_ml, shared = merged_masks(case, read_grid(case.image))
    return {"mark": mark_of(case, None), "volumes_ml": volumes_ml, "voxels_in_two_masks": shared}


def select_hearts(
    cases: Mapping[str, HeartCase], minimum_ml: float, path: Path, workers: int
) -> tuple[dict[str, HeartCase], dict[str, str], dict[str, Any]]:
    """The cases whose five structures all have at least ``minimum_ml``, what is wrong with others, and a record of all.

    Cases that the record in ``path`` (selection.json) knows, and whose files have not changed, are not measured again.
    """
    known = _recorded(path)
    measured: dict[str, Any] = {}
    for name, case in cases.items():
        if known.get(name, {}).get("mark") == mark_of(case, None):
            measured[name] = known[name]
    jobs = [(name, case) for name, case in cases.items() if name not in measured]
    bad = for_each_case(_measure, jobs, workers, "Looking for whole hearts", measured) if jobs else {}
    record = {}
    for name in sorted(measured):
        small = [f"{label} {ml:g} ml" for label, ml in measured[name]["volumes_ml"].items() if ml < minimum_ml]
        record[name] = {**measured[name], "taken": not small, "too_small": small}
    return {name: cases[name] for name, entry in record.items() if entry["taken"]}, bad, record


def _recorded(path: Path) -> dict[str, Any]:
    """The cases of an earlier selection.json; none if there is none, or a damaged one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["cases"]
        return {name: entry for name, entry in found.items() if set(entry["volumes_ml"]) == set(LABELS)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def test_cases_of_meta(folder: Path, cases: Mapping[str, Any]) -> list[str]:
    """The ``cases`` that the column ``split`` of ``meta.csv`` calls test cases. Raises DatasetError."""
    path = folder / "meta.csv"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter=";"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: cannot be read ({error}). Leave out `split_from_meta`, or download it again.") from error
    if not rows or not {"image_id", "split"} <= set(rows[0]):
        found = ", ".join(map(str, rows[0])) if rows else "no row"
        raise DatasetError(f"{path}: needs columns image_id and split, separated by ';' (found: {found}).")
    split = {str(row["image_id"]): str(row["split"]) for row in rows}
    absent = [case for case in cases if case not in split]
    if absent:
        raise DatasetError(f"{path}: has no row for {some(absent)}. Leave these out with `exclude`, or add them.")
    unknown = sorted({split[case] for case in cases} - {"train", "val", "test"})
    if unknown:
        raise DatasetError(f"{path}: column split holds '{some(unknown)}'; known are train, val and test.")
    return [case for case in cases if split[case] == "test"]


def convert_totalsegmentator(
    source: Path,
    raw_folder: Path,
    dataset_id: int,
    *,
    name: str | None = None,
    masks: str = "segmentations",
    minimum_ml: float = MINIMUM_ML,
    split_from_meta: bool = False,
    options: HeartOptions | None = None,
) -> Path:
    """Convert the cases that hold a whole heart; returns the raw data set's folder.

    Raises DatasetError; one that lists every case that is incomplete, damaged or has a mask on another grid.
    """
    options = options or HeartOptions()
    if not 0 <= minimum_ml < np.inf:
        raise UserError(f"`minimum_ml` {minimum_ml:g}: give 0 or more millilitres.")
    if split_from_meta and options.test_cases is not None:
        raise UserError("`split_from_meta` and `test_cases` both choose the test cases. Give one of them.")
    cases, bad, without = find_cases(source, masks)
    check_excluded(options.exclude, {*cases, *bad, *without}, source)
    cases = {case: files for case, files in cases.items() if case not in options.exclude}
    bad = {case: problem for case, problem in bad.items() if case not in options.exclude}
    without = [case for case in without if case not in options.exclude]
    known = len(cases) + len(bad) + len(without)
    folder = dataset_folder(raw_folder, dataset_id, name or "TotalSegmentatorHeart")
    make_folders(folder, ["imagesTr"])
    hearts, unreadable, record = select_hearts(cases, minimum_ml, folder / SELECTION, options.workers)
    bad |= unreadable
    content = {"masks": masks, "minimum_ml": minimum_ml, "without_masks": without}
    text = json.dumps({**content, "cases": record}, indent=1) + "\n"
    if not ((folder / SELECTION).is_file() and (folder / SELECTION).read_text(encoding="utf-8") == text):
        write_text_atomically(folder / SELECTION, text)
    _tell(known, len(hearts), minimum_ml, record, folder / SELECTION)
    _tell_without_masks(known, without, masks)
    if not hearts:
        problems = f" {len(bad)} cannot be used: {'; '.join(f'{c}: {p}' for c, p in list(bad.items())[:3])}." if bad else ""
        raise DatasetError(
            f"{source}: none of {known} cases holds all five structures with {minimum_ml:g} ml each.{problems} "
            "Lower `minimum_ml`, or mend the masks."
        )
    test = test_cases_of_meta(source, hearts) if split_from_meta else choose_test(list(hearts), options, source)
    own = {"masks": masks, "minimum_ml": minimum_ml, "split_from_meta": split_from_meta}
    notes = {**NOTES, "conversion": conversion_notes(options, source="TotalSegmentator", **own)}
    write_heart_dataset(folder, "TotalSegmentator heart", hearts, test, "CT", read_case_labels, options, notes, bad)
    return folder


def _tell(known: int, hearts: int, minimum_ml: float, record: Mapping[str, Any], path: Path) -> None:
    console.say(
        f"{hearts} of {known} cases hold all five structures with at least {minimum_ml:g} ml each; {path} tells about each."
    )
    shared = [name for name, entry in record.items() if entry["taken"] and entry["voxels_in_two_masks"]]
    if shared:
        order = ", ".join(LABELS)
        console.say(f"{len(shared)} of them have voxels in two masks ({some(shared)}). There the later one of {order} holds.")


def _tell_without_masks(known: int, without: Sequence[str], masks: str) -> None:
    """Masks that are still to be made and scans without a heart look the same here: only the user can tell them
    apart.
    """
    if without:
        console.say(
            f"{len(without)} of {known} cases have none of the five masks in their folder {masks} ({some(without)}). They are "
            "left out. If the masks are still to be made, for example after an interrupted run, make them and run the same "
            "command again with `overwrite`."
        )
