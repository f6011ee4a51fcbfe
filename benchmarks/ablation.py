"""Train a method with some of its recipe's options changed, and score validation cases: one row per way of sampling.

The cases are a split's own validation cases, on the planned grid; the test cases are not touched. Options are chosen by this.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from benchmarks.commands import main_of
from benchmarks.record import RESULTS, append_row, machine
from diffatlas_pipeline.commands.train import seconds_of
from diffatlas_pipeline.data.loader import Unlabelled, training_batches
from diffatlas_pipeline.datasets.splits import load_splits
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.metrics import dice
from diffatlas_pipeline.files import from_json
from diffatlas_pipeline.inference.predictor import segment_padded
from diffatlas_pipeline.inference.stitched import Stitcher
from diffatlas_pipeline.methods.base import LearnedMethod
from diffatlas_pipeline.methods.registry import create_method
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.planning.plan import AugmentationPlan, DistancePlan, Plan, Recipe, TrainingPlan
from diffatlas_pipeline.preprocessing.distance_maps import decode_labels
from diffatlas_pipeline.preprocessing.store import list_stored, open_case
from diffatlas_pipeline.training.loop import Run, train
from diffatlas_pipeline.training.schedule import Duration

Options = TypeVar("Options", Recipe, NetworkPlan, DistancePlan, TrainingPlan, AugmentationPlan)


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Train with changed options of the recipe and score the split's validation cases.",
        epilog="example:\n  python -m benchmarks.ablation --preprocessed .../Dataset004_Hippocampus --max-time 10m\n"
        "      --set segmentation_loss=1 --sample steps=1 --sample steps=4,draws=2",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--preprocessed", type=Path, required=True, metavar="FOLDER", help="a preprocessed data set")
    made.add_argument("--name", default="default", help="what the row is called (default: %(default)s)")
    made.add_argument("--method", default="diffatlas", help="(default: %(default)s)")
    made.add_argument("--recipe", default="default", help="(default: %(default)s)")
    made.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE", help="options of the recipe, for training")
    made.add_argument(
        "--plan",
        nargs="*",
        default=[],
        metavar="OPTION=VALUE",
        help="of the plan, such as network.widths=48:96:192, distance.scale=0.5",
    )
    made.add_argument("--sample", action="append", metavar="OPTION=VALUE,...", help="options of the recipe, for sampling")
    made.add_argument("--split", default="fold0", help="(default: %(default)s)")
    made.add_argument("--unlabelled-from", metavar="SPLIT", help="learn the images of this split's training cases, too")
    made.add_argument("--splits-file", type=Path, metavar="FILE", help="(default: the data set's)")
    made.add_argument("--max-time", metavar="TIME", help="time for training")
    made.add_argument("--iterations", type=int, metavar="N", help="iterations instead of a time")
    made.add_argument(
        "--also", type=Path, metavar="FOLDER", help="score fold0's validation cases of this preprocessed data set, too"
    )
    made.add_argument("--cases", type=int, default=32, metavar="N", help="validation cases, at most (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    made.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="train in this folder and keep it: a second run goes on there"
    )
    made.add_argument("--results", type=Path, default=RESULTS / "ablation.csv", metavar="FILE")
    return made


def run(arguments: argparse.Namespace) -> None:
    """Train, then score each way of sampling and add its row."""
    source = arguments.preprocessed
    plan = from_json(Plan, (source / "plans.json").read_text(encoding="utf-8"), str(source / "plans.json"))
    plan = replanned(plan, arguments.plan)
    recipe = changed(plan.recipe(arguments.recipe, arguments.method), arguments.set)
    splits = load_splits(arguments.splits_file or source / "splits.json", list_stored(source))
    if arguments.split not in splits:
        raise UserError(f"--split {arguments.split}: there are {', '.join(splits)}.")
    training, validation = splits[arguments.split].train, splits[arguments.split].validation[: arguments.cases]
    images = splits[arguments.unlabelled_from].train if arguments.unlabelled_from else ()
    held_out = {*training, *splits[arguments.split].validation}
    unlabelled = Unlabelled(tuple(case for case in images if case not in held_out), recipe.unlabelled_fraction)
    method = create_method(arguments.method, plan, recipe)
    if not isinstance(method, LearnedMethod):
        raise UserError(f"--method {arguments.method} is not trained: it has no option to compare.")
    limit_s = seconds_of(arguments.max_time) if arguments.max_time else None
    iterations = arguments.iterations or (plan.training.iterations if limit_s is None else 10**9)
    with tempfile.TemporaryDirectory() as scratch:
        settings = {"set": arguments.set, "split": arguments.split, "seed": arguments.seed, "method": arguments.method}
        trained = train(
            method,
            Run(arguments.keep or Path(scratch), Duration(iterations, limit_s), arguments.seed, torch.device("cpu"), settings),
            lambda first: training_batches(source, training, plan, arguments.seed, first, iterations, 1, unlabelled),
            None,
        )
    network = method.restore(trained.weights).eval()
    tests = [(source, validation)]
    if arguments.also:
        others = load_splits(arguments.also / "splits.json", list_stored(arguments.also))
        tests.append((arguments.also, others["fold0"].validation[: arguments.cases]))
    for sampling in arguments.sample or [""]:
        for folder, cases in tests:
            start = time.perf_counter()
            scores = score(method, network, plan, changed(recipe, sampling.split(",") if sampling else []), folder, cases)
            row: dict[str, Any] = {
                **machine(),
                "data": source.name,
                "name": arguments.name,
                "method": arguments.method,
                "split": arguments.split,
                "training_cases": len(training),
                "unlabelled_cases": len(unlabelled.cases) if unlabelled else 0,
                "options": " ".join([*arguments.set, *arguments.plan]),
                "sampling": sampling,
                "seed": arguments.seed,
                "train_seconds": round(trained.seconds),
                "iterations": trained.iterations,
                "scored_on": folder.name,
                "cases": len(cases),
                **{f"dice_{label}": round(value, 4) for label, value in scores.items()},
                "dice_mean": round(float(np.mean(list(scores.values()))), 4),
                "seconds_per_case": round((time.perf_counter() - start) / len(cases), 3),
            }
            append_row(arguments.results, row)
            print(f"{arguments.name} {sampling} on {folder.name}: mean Dice {row['dice_mean']}", flush=True)


def replanned(plan: Plan, options: list[str]) -> Plan:
    """``plan`` with ``options`` written as part.name=value. UserError for what is not there, or was needed before training."""
    for option in options:
        part, dot, assignment = option.partition(".")
        if not dot or part not in ("network", "distance", "training", "augmentation") or assignment.startswith("tau_mm="):
            raise UserError(f"--plan {option}: write network., training., augmentation. or distance.scale=, then a value.")
        plan = dataclasses.replace(plan, **{part: changed(getattr(plan, part), [assignment])})
    return plan


def changed(recipe: Options, options: list[str]) -> Options:
    """``recipe`` with ``options`` written as name=value. UserError for an unknown name or a value of the wrong kind."""
    known = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    values: dict[str, Any] = {}
    for option in options:
        name, _, text = option.partition("=")
        if name not in known:
            raise UserError(f"{option}: no option of a {type(recipe).__name__.lower()}; there are {', '.join(known)}.")
        kind = type(known[name])
        try:
            values[name] = tuple(type(known[name][0])(part) for part in text.split(":")) if kind is tuple else kind(text)
        except ValueError as error:
            raise UserError(f"{option}: '{text}' is not a {kind.__name__}.") from error
    return dataclasses.replace(recipe, **values)


def score(
    method: LearnedMethod, network: nn.Module, plan: Plan, settings: Recipe, source: Path, cases: tuple[str, ...]
) -> dict[str, float]:
    """Mean Dice per label over ``cases``, on the planned grid."""
    stitch = Stitcher(plan.patch_size)
    labels = list(range(1, len(plan.dataset.labels) + 1))
    found: dict[str, list[float]] = {label.name: [] for label in plan.dataset.labels}
    with torch.inference_mode():
        for case in cases:
            stored = open_case(source, case)
            assert stored.distances is not None
            image = torch.from_numpy(np.asarray(stored.image[:], dtype=np.float32))
            predicted = segment_padded(method, network, image, plan.patch_size, stitch, settings, 0, case)
            ours = decode_labels(predicted.distances.numpy(), labels)
            truth = decode_labels(np.asarray(stored.distances[:], dtype=np.float32), labels)
            for label, value in zip(plan.dataset.labels, labels, strict=True):
                found[label.name].append(dice(ours == value, truth == value))
    return {name: float(np.nanmean(values)) for name, values in found.items()}


if __name__ == "__main__":
    main()
