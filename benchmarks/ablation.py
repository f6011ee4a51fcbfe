"""Train a method with some of its recipe's options changed, and score validation cases: one row per way of sampling.

The cases are a split's validation cases, on the planned grid. Options are chosen by this; no test case is touched.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from benchmarks.commands import main_of
from benchmarks.record import RESULTS, append_row, machine
from diffatlas_pipeline.data.loader import TrainingBatches, training_batches
from diffatlas_pipeline.datasets.splits import Split, load_splits
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.metrics import dice
from diffatlas_pipeline.files import from_json
from diffatlas_pipeline.inference.padded import segment_padded
from diffatlas_pipeline.inference.seed import scan_seed
from diffatlas_pipeline.inference.stitched import Stitcher
from diffatlas_pipeline.methods.base import LearnedMethod, Recipe
from diffatlas_pipeline.methods.registry import create_method, recipe_of
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.preprocessing.distance_maps import decode_labels
from diffatlas_pipeline.preprocessing.store import list_stored, open_case
from diffatlas_pipeline.training.loop import Run, Trained, train
from diffatlas_pipeline.training.schedule import Duration, seconds_of

Options = TypeVar("Options", bound=Recipe | Plan)


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Train with changed options of the recipe and score the split's validation cases.",
        epilog="example:\n  python -m benchmarks.ablation --preprocessed .../Dataset004_Hippocampus --max-time 10m\n"
        "      --set objective.segmentation_weight=1 --sample sampler.steps=1 --sample sampler.steps=4,sampler.draws=2",
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
    made.add_argument("--splits-file", type=Path, metavar="FILE", help="(default: the data set's)")
    made.add_argument("--max-time", metavar="TIME", help="time for training")
    made.add_argument("--iterations", type=int, metavar="N", help="iterations instead of a time")
    made.add_argument("--also", type=Path, metavar="FOLDER", help="score fold0 of this preprocessed data set, too")
    made.add_argument("--cases", type=int, default=32, metavar="N", help="validation cases, at most (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    made.add_argument("--keep", type=Path, metavar="FOLDER", help="train there and keep it: a second run goes on")
    made.add_argument("--results", type=Path, default=RESULTS / "ablation.csv", metavar="FILE")
    return made


def run(**asked: Any) -> None:
    """Train, then score each way of sampling and add its row. UserError for what the user has to mend."""
    source = asked["preprocessed"]
    plan = from_json(Plan, (source / "plans.json").read_text(encoding="utf-8"), str(source / "plans.json"))
    plan = replanned(plan, asked["plan"])
    recipe = changed(recipe_of(plan, asked["method"], asked["recipe"]), asked["set"])
    split = split_of(asked["splits_file"] or source / "splits.json", source, asked["split"])
    method = create_method(asked["method"], plan, recipe)
    if not isinstance(method, LearnedMethod):
        raise UserError(f"--method {asked['method']} is not trained: it has no option to compare.")
    trained = trained_on(asked, method, plan, split.train)
    network = method.restore(trained.weights).eval()
    tests = [(source, split.validation[: asked["cases"]])]
    if asked["also"]:
        other = split_of(asked["also"] / "splits.json", asked["also"], "fold0")
        tests.append((asked["also"], other.validation[: asked["cases"]]))
    about = {
        "data": source.name,
        "name": asked["name"],
        "method": asked["method"],
        "split": asked["split"],
        "training_cases": len(split.train),
        "options": " ".join([*asked["set"], *asked["plan"]]),
        "seed": asked["seed"],
        "train_seconds": round(trained.seconds),
        "iterations": trained.iterations,
    }
    for sampling in asked["sample"] or [""]:
        sampled = type(method)(plan, changed(recipe, sampling.split(",") if sampling else []))
        for folder, cases in tests:
            row = machine() | about | {"sampling": sampling, "scored_on": folder.name}
            row |= score(sampled, network, plan, folder, cases)
            append_row(asked["results"], row)
            print(f"{asked['name']} {sampling} on {folder.name}: mean Dice {row['dice_mean']}", flush=True)


def split_of(file: Path, preprocessed: Path, name: str) -> Split:
    """The split ``name`` of ``file``, of the cases stored in ``preprocessed``. UserError if it is not there."""
    splits = load_splits(file, list_stored(preprocessed))
    if name not in splits:
        raise UserError(f"--split {name}: there are {', '.join(splits)}.")
    return splits[name]


def trained_on(asked: Mapping[str, Any], method: LearnedMethod, plan: Plan, cases: Sequence[str]) -> Trained:
    """Train ``method`` on the stored ``cases``, for a time or for a number of iterations, without validation."""
    limit_s = seconds_of(asked["max_time"]) if asked["max_time"] else None
    iterations = asked["iterations"] or (plan.training.iterations if limit_s is None else 10**9)
    told = {"set": asked["set"], "split": asked["split"], "seed": asked["seed"], "method": asked["method"]}
    source, seed = asked["preprocessed"], asked["seed"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked["keep"] or Path(scratch)
        run = Run(folder, Duration(iterations, limit_s), seed, torch.device("cpu"), told)
        share = method.any_contrast

        def batches(first: int) -> TrainingBatches:
            return training_batches(source, cases, plan, seed, first, iterations, 1, any_contrast=share)

        return train(method, run, batches, None)


def replanned(plan: Plan, options: list[str]) -> Plan:
    """``plan`` with ``options`` written as part.name=value. UserError for one unknown or used before training."""
    for option in options:
        part, dot, assignment = option.partition(".")
        if not dot or part not in ("network", "distance", "training", "augmentation") or assignment.startswith("tau_mm="):
            raise UserError(f"--plan {option}: write network., training., augmentation. or distance.scale=, then a value.")
    return changed(plan, options)


def changed(value: Options, options: list[str]) -> Options:
    """``value`` with ``options`` written as name=value or part.name=value; several numbers are written 1:2:3.

    UserError for an unknown name or a value of the wrong kind.
    """
    for option in options:
        path, _, text = option.partition("=")
        value = _with(value, path.split("."), text, option)
    return value


def _with(value: Any, path: list[str], text: str, option: str) -> Any:
    known = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    name, *rest = path
    if name not in known or bool(rest) != dataclasses.is_dataclass(known[name]):
        raise UserError(f"{option}: no option of a {type(value).__name__}; there are {', '.join(known)}.")
    old = known[name]
    if rest:
        return dataclasses.replace(value, **{name: _with(old, rest, text, option)})
    kind = type(old)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"{option}: '{text}' is not a bool; give true or false.")
        return dataclasses.replace(value, **{name: text.lower() == "true"})
    try:
        new = tuple(type(old[0])(part) for part in text.split(":")) if kind is tuple else kind(text)
    except ValueError as error:
        raise UserError(f"{option}: '{text}' is not a {kind.__name__}.") from error
    return dataclasses.replace(value, **{name: new})


def score(method: LearnedMethod, network: nn.Module, plan: Plan, source: Path, cases: Sequence[str]) -> dict[str, float]:
    """Dice per label and mean over ``cases``, on the planned grid; seconds per case and the number of cases."""
    stitch = Stitcher(plan.patch_size)
    values = list(range(1, len(plan.dataset.labels) + 1))
    found = []
    start = time.perf_counter()
    with torch.inference_mode():
        for case in cases:
            stored = open_case(source, case)
            assert stored.distances is not None
            image = stored.read_image()
            predicted = segment_padded(method, network, torch.from_numpy(image), stitch, scan_seed(0, image))
            ours = decode_labels(predicted.distances.numpy(), values)
            truth = decode_labels(np.asarray(stored.distances[:], dtype=np.float32), values)
            found.append([dice(ours == value, truth == value) for value in values])
    seconds = (time.perf_counter() - start) / len(cases)
    means = np.nanmean(found, axis=0)  # of each label; NaN where neither holds it
    scores = {f"dice_{label.name}": round(float(mean), 4) for label, mean in zip(plan.dataset.labels, means, strict=True)}
    return scores | {"dice_mean": round(float(means.mean()), 4), "seconds_per_case": round(seconds, 3), "cases": len(cases)}


if __name__ == "__main__":
    main()
