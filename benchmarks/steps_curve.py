"""Dice against sampling steps on a model's own validation cases, for several solvers, guidance levels and numbers of draws.

Sampling options are chosen here, never on test cases.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from benchmarks.commands import main_of
from benchmarks.record import RESULTS, machine
from benchmarks.tables import steps_table
from diffatlas_pipeline.datasets.description import CaseFiles, LabelClass
from diffatlas_pipeline.datasets.raw import read_dataset
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.metrics import dice
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.inference.predictor import Predictor, settings_for
from diffatlas_pipeline.models.folder import ModelFolder, TrainedFold
from diffatlas_pipeline.networks.execution import resolve_device
from diffatlas_pipeline.volumes.grids import LabelVolume, Volume
from diffatlas_pipeline.volumes.io import read_labels, read_volume

SOLVERS = ("ddim",)
STEPS = (1, 2, 4, 8, 16, 32)
GUIDANCE_LEVELS = (0.0, 0.5, 1.0)
CASES = 16


@dataclass(frozen=True)
class Combination:
    """One way to sample; ``steps`` 0 stands for all training steps."""

    solver: str
    steps: int
    guidance_level: float
    draws: int


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Segment a model's validation cases with all combinations of the sampling options; write CSV and PNG.",
        epilog="example:\n  python -m benchmarks.steps_curve -m workspace/results/Dataset004_Hippocampus/diffatlas__default",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("-m", "--model", type=Path, required=True, metavar="FOLDER", help="model folder, .../METHOD__RECIPE")
    made.add_argument(
        "-f", "--fold", default="fold0", help="trained fold whose validation cases are used (default: %(default)s)"
    )
    made.add_argument(
        "--raw", type=Path, metavar="FOLDER", help="raw data set (default: that of the workspace that the model lies in)"
    )
    made.add_argument("--cases", type=int, default=CASES, metavar="N", help="validation cases, in order (default: %(default)s)")
    made.add_argument("--solvers", nargs="+", default=list(SOLVERS), metavar="NAME", help="(default: %(default)s)")
    made.add_argument("--steps", nargs="+", type=int, default=list(STEPS), metavar="N", help="0 = all (default: %(default)s)")
    made.add_argument(
        "--guidance-levels", nargs="+", type=float, default=list(GUIDANCE_LEVELS), metavar="U", help="%(default)s"
    )
    made.add_argument("--draws", nargs="+", type=int, default=[1], metavar="N", help="(default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: %(default)s)")
    made.add_argument(
        "--output", type=Path, default=RESULTS / "steps_curve.csv", metavar="CSV", help="(default: documentation/results/)"
    )
    return made


def run(arguments: argparse.Namespace) -> None:
    """Measure, write and print. UserError for what the user has to mend."""
    fold = ModelFolder.find(Workspace.resolve(), path=arguments.model).load(arguments.fold)
    files = validation_files(fold, arguments.raw or raw_folder(arguments.model), arguments.cases)
    wanted = combinations(arguments)
    recipe = fold.plan.recipe(fold.recipe, fold.method)
    for way in wanted:  # all options are checked before the first hour is spent
        settings_for(recipe, way.steps, way.solver, way.draws, way.guidance_level)
    cases = [(one.case, read_volume(one.images), read_labels(_label_of(one))) for one in files]
    about = {**machine(), "recipe": recipe.name, "fold": fold.fold, "seed": arguments.seed}
    device, precision = resolve_device(arguments.device), "auto"
    rows: list[dict[str, Any]] = []
    bar = tqdm(total=sum(cost(way, fold) for way in wanted), desc="Sampling", unit="step", delay=1)
    with bar:
        for way in wanted:
            settings = settings_for(recipe, way.steps, way.solver, way.draws, way.guidance_level)
            predictor = Predictor([fold], device, settings, arguments.seed, precision)
            scored = score(predictor, cases)
            precision = predictor.precision  # measured once is enough
            steps = settings.steps or fold.plan.diffusion.training_steps
            rows.append(
                {"solver": way.solver, "steps": steps, "guidance_level": way.guidance_level, "draws": way.draws, **scored}
            )
            write_text_atomically(arguments.output, pd.DataFrame(rows).assign(**about).to_csv(index=False, lineterminator="\n"))
            bar.update(cost(way, fold))
    table = pd.DataFrame(rows)
    picture = arguments.output.with_suffix(".png")
    draw(table, picture)
    print(steps_table(table))
    print(f"Written: {arguments.output}\nWritten: {picture}")


def combinations(arguments: argparse.Namespace) -> list[Combination]:
    """All combinations of the options given, cheap ones first, each once."""
    all_ways = itertools.product(arguments.solvers, arguments.steps, arguments.guidance_levels, arguments.draws)
    ways = dict.fromkeys(Combination(*way) for way in all_ways)
    return sorted(ways, key=lambda way: ((way.steps or 10**6) * way.draws, way.solver, way.guidance_level))


def cost(way: Combination, fold: TrainedFold) -> int:
    return (way.steps or fold.plan.diffusion.training_steps) * way.draws


def raw_folder(model: Path) -> Path:
    """<workspace>/raw/DatasetXXX_Name of <workspace>/results/DatasetXXX_Name/<model>."""
    dataset = model.expanduser().resolve().parent
    return dataset.parent.parent / "raw" / dataset.name


def validation_files(fold: TrainedFold, raw: Path, limit: int) -> list[CaseFiles]:
    """The first ``limit`` validation cases of the fold, with their files. UserError if there is none."""
    names = list(fold.metadata.get("validation_cases", []))[:limit]
    if not names:
        raise UserError(f"{fold.fold} has no validation case. Train fold0, which has some, and give it with -f fold0.")
    known = {files.case: files for files in training_files(raw)}
    missing = [name for name in names if name not in known]
    if missing:
        raise UserError(f"{raw}: validation case {missing[0]} is not there. Give the model's own raw data set with --raw.")
    return [known[name] for name in names]


def training_files(raw: Path) -> list[CaseFiles]:
    """The training cases of the raw data set ``raw``. UserError if it is none."""
    if not (raw / "dataset.json").is_file():
        raise UserError(f"{raw}: not a raw data set. Give the one that the model was trained on with --raw.")
    return list(read_dataset(raw).training)


def score(predictor: Predictor, cases: Sequence[tuple[str, Volume, LabelVolume]]) -> dict[str, float]:
    """Dice per label and mean on the scans' own grids, their spread over cases, and seconds per case without reading."""
    labels = predictor.plan.dataset.labels
    found, seconds = [], []
    for case, volume, reference in cases:
        start = time.perf_counter()
        segmented = predictor.segment_volume(volume, case).labels
        seconds.append(time.perf_counter() - start)
        found.append([dice(segmented == label.value, reference.array == label.value) for label in labels])
    by_label = np.array(found)  # (cases, labels); NaN where neither holds the label
    by_case = np.nanmean(by_label, axis=1)
    result = {f"dice_{label.name}": float(np.nanmean(column)) for label, column in zip(labels, by_label.T, strict=True)}
    result |= {"dice_mean": float(np.mean(list(result.values()))), "dice_mean_std": float(np.std(by_case, ddof=len(cases) > 1))}
    return result | {"cases": len(cases), "seconds_per_case": float(np.median(seconds))}


def mean_dice(segmented: np.ndarray, reference: LabelVolume, labels: Sequence[LabelClass]) -> float:
    """Dice of a case, the mean over the labels that it or its reference holds."""
    return float(np.nanmean([dice(segmented == label.value, reference.array == label.value) for label in labels]))


def draw(table: pd.DataFrame, path: Path) -> None:
    """Mean Dice over steps, one line per solver, guidance level and number of draws."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.5), constrained_layout=True)
    for (solver, level, draws), rows in table.groupby(["solver", "guidance_level", "draws"]):
        ordered = rows.sort_values("steps")
        name = f"{solver}, image at {level:g}" + (f", {draws} draws" if draws > 1 else "")
        axis.plot(ordered["steps"], ordered["dice_mean"], marker="o", label=name)
    ticks = sorted(table["steps"].unique())
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_xlabel("sampling steps")
    axis.set_ylabel("mean Dice, validation cases")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _label_of(files: CaseFiles) -> Path:
    assert files.label is not None  # read_dataset demands it of training cases
    return files.label


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
