"""The fixed hippocampus protocol, end to end through the public commands; adds one row to a results file.

The data set's protocol.json says which cases train in each setting (full, 2-shot, ...) and which 40 cases test. The plan is
made from the whole training pool in every setting.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.commands import add_places, do, main_of
from benchmarks.record import RESULTS, append_row, machine
from diffatlas_pipeline.commands.train import seconds_of
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import write_text_atomically

DATASET_ID, NAME = 4, "Hippocampus"
DATASET = f"Dataset{DATASET_ID:03d}_{NAME}"
SETTINGS = ("full", "2-shot", "4-shot", "8-shot", "16-shot")
VALIDATION_CASES = 16  # of the rest of the training pool, the same in every few-shot setting
VALIDATION_SEED = 2025
METHOD = "diffatlas"


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Train and test on the fixed hippocampus protocol, through the public commands. What the workspace holds\n"
        "already is kept: the same command goes on after an interruption, and other sampling options reuse the model.",
        epilog="example:\n  python -m benchmarks.hippocampus --setting full --max-time 60m",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_places(made)
    made.add_argument("--setting", choices=SETTINGS, default="full", help="which cases train (default: %(default)s)")
    made.add_argument("--recipe", choices=("default", "paper"), default="default", help="(default: %(default)s)")
    made.add_argument("--max-time", default="30m", metavar="TIME", help="time for training (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="of training and sampling (default: %(default)s)")
    made.add_argument(
        "--validate", action="store_true", help="full: train on fold0 and keep its other cases for validation (default: all)"
    )
    made.add_argument(
        "--no-test", action="store_true", help="stop after training: choose on validation cases, not on the test's"
    )
    made.add_argument("--steps", type=int, metavar="N", help="sampling steps; 0 = all (default: the recipe's)")
    made.add_argument("--solver", help="ddpm, ddim or dpmpp_2m (default: the recipe's)")
    made.add_argument(
        "--guidance-level", type=float, metavar="U", help="noise on the given image at most (default: the recipe's)"
    )
    made.add_argument("--draws", type=int, metavar="N", help="segmentations to average (default: the recipe's)")
    made.add_argument("--device", help="cpu, cuda or mps (default: the best one here)")
    made.add_argument(
        "--results", type=Path, default=RESULTS / "hippocampus.csv", metavar="FILE", help="(default: documentation/results/)"
    )
    return made


def run(arguments: argparse.Namespace) -> None:
    """Convert, plan, train, predict, evaluate, add the row. UserError for a user's mistake, Stopped if a command fails."""
    if arguments.data is None or not (arguments.data / "protocol.json").is_file():
        raise UserError(
            f"--data {arguments.data}: no protocol.json there. Give the folder Task04_Hippocampus, or DIFFATLAS_TEST_DATA."
        )
    places = Places.of(arguments)
    if places.is_trained():
        print(f"{places.fold} is trained already: data, plan and model are kept.")
    else:
        write_splits(places, read_protocol(arguments.data), arguments.setting)
        for command, words in preparation(arguments, places):
            do(command, words)
    check_trained_as_asked(places, arguments)
    if arguments.no_test:
        print(f"Trained, not tested. Validation: {places.fold / 'validation'}")
        return
    for command, words in scoring(arguments, places):
        do(command, words)
    made = row(arguments, places)
    append_row(arguments.results, made)
    print(f"Mean Dice {made['dice_mean']} on {made['cases']} test cases. Added to {arguments.results}")


@dataclass(frozen=True)
class Places:
    """Where one run's files lie."""

    workspace: Workspace
    split: str
    splits_file: Path
    model: Path
    predictions: Path

    @staticmethod
    def of(arguments: argparse.Namespace) -> Places:
        workspace = Workspace.resolve(arguments.workspace)
        split = arguments.setting if arguments.setting != "full" else "fold0" if arguments.validate else "all"
        sampling = {
            "steps": arguments.steps,
            "solver": arguments.solver,
            "guidance": arguments.guidance_level,
            "draws": arguments.draws,
        }
        words = [arguments.recipe, split, *(f"{key}-{value}" for key, value in sampling.items() if value is not None)]
        root = Path(arguments.workspace).expanduser().resolve()
        return Places(
            workspace,
            split,
            root / "benchmark_splits" / f"{split}.json",
            workspace.results / DATASET / f"{METHOD}__{arguments.recipe}",
            root / "benchmark_predictions" / "__".join(words),
        )

    @property
    def fold(self) -> Path:
        return self.model / self.split

    @property
    def raw(self) -> Path:
        return self.workspace.raw / DATASET

    def is_trained(self) -> bool:
        return (self.fold / "checkpoint_final.safetensors").is_file()


