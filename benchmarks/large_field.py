"""Coarse to fine against sampling the whole scan: Dice and seconds where the structures fill little of the scan.

Generated hearts lie anywhere in a large field of texture of about their brightness. A model learns them, and a second
one at low resolution. The test cases are segmented as a whole, and coarse to fine, beginning at several levels: 1 is
noise alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.commands import add_places, do, main_of
from benchmarks.generated import check_time
from benchmarks.protocols import fold_of
from benchmarks.record import RESULTS, append_row, machine
from dataset_conversion.phantom import TEST_INDEX, generate_case
from dataset_conversion.phantom_anatomy import LABELS
from diffatlas_pipeline import load_model
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.methods import begin
from diffatlas_pipeline.models.folder import ModelFolder

NUMBER, NAME, FOLD = 21, "Dataset021_LargeField", "all"
TEXTURE_VOXELS, TEXTURE_HU = 3.0, 120.0
LEVELS = (1.0, 0.75, 0.5, 0.25)


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Dice and seconds coarse to fine, and of sampling the whole scan.",
        epilog="example:\n  python -m benchmarks.large_field --max-time 10m",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--side", type=int, default=96, metavar="N", help="voxels of a scan's edge (default: %(default)s)")
    made.add_argument("--heart", type=int, default=32, metavar="N", help="voxels of a heart's edge (default: %(default)s)")
    made.add_argument("--cases", type=int, default=16, metavar="N", help="training cases (default: %(default)s)")
    made.add_argument("--test-cases", type=int, default=4, metavar="N", help="(default: %(default)s)")
    made.add_argument(
        "--max-time", default="10m", metavar="TIME", help="time of each of the two trainings (default: %(default)s)"
    )
    made.add_argument("--memory", type=float, default=0.25, metavar="GB", help="of the plan (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="of the hearts and the trainings (default: %(default)s)")
    add_places(made)
    made.add_argument(
        "--results", type=Path, default=RESULTS / "large_field.csv", metavar="FILE", help="(default: documentation/results/)"
    )
    return made


def run(
    side: int,
    heart: int,
    cases: int,
    test_cases: int,
    max_time: str,
    memory: float,
    seed: int,
    workspace: Path,
    data: Path | None,
    results: Path,
) -> None:
    """Generate, train twice, segment, keep the row. UserError or CommandFailed if something is wrong."""
    place, here = Workspace.resolve(workspace), ["--workspace", str(workspace)]
    raw = place.raw / NAME
    write_dataset(raw, cases, test_cases, heart, side, seed)
    do("plan_and_preprocess", ["-d", str(NUMBER), "--device", "cpu", "--memory", str(memory), *here])
    training = [str(NUMBER), FOLD, "--max-time", max_time, "--seed", str(seed), "--no-validation", *here]
    do("train", training)
    do("train", [*training, "--low-resolution"])
    model = ModelFolder(ModelFolder.location(place, NAME, "diffatlas", "default"))
    fold = fold_of(FOLD, seed)
    for trained in (model, model.low_resolution):
        check_time(trained, fold, max_time)
    out = workspace / "benchmarks" / f"large_field_{fold}"
    shutil.rmtree(out, ignore_errors=True)
    row = {"side": side, "heart": heart, "training_cases": cases, "test_cases": test_cases, "max_time": max_time, "seed": seed}
    row["seen"] = round(float(np.prod(model.plan().patch_size)) / side**3, 3)
    scores = scored(raw, model, fold, out / "whole", None)
    for level in LEVELS:
        scores |= scored(raw, model, fold, out / f"from_{level:g}", level)
    append_row(results, machine() | row | scores)
    print(f"Added to {results}")


def write_dataset(raw: Path, training: int, test: int, heart: int, side: int, seed: int) -> None:
    """A raw data set of CT hearts of ``heart`` voxels along an edge in scans of ``side``; labels in labelsTs, too."""
    shutil.rmtree(raw, ignore_errors=True)
    for kind, count, first in (("Tr", training, 0), ("Ts", test, TEST_INDEX)):
        (raw / f"images{kind}").mkdir(parents=True)
        (raw / f"labels{kind}").mkdir()
        for number in range(first, first + count):
            picture, labels, affine = generate_case(seed, number, (heart, heart, heart), "CT")
            rng = np.random.default_rng([seed, number, 2])
            corner = rng.integers(0, side - heart + 1, 3)
            within = tuple(slice(edge, edge + heart) for edge in corner)
            texture = gaussian_filter(rng.normal(size=(side, side, side)).astype(np.float32), TEXTURE_VOXELS)
            scan, truth = texture / texture.std() * TEXTURE_HU, np.zeros(texture.shape, np.uint8)
            scan[within], truth[within] = picture, labels
            name = f"heart_{number:07d}"
            nib.save(nib.Nifti1Image(scan.round().astype(np.int16), affine), raw / f"images{kind}" / f"{name}_0000.nii.gz")
            nib.save(nib.Nifti1Image(truth, affine), raw / f"labels{kind}" / f"{name}.nii.gz")
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, **LABELS}, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps({**described, "numTraining": training}), encoding="utf-8")


def scored(raw: Path, model: ModelFolder, fold: str, output: Path, level: float | None) -> dict[str, Any]:
    """Dice, NSD, HD95 and seconds a case of the test cases: coarse to fine from ``level``, or None: as a whole."""
    usual = begin.BEGIN_LEVEL
    begin.BEGIN_LEVEL = usual if level is None else level
    try:
        loaded = load_model(model, "cpu", folds=fold, low_resolution=level is not None)
        found = loaded.segment_folder(raw / "imagesTs", output)
    finally:
        begin.BEGIN_LEVEL = usual
    do("evaluate", ["-p", str(output), "-r", str(raw / "labelsTs")])
    summary = json.loads((output / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    seconds = [sum(one.seconds.get(stage, 0.0) for stage in ("sample", "compare")) for one in found.outcomes]
    name = output.name
    return {
        f"dice_{name}": round(summary["mean"]["dice"], 4),
        f"nsd_{name}": round(summary["mean"]["nsd"], 4),
        f"hd95_{name}": round(summary["mean"]["hd95_mm"], 2),
        f"seconds_{name}": round(float(np.mean(seconds)), 2),
    }


if __name__ == "__main__":
    main()
