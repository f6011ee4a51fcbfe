"""Simulated contrasts that a model has learnt: what scans of such a contrast tell at most.

A model that has never seen a contrast cannot be expected to be better on it than one that learnt the same cases in that
very contrast, for as long.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.commands import add_places, do, main_of
from benchmarks.contrasts import CONTRASTS, LEARNT, TEST, write_contrast
from benchmarks.generated import check_time, scores, tested
from benchmarks.protocols import fold_of
from benchmarks.raw_data import place_hippocampus
from benchmarks.record import RESULTS, append_row, machine
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.models.folder import ModelFolder

METHOD, RECIPE, SPLIT = "diffatlas", "default", "all"


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Train on the hippocampus training cases in a simulated contrast, and test on it.",
        epilog="example:\n  python -m benchmarks.seen_contrasts --contrasts VShaped T2Like --max-time 30m",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--contrasts", nargs="+", choices=tuple(CONTRASTS), default=tuple(CONTRASTS), help="(default: all)")
    made.add_argument("--max-time", default="30m", metavar="TIME", help="of each training (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="of the trainings (default: %(default)s)")
    add_places(made)
    made.add_argument(
        "--results", type=Path, default=RESULTS / "seen_contrasts.csv", metavar="FILE", help="(default: documentation/results/)"
    )
    return made


def run(contrasts: Sequence[str], max_time: str, seed: int, workspace: Path, data: Path | None, results: Path) -> None:
    """Train, test, keep a row, for one contrast after the other. UserError or CommandFailed if something is wrong."""
    hippocampus, folders = place_hippocampus(data, workspace), Workspace.resolve(workspace)
    fold, numbers = fold_of(SPLIT, seed), dict(zip(CONTRASTS, zip(LEARNT, TEST, strict=True), strict=True))
    for contrast in contrasts:
        learnt, shown = numbers[contrast]
        raw = write_contrast(learnt, hippocampus)
        do("plan_and_preprocess", ["-d", str(learnt), "--workspace", str(workspace)])
        words = [str(learnt), SPLIT, "--method", METHOD, "--max-time", max_time, "--seed", str(seed), "--no-validation"]
        do("train", [*words, "--workspace", str(workspace)])
        model = ModelFolder(ModelFolder.location(folders, raw.name, METHOD, RECIPE))
        check_time(model, fold, max_time)
        out = workspace / "benchmarks" / f"seen_contrasts_{contrast}_{fold}_{max_time}"
        found = scores(tested(write_contrast(shown, hippocampus), model.path, fold, out, "Tr"), "seen")
        cases = len(model.metadata(fold)["training_cases"])
        about = {"contrast": contrast, "method": METHOD, "training_cases": cases, "max_time": max_time, "seed": seed}
        append_row(results, {**machine(), **about, "iterations": model.metadata(fold)["iterations"], **found})
        print(f"{contrast}: Dice {found['dice_seen']:.3f}")
    print(f"Added to {results}")


if __name__ == "__main__":
    main()
