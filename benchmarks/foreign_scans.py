"""How many scans a heart model warns of: its own test cases, and scans that it was not made for; adds one row."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.commands import add_places, do, main_of
from benchmarks.raw_data import CARDIAC, HEARTS, TASK, found, place_hearts
from benchmarks.record import RESULTS, append_row, machine
from dataset_conversion.raw_layout import dataset_folder, make_folders, place_file, with_temporary
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.models.folder import ModelFolder

PROTOCOL, OTHER, FOLD = "heart-ct", "heart-mri", "fold0"
FILE = "foreign_scans.csv"
OWN = "own"


def as_noise(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """White noise with the mean and the standard deviation of ``image`` (X, Y, Z)."""
    return generator.normal(image.mean(), image.std(), image.shape)


def inverted(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Bright becomes dark."""
    lowest, highest = np.percentile(image, (0.5, 99.5))
    return lowest + highest - image


def mirrored(axis: int) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """The voxels in reverse order along ``axis``, under an unchanged header."""
    return lambda image, generator: np.flip(image, axis)


def turned(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Upside down: turned by 180 degrees about the axis from left to right."""
    return np.flip(image, (1, 2))


MADE: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "noise": as_noise,
    "inverted": inverted,
    "mirrored_x": mirrored(0),
    "mirrored_y": mirrored(1),
    "mirrored_z": mirrored(2),
    "upside_down": turned,
}
"""What is made of the own test cases."""
KINDS = {
    OWN: "own test cases",
    "mri": "MRI hearts",
    "hippocampus": "hippocampus MRI",
    "cardiac-bssfp": "real cardiac MRI",
    "noise": "noise",
    "inverted": "inverted",
    "mirrored_x": "mirrored left-right",
    "mirrored_y": "mirrored front-back",
    "mirrored_z": "mirrored top-bottom",
    "upside_down": "upside down",
}
"""Kinds of scans, and what the table calls them."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Train a model of CT hearts, and count which scans it warns of, without saying what they are.",
        epilog="example:\n  python -m benchmarks.foreign_scans --max-time 6m",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--method", default="diffatlas", help="(default: %(default)s)")
    parser.add_argument("--any-contrast", action="store_true", help="train for other modalities, too")
    parser.add_argument("--max-time", default="6m", metavar="TIME", help="of training (default: %(default)s)")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a model of heart-ct, instead of training one")
    parser.add_argument("--cases", type=int, default=12, metavar="N", help="scans of each kind, at most (default: %(default)s)")
    parser.add_argument(
        "--results", type=Path, default=RESULTS / FILE, metavar="FILE", help="(default: documentation/results/)"
    )
    add_places(parser)
    main_of(parser, run, argv)


def run(
    method: str, any_contrast: bool, max_time: str, model: Path | None, cases: int, workspace: Path, data: Path | None,
    results: Path,
) -> None:  # fmt: skip
    """Train unless there is a ``model``, segment all kinds of scans, and add a row to ``results``."""
    place_hearts(workspace)
    own = dataset_folder(workspace / "raw", HEARTS[PROTOCOL][1], "HeartPhantomCT")
    if model is None:
        do("plan_and_preprocess", ["-d", str(HEARTS[PROTOCOL][1]), "--workspace", str(workspace)])
        chosen = ["--method", method, *(["--any-contrast"] if any_contrast else [])]
        do("train", [str(HEARTS[PROTOCOL][1]), FOLD, "--max-time", max_time, *chosen, "--workspace", str(workspace)])
        model = workspace / "results" / own.name / f"{method}__{'any-contrast' if any_contrast else 'default'}"
    trained = ModelFolder(model)
    row: dict[str, object] = {**machine(), "method": trained.method, "recipe": trained.recipe}
    row |= {"iterations": trained.metadata(FOLD)["iterations"], "known_cases": len(_known(trained))}
    for kind, folder in scans(own, data, workspace / "foreign_scans", cases).items():
        made = workspace / "foreign_scans" / "segmented" / f"{trained.method}__{trained.recipe}" / kind
        do("predict", ["-i", str(folder), "-o", str(made), "-m", str(model), "--overwrite"])
        row |= counted(kind, json.loads((made / "prediction.json").read_text(encoding="utf-8")))
    append_row(results, row)
    print(f"Added to {results}")


def _known(model: ModelFolder) -> list[str]:
    """Names of the cases that ``model`` knows. UserError if it keeps none."""
    known = model.load(FOLD).known_cases
    if known is None:
        raise UserError(f"{model.path}: keeps no known cases, so it was trained by an earlier release. Train it again.")
    return list(json.loads(known)["cases"])


def scans(own: Path, data: Path | None, folder: Path, count: int) -> dict[str, Path]:
    """Folders of at most ``count`` scans of each kind; the real ones from ``data``, where that is given."""
    sources = {OWN: own / "imagesTs", "mri": _beside(own, OTHER) / "imagesTs"}
    if data is not None:
        sources["hippocampus"] = found(data, TASK) / "imagesTr"
        name, number = CARDIAC["cardiac-bssfp"]
        sources["cardiac-bssfp"] = found(data, f"Dataset{number:03d}_{name}") / "imagesTr"
    make_folders(folder, (*sources, *MADE))
    for kind, source in sources.items():
        for path in sorted(source.glob("[!.]*.nii.gz"))[:count]:
            place_file(path, folder / kind / path.name)
    for kind, make in MADE.items():
        for index, path in enumerate(sorted((folder / OWN).glob("*.nii.gz"))):
            image = nib.Nifti1Image.from_filename(path)
            changed = make(image.get_fdata(), np.random.default_rng([index, len(kind)])).astype(np.float32)
            with_temporary(folder / kind / path.name, nib.Nifti1Image(changed, image.affine).to_filename)
    return {kind: folder / kind for kind in (*sources, *MADE)}


def _beside(own: Path, protocol: str) -> Path:
    modality, number = HEARTS[protocol]
    return dataset_folder(own.parent, number, f"HeartPhantom{modality}")


def counted(kind: str, record: dict) -> dict[str, object]:
    """The scans of a ``prediction.json``, how many of them are beyond the limit, and their median score."""
    told = [entry["familiarity"] for entry in record["cases"].values()]
    flagged = sum(one["score"] > one["limit"] for one in told)
    median = round(float(np.median([one["score"] for one in told])), 2)
    return {f"{kind}_scans": len(told), f"{kind}_flagged": flagged, f"{kind}_score": median}


if __name__ == "__main__":
    main()
