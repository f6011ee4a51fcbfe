"""What the page says first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffatlas_pipeline.benchmark.record import DONE
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.evaluation.evaluate import METRICS, CasePair, Evaluation
from diffatlas_pipeline.report.sources import CaseSource, ModelRun, Source, benchmark_source
from diffatlas_pipeline.report.verdict import verdict_of

LABELS = (LabelClass("front", 1), LabelClass("back", 2))


def evaluation(dice: dict[str, tuple[float, float]]) -> Evaluation:
    rows = [
        {"case": case, "label": label.name, **dict.fromkeys(METRICS, value)}
        for case, values in dice.items()
        for label, value in zip(LABELS, values, strict=True)
    ]
    pairs = tuple(CasePair(case, Path("p"), Path("r")) for case in dice)
    return Evaluation(pd.DataFrame(rows), pairs, LABELS, 1.0, (), "error", ())


def source(scores: Evaluation | None, count: int) -> Source:
    cases = tuple(CaseSource(f"c{index}", f"c{index}", None, None, (), ()) for index in range(count))
    return Source(Path(), "t", (), LABELS, (ModelRun("all", "all", evaluation=scores),), cases)


def test_scored_cases_have_their_mean_the_worst_case_and_the_weakest_label() -> None:
    found = evaluation({"a": (0.9, 0.8), "b": (0.7, 0.4), "c": (1.0, np.nan)})
    assert verdict_of(source(found, 3), 0) == (
        "3 cases, mean Dice 0.733. Worst case b (0.550). Weakest label back (0.600). No warnings."
    )
    assert verdict_of(source(evaluation({"a": (0.9, np.nan)}), 1), 1) == "1 case, mean Dice 0.900. 1 warning or remark."
    nowhere = verdict_of(source(evaluation({"a": (np.nan, np.nan)}), 1), 2)
    assert nowhere == "1 case, but Dice is defined in none of them: no label occurs. 2 warnings and remarks."


def test_without_references_it_says_that_nothing_is_scored() -> None:
    unusual = {"c0": {"score": 3.0, "limit": 2.0}, "c1": {"score": 1.0, "limit": 2.0}}
    assert verdict_of(replace(source(None, 2), familiarity=unusual), 1) == (
        "2 cases, not scored: there are no references. 1 scan does not seem to belong to what the model has learnt. "
        "1 warning or remark."
    )


def test_a_comparison_names_the_best_method_of_each_setting(benchmark_folder: Path) -> None:
    found = benchmark_source(benchmark_folder)
    means = {run.title: run.evaluation.mean()["dice"] for run in found.runs if run.evaluation}
    best = np.mean([mean for title, mean in means.items() if "diffatlas" in title])
    assert best > means["2-shot, icf, seed 0"]
    said = f"2-shot: best of 2 methods is diffatlas, mean Dice {best:.3f}. 2 of 5 cells are not done. No warnings."
    assert verdict_of(found, 0) == said
    assert found.benchmark is not None
    cells = tuple(replace(cell, status=DONE) for cell in found.benchmark.cells)
    one = replace(found, runs=found.runs[:1], benchmark=replace(found.benchmark, cells=cells))
    assert verdict_of(one, 0).startswith("2-shot: only diffatlas is scored, mean Dice ")
    none = replace(one, runs=(replace(found.runs[0], evaluation=None),))
    assert verdict_of(none, 0) == "Nothing is done yet. No warnings."


@pytest.mark.parametrize("count", [0, 7])
def test_it_stands_on_the_page(count: int, tmp_path: Path) -> None:
    from diffatlas_pipeline.report.page import Content, _render

    text = _render(source(None, 5), Content(notes=["x"] * count))
    assert verdict_of(source(None, 5), count) in text.split("<nav>")[0]