# -------------------------------------------------------------------------------------------------------------- commands
def preparation(arguments: argparse.Namespace, places: Places) -> list[tuple[str, list[str]]]:
    """The commands that make a trained model: name after ``DiffAtlas_``, and arguments."""
    protocol = arguments.data / "protocol.json"
    shared = ["--workspace", str(arguments.workspace)]
    device = ["--device", arguments.device] if arguments.device else []
    cases = ["--cases-from-json", f"{protocol}:full", "--test-from-json", f"{protocol}:test"]
    train = [str(DATASET_ID), places.split, "--recipe", arguments.recipe, "--max-time", arguments.max_time]
    if arguments.setting != "full":
        train += ["--splits-file", str(places.splits_file)]
    return [
        ("convert", ["msd", "-i", str(arguments.data), "-d", str(DATASET_ID), "--name", NAME, *cases, *shared]),
        ("plan_and_preprocess", ["-d", str(DATASET_ID), *device, *shared]),
        ("train", [*train, "--seed", str(arguments.seed), *device, *shared]),
    ]


def scoring(arguments: argparse.Namespace, places: Places) -> list[tuple[str, list[str]]]:
    """The commands that segment and score the test cases."""
    predict = ["-i", str(places.raw / "imagesTs"), "-o", str(places.predictions), "-m", str(places.model), "-f", places.split]
    for flag, value in (
        ("--steps", arguments.steps),
        ("--solver", arguments.solver),
        ("--guidance-level", arguments.guidance_level),
        ("--draws", arguments.draws),
        ("--device", arguments.device),
    ):
        predict += [] if value is None else [flag, str(value)]
    record, weights = places.predictions / "prediction.json", places.fold / "checkpoint_final.safetensors"
    if record.is_file() and weights.is_file() and record.stat().st_mtime < weights.stat().st_mtime:
        predict.append("--overwrite")  # made with an earlier model
    return [
        ("predict", [*predict, "--seed", str(arguments.seed)]),
        ("evaluate", ["-p", str(places.predictions), "-r", str(places.raw / "labelsTs")]),
    ]


# ------------------------------------------------------------------------------------------------------------- protocol
def read_protocol(data: Path) -> dict[str, list[str]]:
    """Lists of cases: one for ``test`` and one for each setting. UserError if it is damaged or a setting holds a test case."""
    path = data / "protocol.json"
    try:
        protocol = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: [str(case) for case in protocol[name]] for name in ("test", *SETTINGS)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a protocol with the lists test, {', '.join(SETTINGS)} ({error!r}).") from error
    for name in SETTINGS:
        wrong = set(lists[name]) & set(lists["test"]) or set(lists[name]) - set(lists["full"])
        if wrong:
            raise UserError(f"{path}: '{name}' names {min(wrong)}, which is a test case or not in 'full'. Restore the file.")
    return lists


def few_shot_split(protocol: dict[str, list[str]], setting: str) -> dict[str, list[str]]:
    """Training and validation cases; the validation cases are those of the pool that no few-shot setting trains on."""
    used = {case for name in SETTINGS if name != "full" for case in protocol[name]}
    rest = sorted(set(protocol["full"]) - used)
    chosen = random.Random(VALIDATION_SEED).sample(rest, min(VALIDATION_CASES, len(rest)))
    return {"train": list(protocol[setting]), "validation": sorted(chosen)}


def write_splits(places: Places, protocol: dict[str, list[str]], setting: str) -> None:
    """The splits file of a few-shot setting; ``full`` trains on the planned splits."""
    if setting != "full":
        splits = {setting: few_shot_split(protocol, setting)}
        write_text_atomically(places.splits_file, json.dumps(splits, indent=2) + "\n")


