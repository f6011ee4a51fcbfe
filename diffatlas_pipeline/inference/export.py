"""What prediction leaves in the output folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffatlas_pipeline.datasets.cases import list_cases
from diffatlas_pipeline.datasets.description import CaseFiles, LabelClass
from diffatlas_pipeline.errors import ImageError, UserError
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.inference.predictor import Result
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import FILE_ENDINGS, write_labels, write_scalars

RECORD = "prediction.json"
DISTANCES, UNCERTAINTY = "distance_maps", "uncertainty"


def find_cases(source: Path, channels: int) -> list[CaseFiles]:
    """The cases of a folder, or the one case of a single file. ImageError names what is missing."""
    if not source.is_file():
        return list_cases(source, None, channels)
    ending = ending_of(source)
    if ending is None:
        raise ImageError(f"{source}: not an image. Allowed endings are {', '.join(FILE_ENDINGS)}.")
    if channels != 1:
        raise ImageError(f"{source}: one file, but the model needs {channels} channels. Give a folder with all of them.")
    name = source.name[: -len(ending)]
    return [CaseFiles(name.removesuffix("_0000"), (source,), None)]


def label_path(folder: Path, files: CaseFiles, dataset_ending: str) -> Path:
    """``folder/case.ext``: the ending of the input, so that it fits beside it; for DICOM that of the data set."""
    return folder / f"{files.case}{ending_of(files.images[0]) or dataset_ending}"


def ending_of(path: Path) -> str | None:
    """The file ending that images may have, None for anything else (such as a DICOM folder)."""
    return None if path.is_dir() else next((ending for ending in FILE_ENDINGS if path.name.endswith(ending)), None)


def check_output(folder: Path, cases: Sequence[CaseFiles], dataset_ending: str) -> None:
    """UserError if ``folder`` cannot be written or a segmentation would replace an input image."""
    inputs = {image.resolve() for files in cases for image in files.images}
    for files in cases:
        path = label_path(folder, files, dataset_ending)
        if path.resolve() in inputs:
            raise UserError(f"{path}: would replace an input image. Give another folder with -o.")
    probe = folder / f".{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}). Give another folder with -o.") from error


def write_result(
    folder: Path, files: CaseFiles, dataset_ending: str, result: Result, grid: Grid, labels: Sequence[LabelClass]
) -> None:
    """Write the labels last, so that a case whose label file is there is complete. ImageError if a file cannot be written.

    Labels have the smallest integer type that holds their values, on exactly the input's grid. Distance maps go to
    ``distance_maps/case_<label>.ext`` and the uncertainty to ``uncertainty/case.ext``, float32 in mm.
    """
    path = label_path(folder, files, dataset_ending)
    like = files.images[0]
    if result.distances_mm is not None:
        ending = path.name[len(files.case) :]
        for label, distances in zip(labels, result.distances_mm, strict=True):
            write_scalars(folder / DISTANCES / f"{files.case}_{_safe(label.name)}{ending}", distances, grid, like)
    if result.uncertainty_mm is not None:
        write_scalars(folder / UNCERTAINTY / path.name, result.uncertainty_mm, grid, like)
    write_labels(path, result.labels, grid, like)


def read_record(folder: Path) -> dict[str, Any]:
    """What an earlier run wrote to ``prediction.json``, {} if there is none that can be read."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_record(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write ``prediction.json``: model, settings, versions, and per case what became of it and the seconds it took."""
    path = folder / RECORD
    try:
        write_text_atomically(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}). Give another folder with -o.") from error
    return path


def _safe(name: str) -> str:
    """A label's name as part of a file name."""
    return re.sub(r"[^\w-]+", "_", name)
