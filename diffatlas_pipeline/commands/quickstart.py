"""DiffAtlas_quickstart: the whole pipeline on generated hearts, as the commands that one would type."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from diffatlas_pipeline import console
from diffatlas_pipeline.commands._common import command_parser, run
from diffatlas_pipeline.commands._rerun import is_trained, rerun
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.training.schedule import seconds_of

DATASET_ID = 1
NAME = "HeartPhantom"
DATASET = f"Dataset{DATASET_ID:03d}_{NAME}"
OVERHEAD_S = 40  # everything but training, on two cores (22 s measured)
BYTES_PER_VOXEL = 16  # of a case: image, labels, and both preprocessed
MODEL_BYTES = 500e6  # weights and checkpoints


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(
        "See the pipeline work: generate hearts, plan, train, segment hearts that the model has not seen, score them.\n"
        "Each step is printed as the command that does it, so that it can be repeated on other data.",
        "DiffAtlas_quickstart",
    )
    parser.add_argument(
        "--workspace",
        default="diffatlas_quickstart",
        metavar="FOLDER",
        help="folder for all that is written (default: `./%(default)s`)",
    )
    parser.add_argument(
        "--max-time", default="6m", metavar="TIME", help="time for training, such as `6m` (default: %(default)s)"
    )
    count: dict[str, Any] = {"type": int, "metavar": "N"}
    parser.add_argument(
        "--cases", dest="training_cases", default=32, help="hearts to learn from (default: %(default)s)", **count
    )
    parser.add_argument("--test-cases", default=6, help="hearts to segment (default: %(default)s)", **count)
    parser.add_argument("--size", default=48, help="voxels along each axis (default: %(default)s)", **count)
    parser.add_argument(
        "--modality",
        choices=("CT", "MRI"),
        default="CT",
        help="what the images look like, `CT` or `MRI` (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of hearts, training and sampling (default: %(default)s)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda", "mps"), help="where to compute: `cpu`, `cuda` or `mps` (default: the best one here)"
    )
    run(_quickstart, parser, argv)


def steps_of(arguments: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """The commands in order: each is the name after ``DiffAtlas_`` and its arguments."""
    workspace = Path(arguments.workspace)
    shared = ["--workspace", arguments.workspace]
    device = ["--device", arguments.device] if arguments.device else []
    seed = ["--seed", str(arguments.seed)]
    raw = workspace / "raw" / DATASET
    predictions, references = str(workspace / "predictions"), str(raw / "labelsTs")
    generate = ["phantom", "-d", str(DATASET_ID), "--name", NAME, "--cases", str(arguments.training_cases)]
    generate += ["--test-cases", str(arguments.test_cases), "--size", str(arguments.size), "--modality", arguments.modality]
    return [
        ("convert", [*generate, *seed, *shared]),
        ("plan_and_preprocess", ["-d", str(DATASET_ID), *device, *shared]),
        ("train", [str(DATASET_ID), "all", "--max-time", arguments.max_time, *seed, *device, *shared]),
        ("predict", ["-i", str(raw / "imagesTs"), "-o", predictions, *seed, *device, *shared]),
        ("evaluate", ["-p", predictions, "-r", references, "-o", str(workspace / "evaluation")]),
        ("report", ["-p", predictions, "-r", references, "-o", str(workspace / "report.html")]),
    ]


def _quickstart(arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    workspace = Path(arguments.workspace).expanduser()
    arguments.workspace = str(workspace)
    training_s = seconds_of(arguments.max_time)
    needed = _check(arguments)
    changes = rerun(workspace, DATASET, {**vars(arguments), "max_time": f"{training_s:g}s"})
    if changes.told:
        console.say(f"{changes.told}\n")
    changes.clear()
    if is_trained(workspace, DATASET):
        print("The model is trained already and is kept, so this takes about a minute.", flush=True)
    else:
        minutes = math.ceil((training_s + OVERHEAD_S) / 60)
        print(
            f"This takes about {minutes} minute{'s' * (minutes > 1)} on two cores, {training_s / 60:.3g} of them for training, "
            f"and up to {needed / 1e9:.1f} GB in {workspace.resolve()}.\n"
            "It may be interrupted; the same command goes on from there.",
            flush=True,
        )
    for command, words in steps_of(arguments):
        _do(command, words)
    _summary(workspace, time.monotonic() - started)


def _do(command: str, words: list[str]) -> None:
    """Print one command as a user would type it, and do it in this process."""
    line = shlex.join([f"DiffAtlas_{command}", *words])
    print(f"\n$ {line}", flush=True)
    started = time.monotonic()
    try:
        importlib.import_module(f"diffatlas_pipeline.commands.{command}").main(words)
    except SystemExit as stopped:
        if stopped.code:
            print(f"The quickstart stopped at: {line}\nWith another --workspace it starts afresh.", file=sys.stderr)
            raise
    print(f"[{time.monotonic() - started:.0f} s]", flush=True)


def _check(arguments: argparse.Namespace) -> float:
    """Bytes that will be written. UserError if there is no room, or for what a step would refuse: nothing is removed
    yet.
    """
    from dataset_conversion.phantom import check_numbers

    if arguments.test_cases < 1:
        raise UserError("`test_cases` must be at least 1: they are what is scored.")
    check_numbers(arguments.training_cases, arguments.test_cases, [arguments.size], arguments.seed)
    needed = MODEL_BYTES + (arguments.training_cases + arguments.test_cases) * float(arguments.size) ** 3 * BYTES_PER_VOXEL
    place = Path(arguments.workspace).expanduser().resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"{place} has {free / 1e9:.1f} GB free, but {needed / 1e9:.1f} GB are needed. "
            "Make room, or choose another `workspace`."
        )
    return needed


def _summary(workspace: Path, seconds: float) -> None:
    """Print Dice per label, the picture, the time taken, and the next command for one's own data."""
    evaluation = workspace / "evaluation"
    summary = json.loads((evaluation / "summary.json").read_text(encoding="utf-8"))
    width = max(len(name) for name in [*summary["labels"], "label"])
    print(
        f"\nDone in {seconds / 60:.1f} minutes. Scores of {summary['case_count']} test case(s), which the model had not seen:\n"
    )
    print(f"  {'label':<{width}}   Dice")
    for name, metrics in summary["labels"].items():
        print(f"  {name:<{width}}  {_number(metrics['dice']['mean'])}")
    print(f"  {'mean':<{width}}  {_number(summary['mean']['dice'])}\n")
    pictures = sorted(evaluation.rglob("*.png"), key=lambda path: (not path.name.startswith("median"), path.name))
    if pictures:
        print(f"Picture of the {pictures[0].name.split('_')[0]} case: {pictures[0].resolve()}")
    print(f"Report, to open in a browser: {(workspace / 'report.html').resolve()}")
    print(
        "Next, with your own data in the layout DatasetXXX_Name (imagesTr, labelsTr, dataset.json):\n"
        "  DiffAtlas_plan_and_preprocess -d path/to/DatasetXXX_Name"
    )


def _number(value: float | None) -> str:
    return "    -" if value is None else f"{value:.3f}"
