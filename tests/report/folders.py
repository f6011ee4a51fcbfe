"""Small prediction and benchmark folders, made by the functions that make real ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffatlas_pipeline.benchmark.paper_table import write_tables
from diffatlas_pipeline.benchmark.record import DONE, FAILED, Cell
from diffatlas_pipeline.evaluation.evaluate import evaluate_folders
from diffatlas_pipeline.evaluation.overlays import write_overlays
from diffatlas_pipeline.files import to_json
from diffatlas_pipeline.volumes.io import write_labels, write_scalars
from tests.benchmark.content import ASKED, make_cell
from tests.factories import make_case

LABELS = {"background": 0, "front": 1, "back": 2}
REASON = "out of memory at batch 3 & <more>"


def write_dataset(folder: Path, names: Sequence[str]) -> Path:
    """A raw data set with test scans and references; returns its folder."""
    for seed, name in enumerate(names):
        image, labels = make_case((28, 36, 26), seed=seed)
        write_scalars(folder / "imagesTs" / f"{name}_0000.nii.gz", image.array[0], image.grid)
        write_labels(folder / "labelsTs" / f"{name}.nii.gz", labels.array, labels.grid)
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    return folder


def write_predictions(folder: Path, names: Sequence[str], shift: int = 1, uncertainty: bool = False) -> Path:
    """Segmentations of the scans of :func:`write_dataset`, the i-th one moved by ``i * shift`` voxels; returns the
    folder.
    """
    for seed, name in enumerate(names):
        _, labels = make_case((28, 36, 26), seed=seed)
        moved = np.roll(labels.array, seed * shift, axis=1)
        write_labels(folder / f"{name}.nii.gz", moved, labels.grid)
        if uncertainty:
            errors = 0.5 * (moved > 0) * np.linspace(0, 1, moved.shape[0])[:, None, None]
            write_scalars(folder / "uncertainty" / f"{name}.nii.gz", errors, labels.grid)
    record = {
        "dataset": "Dataset001_Ellipsoids",
        "labels": LABELS,
        "settings": {"name": "default", "steps": 2, "draws": 4},
        "cases": {name: {"status": "segmented", "seconds": {"sample": 0.5}, "warnings": []} for name in names},
    }
    (folder / "prediction.json").write_text(json.dumps(record))
    return folder


def write_many(folder: Path, count: int) -> tuple[Path, Path]:
    """Tiny scans in their hundreds, with segmentations and uncertainty; returns the predictions and the references."""
    dataset, predictions = folder / "raw", folder / "predictions"
    for seed in range(count):
        image, labels = make_case((12, 14, 10), seed=seed)
        name, moved = f"case{seed:03d}", np.roll(labels.array, seed % 3, axis=1)
        write_scalars(dataset / "imagesTs" / f"{name}_0000.nii.gz", image.array[0], image.grid)
        write_labels(dataset / "labelsTs" / f"{name}.nii.gz", labels.array, labels.grid)
        write_labels(predictions / f"{name}.nii.gz", moved, labels.grid)
        write_scalars(predictions / "uncertainty" / f"{name}.nii.gz", 0.5 * (moved > 0), labels.grid)
    (dataset / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    return predictions, dataset / "labelsTs"


def write_log(folder: Path) -> None:
    """A training log of five rows, the last one with a validation."""
    folder.mkdir(parents=True)
    lines = ["iteration,seconds,learning_rate,loss,dice_front,dice_back"]
    lines += [f"{10 * part},{60 * part},0.001,{1 / part:.4f},{'0.8,0.7' if part == 5 else ','}" for part in range(1, 6)]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")


def write_benchmark(folder: Path, names: Sequence[str]) -> Path:
    """Two methods in one setting with two seeds, one cell failed and one waiting; returns the folder."""
    dataset = write_dataset(folder / "raw" / "Dataset001_Ellipsoids", names)
    cells: list[Cell] = []
    for method, seed, shift in (("diffatlas", 0, 1), ("diffatlas", 1, 1), ("icf", 0, 2)):
        done = {"status": DONE, "train_seconds": 300.0, "seconds_per_case": 0.4}
        cell = replace(make_cell(method=method, seed=seed), **done)
        write_predictions(folder / cell.predictions, names, shift)
        evaluation = evaluate_folders(folder / cell.predictions, dataset / "labelsTs")
        evaluation.write(folder / cell.evaluation)
        if seed == 0:
            write_overlays(evaluation, folder / cell.evaluation, dataset / "imagesTs")
        write_log(folder / cell.model)
        cells.append(cell)
    cells.append(replace(make_cell(method="icf", seed=1), status=FAILED, message=REASON))
    cells.append(make_cell(method="rba"))
    told = {"dataset": dataset.name, "labels": ("front", "back"), "methods": ("diffatlas", "icf", "rba"), "seeds": (0, 1)}
    benchmark = replace(ASKED, cells=tuple(cells), **told)
    (folder / "benchmark.json").write_text(to_json(benchmark))
    write_tables(folder, benchmark)
    return folder
