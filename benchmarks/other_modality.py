"""A picture of what synthetic contrasts change: a scan of another modality, and what two models make of it.

Draws what a comparison has segmented before. The case is the one whose Dice is the median of the model that was trained
with synthetic contrasts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.commands import main_of
from benchmarks.pictures import View, views_png
from diffatlas_pipeline.benchmark.record import DONE, read_benchmark
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.evaluate import CasePair, Evaluation
from diffatlas_pipeline.evaluation.overlays import find_images, image_of, read_scan
from diffatlas_pipeline.evaluation.stored import read_evaluation
from diffatlas_pipeline.volumes.io import read_labels
from diffatlas_pipeline.volumes.orientation import to_canonical

UNADAPTED = "zero-shot-unadapted"
RECIPES = {"default": "trained as scanned", "any-contrast": "trained with any contrast"}
WINDOW = (0.5, 99.5)  # percentiles of the scan shown as black and white


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Draw a scan of another modality as segmented by models trained without and with synthetic contrasts.",
        epilog="example:\n  python -m benchmarks.comparison heart-ct --settings zero-shot-unadapted:12 --max-time 30m \\\n"
        "      --methods diffatlas diffatlas:any-contrast --workspace W\n"
        "  python -m benchmarks.other_modality W/benchmarks/heart-ct_30m documentation/images/other_modality.png",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("benchmark", type=Path, help="folder of the comparison")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    parser.add_argument("--seed", type=int, default=0, help="of the models (default: %(default)s)")
    main_of(parser, run, argv)


def run(benchmark: Path, picture: Path, seed: int) -> None:
    """Write the picture. UserError if the comparison lacks one of the models."""
    found = {recipe: scores_of(benchmark, recipe, seed) for recipe in RECIPES}
    case = median_case(found["any-contrast"])
    pairs = {recipe: _pair(scores, case) for recipe, scores in found.items()}
    truth = read_labels(pairs["default"].reference)
    place = image_of(case, find_images(pairs["default"].reference))
    if place is None:
        raise UserError(f"{pairs['default'].reference}: no scan lies beside it, in imagesTs.")
    scan = read_scan(place, truth.grid)
    low, high = np.percentile(scan, WINDOW)
    shown = np.clip((scan - low) / max(high - low, 1e-6) * 2 - 1, -1, 1)
    views = [View("scan", shown), View("reference", shown, truth.array)]
    for recipe, title in RECIPES.items():
        prediction = pairs[recipe].prediction
        assert prediction is not None  # a cell that is done has all of them
        means = found[recipe].cases.groupby("case")["dice"].mean()
        told = f"{title}\nDice {means[case]:.2f}; of all {len(means)} scans {means.mean():.2f}"
        views.append(View(told, shown, read_labels(prediction).array))
    middle = round(float(np.nonzero(to_canonical(truth.array[None], truth.grid)[0][0])[2].mean()))
    views_png(views, truth.grid, 2, middle, found["default"].labels, picture)
    print(f"Written: {picture} ({case})")


def scores_of(benchmark: Path, recipe: str, seed: int) -> Evaluation:
    """The scores of the joint model with ``recipe`` on scans of another modality, shown as they are."""
    for cell in read_benchmark(benchmark).cells:
        wanted = (cell.method, cell.recipe, cell.seed, cell.status) == ("diffatlas", recipe, seed, DONE)
        if wanted and cell.setting.startswith(UNADAPTED):
            return read_evaluation(benchmark / cell.evaluation, benchmark)
    raise UserError(f"{benchmark}: diffatlas:{recipe} with seed {seed} has segmented no scan of {UNADAPTED}. Run it first.")


def median_case(scores: Evaluation) -> str:
    """The case whose mean Dice over labels is the median (of an even number, the lower one of the two)."""
    means = scores.cases.groupby("case")["dice"].mean().sort_values()
    return str(means.index[(len(means) - 1) // 2])


def _pair(scores: Evaluation, case: str) -> CasePair:
    return next(pair for pair in scores.pairs if pair.case == case)


if __name__ == "__main__":
    main()
