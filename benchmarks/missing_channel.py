"""What a missing channel costs: generated hearts with CT and MRI of each person, tested with both and without one.

A model learns both channels. Test cases are segmented with all channels, and with one of them taken away, which is
generated with the segmentation. It is compared with the one that was taken away; beside it stands the mean image of the
training cases, which needs no model.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.commands import add_places, do, main_of
from benchmarks.generated import check_time
from benchmarks.pictures import View, views_png
from benchmarks.protocols import fold_of
from benchmarks.raw_data import TWO_CHANNELS_ID, place_hearts, place_two_channels
from benchmarks.record import RESULTS, append_row, machine
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.evaluation.metrics import dice
from diffatlas_pipeline.inference.export import GENERATED
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.planning.plan import ChannelPlan
from diffatlas_pipeline.preprocessing.normalisation import normalise, renormalise
from diffatlas_pipeline.volumes.io import read_labels, read_volume
from diffatlas_pipeline.volumes.orientation import to_canonical

SPLIT = "all"


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Dice of test cases with all channels and without one, which is generated.",
        epilog="example:\n  python -m benchmarks.missing_channel --max-time 10m",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--max-time", default="10m", metavar="TIME", help="time of the training (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="of the training (default: %(default)s)")
    made.add_argument("--picture", type=Path, metavar="FILE", help="draw the first test case and its generated channels")
    add_places(made)
    made.add_argument(
        "--results",
        type=Path,
        default=RESULTS / "missing_channel.csv",
        metavar="FILE",
        help="(default: documentation/results/)",
    )
    return made


def run(max_time: str, seed: int, picture: Path | None, workspace: Path, data: Path | None, results: Path) -> None:
    """Train, segment three times, keep the row. UserError or CommandFailed if something is wrong."""
    place_hearts(workspace)
    raw, here = place_two_channels(workspace), ["--workspace", str(workspace)]
    do("plan_and_preprocess", ["-d", str(TWO_CHANNELS_ID), *here])
    do("train", [str(TWO_CHANNELS_ID), SPLIT, "--max-time", max_time, "--seed", str(seed), "--no-validation", *here])
    model = ModelFolder.location(Workspace.resolve(workspace), raw.name, "diffatlas", "default")
    fold = fold_of(SPLIT, seed)
    check_time(ModelFolder(model), fold, max_time)
    metadata, channels = ModelFolder(model).metadata(fold), ModelFolder(model).plan().channels
    cases = {"training_cases": len(metadata["training_cases"]), "test_cases": len(list((raw / "labelsTs").iterdir()))}
    out = workspace / "benchmarks" / f"missing_channel_{fold}"
    scores = scored(raw, model, fold, channels, out)
    append_row(results, {**machine(), "max_time": max_time, "seed": seed, **cases, **scores})
    print(f"Added to {results}")
    if picture is not None:
        draw(raw, out, channels, picture)
        print(f"Written: {picture}")


def scored(raw: Path, model: Path, fold: str, channels: Sequence[ChannelPlan], out: Path) -> dict[str, float]:
    """Dice with all ``channels`` and without each; how far the generated one and the mean image are from the true."""
    shutil.rmtree(out, ignore_errors=True)
    row = {"dice_all": dice_of(raw / "imagesTs", raw / "labelsTs", model, fold, out / "all")}
    for number, channel in enumerate(channels):
        scans = out / f"scans_without_{channel.name}"
        shutil.copytree(raw / "imagesTs", scans)
        taken = sorted(scans.glob(f"*_{number:04d}.*"))
        for path in taken:
            path.unlink()
        segmentations = out / f"without_{channel.name}"
        row[f"dice_without_{channel.name}"] = dice_of(scans, raw / "labelsTs", model, fold, segmentations)
        mean = np.mean([shown(path, channel) for path in sorted((raw / "imagesTr").glob(f"*_{number:04d}.*"))], axis=0)
        errors = []
        for path in taken:
            true = shown(raw / "imagesTs" / path.name, channel)
            generated = renormalise(read_volume([segmentations / GENERATED / path.name]).array, [channel])
            errors.append([float(np.sqrt(np.mean((image - true) ** 2))) for image in (generated, mean)])
        row[f"error_{channel.name}"], row[f"error_of_mean_{channel.name}"] = (round(one, 4) for one in np.mean(errors, axis=0))
    return row


def draw(raw: Path, out: Path, channels: Sequence[ChannelPlan], path: Path) -> None:
    """Each channel of the first test case, and the same as it was generated from the other."""
    first = min((raw / "labelsTs").iterdir())
    views = []
    for number, channel in enumerate(channels):
        name = first.name.replace(".nii.gz", f"_{number:04d}.nii.gz")
        made = read_volume([out / f"without_{channel.name}" / GENERATED / name]).array
        views += [
            View(channel.name, shown(raw / "imagesTs" / name, channel)[0]),
            View(f"{channel.name}, generated", renormalise(made, [channel])[0]),
        ]
    truth = read_labels(first)
    middle = round(float(np.nonzero(to_canonical(truth.array[None], truth.grid)[0][0])[2].mean()))
    views_png(views, truth.grid, 2, middle, (), path)


def dice_of(scans: Path, references: Path, model: Path, fold: str, output: Path) -> float:
    """Mean Dice of the model's segmentations of ``scans``, kept in ``output`` with the channels that were generated."""
    do("predict", ["-i", str(scans), "-o", str(output), "-m", str(model), "-f", fold, "--save-generated-channels"])
    values, scores = [label.value for label in ModelFolder(model).plan().dataset.labels], []
    for path in sorted(references.iterdir()):
        found, truth = read_labels(output / path.name).array, read_labels(path).array
        scores.append([dice(found == value, truth == value) for value in values])
    return round(float(np.nanmean(np.nanmean(scores, axis=0))), 4)


def shown(path: Path, channel: ChannelPlan) -> np.ndarray:
    """The scan in ``path`` as a network is shown it: (1, X, Y, Z) in [-1, 1]."""
    return normalise(read_volume([path]).array, [channel])


if __name__ == "__main__":
    main()
