"""What scans without labels bring, through the public commands: one training from the labels alone, and one that also learns
from scans which the first has labelled (DiffAtlas_train --teacher).

hippocampus: the scans are those of the training pool that the setting does not train on; their labels are not read. heart-ct,
heart-mri: the scans are other hearts in the other modality, and so are the test cases.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands import add_places, do, main_of
from benchmarks.comparison import HEART_CASES, HEART_SIZE, HEART_TEST_CASES, HEARTS, prepare_hippocampus
from benchmarks.hippocampus import DATASET, SETTINGS, case_seconds, scores
from benchmarks.record import RESULTS, append_row, machine
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import write_text_atomically

SCANS_SEED = 1  # of the hearts without labels: the same seed would give the labelled hearts again
SCANS_ID = 10  # number added to the labelled hearts' for the data set that the scans are taken from
RECIPE = "default"


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Train from labels alone, and from labels and scans that the first model has labelled; test both.\n"
        "What the workspace holds already is kept: the same command goes on after an interruption.",
        epilog="example:\n  python -m benchmarks.unlabelled hippocampus --setting 4-shot --seeds 0 1 2 --max-time 10m",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("protocol", choices=("hippocampus", *HEARTS))
    made.add_argument(
        "--setting", choices=SETTINGS[1:], default="4-shot", help="hippocampus: the cases with labels (%(default)s)"
    )
    made.add_argument("--methods", nargs="+", default=["diffatlas"], metavar="M", help="(default: diffatlas)")
    made.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="S", help="(default: 0)")
    made.add_argument("--scans", type=int, default=48, metavar="N", help="scans without labels (default: %(default)s)")
    made.add_argument("--max-time", default="10m", metavar="TIME", help="time of each training (default: %(default)s)")
    made.add_argument("--longer", metavar="TIME", help="also train from the labels alone for this time, under another name")
    made.add_argument("--with-atlases", action="store_true", help="also test each model with its training cases as atlases")
    add_places(made)
    made.add_argument("--results", type=Path, default=RESULTS / "unlabelled.csv", metavar="FILE")
    return made


@dataclass(frozen=True)
class Task:
    """What is trained on and tested."""

    number: int
    dataset: str
    split: str
    setting: str  # as the table calls it
    train: tuple[str, ...]  # options of every training
    scans: tuple[str, ...]  # options that name the scans without labels
    predict: tuple[str, ...]
    test: Path  # holds imagesTs and labelsTs


def run(arguments: argparse.Namespace) -> None:
    """Prepare the data, train and test. UserError for a user's mistake, Stopped if a command fails."""
    # A folder of its own for each time: there, a training that is finished is the one that was asked for.
    arguments.workspace = arguments.workspace / f"unlabelled_{arguments.max_time}"
    task = hippocampus(arguments) if arguments.protocol == "hippocampus" else hearts(arguments)
    for seed in arguments.seeds:
        for method in arguments.methods:
            for row in of_method(arguments, task, method, seed):
                append_row(arguments.results, row)
                print(
                    f"{row['setting']}, {method}, seed {seed}, {row['learnt_from']}: mean Dice {row['dice_mean']}", flush=True
                )


# ------------------------------------------------------------------------------------------------------------------ data
def hippocampus(arguments: argparse.Namespace) -> Task:
    number, _ = prepare_hippocampus(arguments, arguments.seeds, ["--workspace", str(arguments.workspace)])
    written = arguments.workspace / "benchmark_splits" / "comparison.json"
    splits = json.loads(written.read_text(encoding="utf-8"))
    split = splits[arguments.setting]
    held_out = {*split["train"], *split["validation"]}
    planned = json.loads((arguments.workspace / "preprocessed" / DATASET / "splits.json").read_text(encoding="utf-8"))
    everything = {case for one in planned.values() for case in one["train"]}
    file = arguments.workspace / "benchmark_splits" / f"unlabelled_{arguments.setting}.json"
    pool = {"train": sorted(everything - held_out), "validation": []}
    longer = {f"{arguments.setting}-longer": split}
    write_text_atomically(file, json.dumps({arguments.setting: split, "scans": pool} | longer, indent=2) + "\n")
    return Task(
        number,
        DATASET,
        arguments.setting,
        f"hippocampus, {arguments.setting}",
        ("--splits-file", str(file)),
        ("--unlabelled-from", "scans", "--num-unlabelled", str(arguments.scans)),
        (),
        arguments.workspace / "raw" / DATASET,
    )


