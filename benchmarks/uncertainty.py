"""Is what a model says of its errors true? Of test cases: intervals of volumes, and probabilities of errors.

A model is trained and calibrated on its validation cases as a user would. Of the test cases it is counted how often the
intervals hold the true volume, how well the probability of an error tells wrong voxels from right ones, and how far it
is from how often they are wrong. Beside it stands the spread of several draws of several steps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.stats import rankdata

from benchmarks.commands import add_places, do, main_of
from benchmarks.protocols import PROTOCOLS, fold_of, prepare
from benchmarks.raw_data import HEARTS
from benchmarks.record import RESULTS, append_row, machine
from diffatlas_pipeline.api.model import load_model
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.inference.volume_intervals import COVERAGES, volumes_ml
from diffatlas_pipeline.methods.base import DiffusionRecipe
from diffatlas_pipeline.methods.registry import recipe_of
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.volumes.io import read_labels, read_volume

NEAR_MM = 3.0  # of the segmentation's borders: further away hardly a voxel is wrong
BINS = np.linspace(0, 1, 11)
DRAWS, STEPS = 8, 4  # of the spread


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Compare what a model says of its errors with its errors in test cases.",
        epilog="example:\n  python -m benchmarks.uncertainty hippocampus --setting 4-shot --max-time 10m",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("protocol", choices=PROTOCOLS, nargs="?", default="hippocampus", help="(default: %(default)s)")
    made.add_argument("--setting", metavar="S", help="split that is learnt (default: 144-shot; hearts: fold0)")
    made.add_argument("--method", default="diffatlas", help="diffatlas, icf or icmd (default: %(default)s)")
    made.add_argument("--max-time", default="10m", metavar="TIME", help="time of the training (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="of the training (default: %(default)s)")
    add_places(made)
    made.add_argument(
        "--results", type=Path, default=RESULTS / "uncertainty.csv", metavar="FILE", help="(default: documentation/results/)"
    )
    return made


def run(
    protocol: str,
    setting: str | None,
    method: str,
    max_time: str,
    seed: int,
    workspace: Path,
    data: Path | None,
    results: Path,
) -> None:
    """Train, predict, compare, keep the row. UserError or CommandFailed if something is wrong."""
    split = setting or ("fold0" if protocol in HEARTS else "144-shot")
    prepared = prepare(protocol, data, workspace, [seed], [split])
    place = Workspace.resolve(workspace)
    words = [str(prepared.number), split, "--method", method, "--max-time", max_time, "--seed", str(seed)]
    do("train", [*words, *prepared.options, "--workspace", str(workspace)])
    raw = place.raw_dataset(str(prepared.number))
    model = ModelFolder(ModelFolder.location(place, raw.name, method, "default"))
    fold = fold_of(split, seed)
    out = workspace / "benchmarks" / f"uncertainty_{protocol}_{method}_{fold}"
    words = ["-i", str(raw / "imagesTs"), "-o", str(out), "-m", str(model.path), "-f", fold]
    do("predict", [*words, "--save-uncertainty", "--overwrite"])
    trained = model.metadata(fold)
    about = {"protocol": protocol, "setting": split, "method": method, "max_time": max_time, "seed": seed}
    about |= {"training_cases": len(trained["training_cases"]), "validation_cases": len(trained["validation_cases"])}
    about |= {"iterations": trained["iterations"], "test_cases": len(list((raw / "labelsTs").glob("*.nii.gz")))}
    append_row(results, machine() | about | of_volumes(raw / "labelsTs", out, model) | of_voxels(raw, out, model, fold))
    print(f"Added to {results}")


def of_volumes(truths: Path, out: Path, model: ModelFolder) -> dict[str, float]:
    """By coverage, the share of the true volumes that lie in their intervals, and the median width of these, relative
    to the volume found. Over all labels of all cases that have an interval; NaN without any.
    """
    classes = model.plan().dataset.labels
    told = json.loads((out / "prediction.json").read_text(encoding="utf-8"))["cases"]
    held: dict[str, list[bool]] = {f"{one:.0%}": [] for one in COVERAGES}
    widths: dict[str, list[float]] = {name: [] for name in held}
    for path in sorted(truths.glob("*.nii.gz")):
        truth = read_labels(path)
        true_ml = volumes_ml(truth.array, classes, truth.grid)
        for label, found in told[path.name.removesuffix(".nii.gz")]["volumes"].items():
            for coverage, (low, high) in found["intervals_ml"].items():
                held[coverage].append(low <= true_ml[label] <= high)
                widths[coverage].append((high - low) / found["volume_ml"])
    row = {f"held_{name}": round(float(np.mean(values)), 4) if values else np.nan for name, values in held.items()}
    row |= {f"width_{name}": round(float(np.median(values)), 4) if values else np.nan for name, values in widths.items()}
    return row | {"intervals": len(held["90%"])}


@dataclass
class Voxels:
    """What is said of the voxels of one case, and which of them are wrong; ``near`` are those near a border."""

    said: np.ndarray
    wrong: np.ndarray
    near: np.ndarray


def of_voxels(raw: Path, out: Path, model: ModelFolder, fold: str) -> dict[str, float]:
    """Areas under the ROC curve for errors, over all voxels and those near a border, means over cases; the expected
    calibration error over voxels near a border of all cases.
    """
    cases, drawn = [], []
    for path in sorted((raw / "labelsTs").glob("*.nii.gz")):
        truth, found = read_labels(path), read_labels(out / path.name).array
        near = _near(found, truth.grid.spacing_mm)
        said = read_volume((out / "uncertainty" / path.name,)).array[0]
        cases.append(Voxels(said, found != truth.array, near))
    row = _areas(cases, "probability") | {"calibration_error": round(calibration_error(cases), 4)}
    if not isinstance(recipe_of(model.plan(), model.method, model.recipe), DiffusionRecipe):
        return row
    several = [load_model(model, folds=[fold], steps=STEPS, seed=seed) for seed in range(DRAWS)]
    for case, path in zip(cases, sorted((raw / "labelsTs").glob("*.nii.gz")), strict=True):
        image = raw / "imagesTs" / path.name.replace(".nii.gz", "_0000.nii.gz")
        maps = [np.stack(list(one.segment(image).distances_mm.values())) for one in several]
        drawn.append(Voxels(np.std(maps, axis=0).max(axis=0), case.wrong, case.near))
    return row | _areas(drawn, "spread")


def _areas(cases: Sequence[Voxels], name: str) -> dict[str, float]:
    everywhere = [area_under_curve(case.said, case.wrong) for case in cases]
    near = [area_under_curve(case.said[case.near], case.wrong[case.near]) for case in cases]
    return {f"auc_{name}": round(float(np.nanmean(everywhere)), 4), f"auc_{name}_near": round(float(np.nanmean(near)), 4)}


def area_under_curve(said: np.ndarray, wrong: np.ndarray) -> float:
    """The share of pairs of a wrong and a right voxel of which more is ``said`` of the wrong one; NaN without pairs."""
    errors = int(wrong.sum())
    right = wrong.size - errors
    if not errors or not right:
        return float("nan")
    ranks = rankdata(said.ravel())[wrong.ravel()].sum()
    return float((ranks - errors * (errors + 1) / 2) / (errors * right))


def calibration_error(cases: Sequence[Voxels]) -> float:
    """The mean over voxels near a border of how far the share of errors in their tenth lies from what is said there."""
    said = np.concatenate([case.said[case.near] for case in cases])
    wrong = np.concatenate([case.wrong[case.near] for case in cases])
    tenth = np.digitize(said, BINS[1:-1])
    count = np.bincount(tenth, minlength=len(BINS) - 1)
    off = np.bincount(tenth, said, minlength=len(BINS) - 1) - np.bincount(tenth, wrong, minlength=len(BINS) - 1)
    return float(np.abs(off).sum() / max(1, count.sum()))


def _near(labels: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Voxels (X, Y, Z) within NEAR_MM of a border between any two labels."""
    border = np.zeros(labels.shape, dtype=bool)
    for axis in range(labels.ndim):
        differs = np.diff(labels, axis=axis) != 0
        for before in (0, 1):
            pad = [(0, 0)] * labels.ndim
            pad[axis] = (before, 1 - before)
            border |= np.pad(differs, pad)
    return np.asarray(distance_transform_edt(~border, spacing_mm) <= NEAR_MM) if border.any() else border


if __name__ == "__main__":
    main()
