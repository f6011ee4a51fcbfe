"""The colours of plots: one method looks the same in all plots of a page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from diffatlas_pipeline.report.plots import COLOURS, score_plot, training_plot
from diffatlas_pipeline.report.sources import benchmark_source


def colours(svg: str | None) -> set[str]:
    assert svg is not None
    return {colour for colour in COLOURS if colour in svg}


def test_a_method_keeps_its_colour_where_others_are_missing(benchmark_folder: Path) -> None:
    source = benchmark_source(benchmark_folder)
    cell = next(cell for cell in source.cells if cell.evaluation and cell.logs)
    known = ["first", cell.method, "third"]
    assert colours(score_plot([cell], source.labels, "a", known)) == {COLOURS[1]}
    assert colours(training_plot([cell], "b", known)) == {COLOURS[1]}
    two = [cell, replace(cell, method="third")]
    assert colours(score_plot(two, source.labels, "c", known)) == {COLOURS[1], COLOURS[2]}
    assert colours(score_plot(two, source.labels, "d")) == {COLOURS[0], COLOURS[1]}
