"""The sentence on top of the page: how many cases, how good, what is worst."""

from __future__ import annotations

import math
from collections.abc import Sequence

from diffatlas_pipeline.benchmark.record import DONE, Benchmark
from diffatlas_pipeline.evaluation.evaluate import Evaluation
from diffatlas_pipeline.report.sources import ModelRun, Source


def verdict_of(source: Source, notes: int) -> str:
    """One or a few short sentences; ``notes`` is how many remarks the page lists below them."""
    if source.benchmark:
        found = _comparison(source.runs, source.benchmark)
    elif source.runs[0].evaluation:
        found = _scores(source.runs[0].evaluation)
    else:
        found = [f"{_count(len(source.cases), 'case')}, not scored: there are no references"]
    unusual = sum(entry["score"] > entry["limit"] for entry in source.familiarity.values())
    if unusual:
        belong = "scan does" if unusual == 1 else "scans do"
        found.append(f"{unusual} {belong} not seem to belong to what the model has learnt")
    found.append(_count(notes, "warning or remark", "warnings and remarks") if notes else "No warnings")
    return " ".join(f"{sentence}." for sentence in found)


def _scores(evaluation: Evaluation) -> list[str]:
    dice = evaluation.case_dice()
    cases = _count(len(evaluation.pairs), "case")
    if dice.empty:
        return [f"{cases}, but Dice is defined in none of them: no label occurs"]
    found = [f"{cases}, mean Dice {evaluation.mean()['dice']:.3f}"]
    if len(dice) > 1:
        found.append(f"Worst case {dice.index[0]} ({dice.iloc[0]:.3f})")
    labels = {name: statistics["dice"]["mean"] for name, statistics in evaluation.per_label().items()}
    scored = {name: mean for name, mean in labels.items() if not math.isnan(mean)}
    if len(scored) > 1:
        weakest = min(scored, key=lambda name: scored[name])
        found.append(f"Weakest label {weakest} ({scored[weakest]:.3f})")
    return found


def _comparison(runs: Sequence[ModelRun], benchmark: Benchmark) -> list[str]:
    """The best method of each setting, by Dice averaged over its seeds; and how many cells are missing."""
    found = []
    for setting in dict.fromkeys(run.setting for run in runs):
        dice: dict[str, list[float]] = {}
        for run in runs:
            mean = run.evaluation.mean()["dice"] if run.evaluation and run.setting == setting else math.nan
            if not math.isnan(mean):
                dice.setdefault(run.method, []).append(mean)
        means = {method: sum(values) / len(values) for method, values in dice.items()}
        if means:
            best = max(means, key=lambda method: means[method])
            rank = f"best of {len(means)} methods is {best}" if len(means) > 1 else f"only {best} is scored"
            found.append(f"{setting}: {rank}, mean Dice {means[best]:.3f}")
    missing = sum(cell.status != DONE for cell in benchmark.cells)
    if missing:
        found.append(f"{missing} of {_count(len(benchmark.cells), 'cell')} {'is' if missing == 1 else 'are'} not done")
    return found or ["Nothing is done yet"]


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