def hearts(arguments: argparse.Namespace) -> Task:
    """Labelled hearts with others of the other modality in imagesUn; the test cases are of that modality, too."""
    if arguments.longer:
        raise UserError("--longer: hippocampus only. For hearts, give a longer --max-time.")
    shared = ["--workspace", str(arguments.workspace)]
    modality, number = HEARTS[arguments.protocol]
    other, test_number = next(pair for name, pair in HEARTS.items() if name != arguments.protocol)
    size = ["--size", str(HEART_SIZE)]
    cases = ["--cases", str(HEART_CASES), "--test-cases", str(HEART_TEST_CASES)]
    do("convert", ["phantom", "-d", str(number), "--modality", modality, *cases, *size, *shared])
    do("convert", ["phantom", "-d", str(test_number), "--modality", other, *cases, *size, *shared])
    scans = ["--cases", str(arguments.scans), "--test-cases", "0", "--seed", str(SCANS_SEED)]
    do("convert", ["phantom", "-d", str(number + SCANS_ID), "--modality", other, *scans, *size, *shared])
    raw = arguments.workspace / "raw"
    names = {known: f"Dataset{known:03d}_HeartPhantom{kind}" for kind, known in HEARTS.values()}
    add_scans(raw / names[number], raw / f"Dataset{number + SCANS_ID:03d}_HeartPhantom{other}", other)
    do("plan_and_preprocess", ["-d", str(number), *shared])
    return Task(
        number,
        names[number],
        "all",
        f"hearts, {modality} to {other}",
        (),
        (),
        ("--modality", other),
        raw / names[test_number],
    )


def add_scans(dataset: Path, source: Path, modality: str) -> None:
    """Link the training images of ``source`` as imagesUn of ``dataset``, and say what they are."""
    folder = dataset / "imagesUn"
    folder.mkdir(exist_ok=True)
    for image in sorted((source / "imagesTr").iterdir()):
        link = folder / f"scan_{image.name}"
        if not link.exists():
            link.hardlink_to(image)
    path = dataset / "dataset.json"
    description = json.loads(path.read_text(encoding="utf-8")) | {"unlabelled_modality": modality}
    write_text_atomically(path, json.dumps(description, indent=2) + "\n")


# -------------------------------------------------------------------------------------------------------------- training
def of_method(arguments: argparse.Namespace, task: Task, method: str, seed: int) -> Iterator[dict[str, Any]]:
    """Train and test what has not been tested yet; one row after each test."""
    suffix = f"_seed{seed}" if seed else ""
    teacher = task.split + suffix
    taught = (*task.scans, "--teacher", teacher, "--registrations", str(registrations(arguments)))
    kinds = [
        ("labels alone", task.split, arguments.max_time, (), teacher),
        ("labels and scans", task.split, arguments.max_time, taught, f"{teacher}_taught"),
    ]
    if arguments.longer:
        split = f"{task.split}-longer"
        kinds.append(("labels alone, longer", split, arguments.longer, (), split + suffix))
    for learnt_from, split, time, options, fold in kinds:
        words = [str(task.number), split, "--method", method, "--seed", str(seed), "--max-time", time, "--no-validation"]
        do("train", [*words, *task.train, *options, "--workspace", str(arguments.workspace)])
        for with_atlases in (False, True) if arguments.with_atlases else (False,):
            made = test(arguments, task, method, fold, seed, with_atlases)
            if made is not None:
                said = {"setting": task.setting, "method": method, "seed": seed, "learnt_from": learnt_from}
                yield {**machine(), **said, "with_atlases": with_atlases, **made}


def test(
    arguments: argparse.Namespace, task: Task, method: str, fold: str, seed: int, with_atlases: bool
) -> dict[str, Any] | None:
    """Segment and score the test cases; None if that was done before."""
    model = arguments.workspace / "results" / task.dataset / f"{method}__{RECIPE}"
    name = f"{task.number}__{method}__{fold}" + ("__atlases" if with_atlases else "")
    place = arguments.workspace / "benchmark_predictions" / name
    if (place / "evaluation" / "summary.json").is_file():
        return None
    words = ["-i", str(task.test / "imagesTs"), "-o", str(place), "-m", str(model), "-f", fold, "--seed", str(seed)]
    words += [*task.predict, "--registrations", str(registrations(arguments))]
    do("predict", [*words, "--with-atlases" if with_atlases else "--no-with-atlases"])
    labels = ["--labels", str(model / "dataset.json")]
    do("evaluate", ["-p", str(place), "-r", str(task.test / "labelsTs"), *labels])
    trained = described(model / fold)
    teacher = trained.get("teacher")
    before = described(model / teacher)["seconds"] + trained["teaching_seconds"] if teacher else 0.0
    taken = case_seconds(json.loads((place / "prediction.json").read_text(encoding="utf-8")))
    return {
        "labelled_cases": len(trained["training_cases"]),
        "unlabelled_cases": len(trained["unlabelled_cases"]),
        "iterations": trained["iterations"],
        "train_seconds": trained["seconds"],
        "seconds_in_all": round(before + trained["seconds"], 1),  # with the teacher's training and the labelling
        **scores(place / "evaluation"),
        "seconds_per_case": round(sum(taken) / len(taken), 3) if taken else None,
    }


def registrations(arguments: argparse.Namespace) -> Path:
    """Where all teachers and tests keep what they register: it takes each of them the time that the first one took."""
    return Path(arguments.workspace) / "registrations"


def described(fold: Path) -> dict[str, Any]:
    """What a finished training says of itself."""
    return dict(json.loads((fold / "checkpoint_final.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
