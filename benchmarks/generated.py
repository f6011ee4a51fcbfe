"""Train on generated pairs, test on real scans: one row that sets this beside training on the real cases.

A model of recipe paper learns a few real cases and generates pairs. The default method is trained on these pairs alone,
and on the real cases alone, for the same time, and both segment the protocol's test cases.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

from benchmarks.commands import add_places, do, main_of
from benchmarks.protocols import PROTOCOLS, fold_of, prepare
from benchmarks.raw_data import HEARTS
from benchmarks.record import RESULTS, append_row, machine
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.training.schedule import seconds_of

FIRST_NUMBER = 800  # of the data sets of pairs; the protocol's number is added


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Train on generated pairs and on the real cases that they were learnt from; test both on real scans.",
        epilog="example:\n  python -m benchmarks.generated hippocampus --setting 16-shot --pairs 100 --max-time 30m",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("protocol", choices=PROTOCOLS)
    made.add_argument("--setting", metavar="S", help="few-shot split that is learnt (default: 16-shot; hearts: fold0)")
    made.add_argument("--pairs", type=int, default=100, metavar="N", help="pairs to generate (default: %(default)s)")
    made.add_argument(
        "--max-time", default="30m", metavar="TIME", help="time of each of the three trainings (default: %(default)s)"
    )
    made.add_argument("--seed", type=int, default=0, help="of the trainings and of the pairs (default: %(default)s)")
    add_places(made)
    made.add_argument(
        "--results", type=Path, default=RESULTS / "generated.csv", metavar="FILE", help="(default: documentation/results/)"
    )
    return made


def run(
    protocol: str,
    setting: str | None,
    pairs: int,
    max_time: str,
    seed: int,
    workspace: Path,
    data: Path | None,
    results: Path,
) -> None:
    """Train three times, generate, test twice, keep the row. UserError or CommandFailed if something is wrong."""
    prepared = prepare(protocol, data, workspace, [seed])
    split = setting or ("fold0" if protocol in HEARTS else "16-shot")
    shared = ["--workspace", str(workspace)]
    training = ["--max-time", max_time, "--seed", str(seed), "--no-validation", *shared]
    place = Workspace.resolve(workspace)
    source = place.preprocessed_dataset(str(prepared.number)).name
    fold = fold_of(split, seed)
    models = {recipe: ModelFolder.location(place, source, "diffatlas", recipe) for recipe in ("paper", "default")}
    for recipe in models:
        do("train", [str(prepared.number), split, "--recipe", recipe, *prepared.options, *training])
        check_time(ModelFolder(models[recipe]), fold, max_time)

    out = workspace / "benchmarks" / f"generated_{protocol}_{fold}_{max_time}"
    folder = out / f"Dataset{FIRST_NUMBER + prepared.number:03d}_{protocol.replace('-', '').title()}Generated"
    wanted = ["-n", str(pairs), "-o", str(folder), "--seed", str(seed)]
    there = len(list((folder / "imagesTr").glob("*"))) if folder.exists() else 0
    generating_s = do("generate", ["-m", str(models["paper"]), "-f", fold, *wanted, *shared])

    # A folder of its own: the number of pairs may be another one in the next run.
    scratch = out / "workspace"
    shutil.rmtree(scratch, ignore_errors=True)
    do("plan_and_preprocess", ["-d", str(folder), "--workspace", str(scratch)])
    do("train", [folder.name, "all", *training[:-2], "--workspace", str(scratch)])
    on_pairs = ModelFolder.location(Workspace.resolve(scratch), folder.name, "diffatlas", "default")

    raw = place.raw_dataset(str(prepared.number))
    real = tested(raw, models["default"], fold, out / "trained_on_real")
    generated = tested(raw, on_pairs, fold_of("all", seed), out / "trained_on_generated")
    about = {
        "protocol": protocol,
        "setting": split,
        "real_cases": len(ModelFolder(models["default"]).metadata(fold)["training_cases"]),
        "pairs": pairs,
        "max_time": max_time,
        "seed": seed,
        "seconds_per_pair": math.nan if there else round(generating_s / pairs, 2),  # what was there took no time now
    }
    row = {**machine(), **about, **of_pairs(folder / "statistics.json")}
    row |= scores(real, "real") | scores(generated, "generated")
    append_row(results, row)
    on_pairs_dice, on_real_dice = (found["mean"]["dice"] for found in (generated, real))
    print(f"Dice {on_pairs_dice:.3f} on {pairs} pairs, {on_real_dice:.3f} on the real cases")
    print(f"Added to {results}")


def check_time(model: ModelFolder, fold: str, max_time: str) -> None:
    """UserError if ``fold`` was there already, trained for another time."""
    found_s = model.metadata(fold)["max_time_s"]
    if found_s != seconds_of(max_time):
        raise UserError(
            f"{model.path / fold}: was trained for {found_s} s, not for {max_time}. Move it away, or take another --workspace."
        )


def tested(raw: Path, model: Path, fold: str, output: Path, part: str = "Ts") -> dict[str, Any]:
    """What evaluation says of the model's segmentations of the test cases (or of ``part`` "Tr") of the data set
    ``raw``.
    """
    do("predict", ["-i", str(raw / f"images{part}"), "-o", str(output), "-m", str(model), "-f", fold, "--overwrite"])
    do("evaluate", ["-p", str(output), "-r", str(raw / f"labels{part}")])
    return dict(json.loads((output / "evaluation" / "summary.json").read_text(encoding="utf-8")))


def scores(summary: dict[str, Any], name: str) -> dict[str, float]:
    """Mean Dice, and that of each label."""
    of_labels = {f"dice_{name}_{label}": round(one["dice"]["mean"], 4) for label, one in summary["labels"].items()}
    return {f"dice_{name}": round(summary["mean"]["dice"], 4), f"test_cases_{name}": summary["case_count"], **of_labels}


def of_pairs(statistics: Path) -> dict[str, Any]:
    """How pairs were sampled, the median Dice of one with the nearest training case, and of a training case with the
    nearest other one.
    """
    found = json.loads(statistics.read_text(encoding="utf-8"))
    medians = dict(found["made_with"]["sampler"])
    for name, key in (("nearest_dice", "nearest"), ("nearest_dice_of_real", "nearest_of_training_cases")):
        dice = sorted(one["dice"] for one in found[key])
        medians[name] = dice[len(dice) // 2] if dice else float("nan")
    return medians


if __name__ == "__main__":
    main()