def check_trained_as_asked(places: Places, arguments: argparse.Namespace) -> None:
    """UserError if the model that is there was trained with other options, so that no row says what was not done."""
    described = _json(places.fold / "checkpoint_final.json")
    asked = {"recipe": arguments.recipe, "seed": arguments.seed, "max_time_s": seconds_of(arguments.max_time)}
    different = [f"{key} {described.get(key)}, not {value}" for key, value in asked.items() if described.get(key) != value]
    if different:
        raise UserError(f"{places.fold} was trained with {'; '.join(different)}. Give another --workspace, or delete it.")


# ------------------------------------------------------------------------------------------------------------------ row
def row(arguments: argparse.Namespace, places: Places) -> dict[str, Any]:
    """What the results file says of this run."""
    prediction = _json(places.predictions / "prediction.json")
    settings = prediction["settings"]
    plan = _json(places.model / "plans.json")
    log = pd.read_csv(places.fold / "log.csv").iloc[-1]
    trained = _json(places.fold / "checkpoint_final.json")
    seconds = case_seconds(prediction)
    return {
        **machine(),
        "setting": arguments.setting,
        "split": places.split,
        "training_cases": len(trained["training_cases"]),
        "recipe": arguments.recipe,
        "seed": arguments.seed,
        "trained_with_torch": trained["versions"]["torch"],
        "max_time": arguments.max_time,
        "train_seconds": round(float(log["seconds"])),
        "iterations": int(log["iteration"]),
        "solver": settings["solver"],
        "steps": settings["steps"] or plan["diffusion"]["training_steps"],
        "guidance_level": settings["guidance_level"],
        "draws": settings["draws"],
        **scores(places.predictions / "evaluation"),
        "validation_dice_mean": _validation_dice(places.fold),
        "seconds_per_case": round(sum(seconds) / len(seconds), 3) if seconds else None,
        "seconds_longest": round(max(seconds), 3) if seconds else None,
        "device": prediction["device"],
        "precision": prediction["precision"],
        "command": command_line(arguments),
    }


def case_seconds(prediction: dict[str, Any]) -> list[float]:
    """Seconds of all stages of each case that a prediction.json tells of."""
    return [sum(case["seconds"].values()) for case in prediction["cases"].values() if case.get("seconds")]


def scores(evaluation: Path) -> dict[str, Any]:
    """Dice, NSD and HD95 per label and of their mean, with the standard deviation over cases."""
    summary = _json(evaluation / "summary.json")
    by_case = pd.read_csv(evaluation / "cases.csv").groupby("case")
    found: dict[str, Any] = {"cases": summary["case_count"], "tolerance_mm": summary["tolerance_mm"]}
    for metric in ("dice", "nsd", "hd95_mm"):
        for label, values in summary["labels"].items():
            found[f"{metric}_{label}"] = _rounded(values[metric]["mean"])
            found[f"{metric}_{label}_std"] = _rounded(values[metric]["std"])
        found[f"{metric}_mean"] = _rounded(summary["mean"][metric])
        found[f"{metric}_mean_std"] = _rounded(by_case[metric].mean().std())
    return found


def command_line(arguments: argparse.Namespace) -> str:
    """The command that repeats this run, without the folders of this machine."""
    words = ["python", "-m", "benchmarks.hippocampus", "--setting", arguments.setting, "--recipe", arguments.recipe]
    words += ["--max-time", arguments.max_time, "--seed", str(arguments.seed)]
    for flag in ("--validate", "--steps", "--solver", "--guidance-level", "--draws", "--device"):
        value = getattr(arguments, flag[2:].replace("-", "_"))
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words += [flag, str(value)]
    return shlex.join(words)


def _validation_dice(fold: Path) -> float | None:
    path = fold / "validation" / "summary.json"
    return _rounded(_json(path)["mean"]["dice"]) if path.is_file() else None


def _rounded(value: float | None) -> float | None:
    return None if value is None or pd.isna(value) else round(float(value), 4)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Delete {path.parent} and run the benchmark again.") from error


if __name__ == "__main__":
    main()
