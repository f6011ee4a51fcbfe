"""What plots show: a box for each label and method of the data, every case as a dot, one colour per method in a
page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from diffatlas_pipeline.report.plots import COLOURS, FEWEST_IN_BOX, METRICS, box_plot, score_plot, training_plot
from diffatlas_pipeline.report.sources import ModelRun, benchmark_source
from tests.report.folders import write_log

SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
BOX, DOT = "fill-opacity: 0.25", "fill-opacity: 0.55"


@dataclass
class Axis:
    """What is drawn into one axis: ``boxes`` and ``dots`` by (label, colour); boxes as their middles, dots as (x,
    y).
    """

    labels: list[str]
    boxes: dict[tuple[str, str], list[float]]
    dots: dict[tuple[str, str], list[tuple[float, float]]]


def colours(svg: str | None) -> set[str]:
    assert svg is not None
    return {colour for colour in COLOURS if colour in svg}


def texts(svg: str) -> list[str]:
    return [text for text in ElementTree.fromstring(svg).itertext() if text.strip()]


def axes_of(svg: str) -> list[Axis]:
    groups = [group for group in ElementTree.fromstring(svg).iter(f"{SVG}g") if "-axes_" in group.get("id", "")]
    return [axis_of(group) for group in groups]


def axis_of(group: ElementTree.Element) -> Axis:
    ticks = [tick for tick in group.iter(f"{SVG}g") if "-xtick_" in tick.get("id", "")]
    labels = [next(tick.iter(f"{SVG}text")).text or "" for tick in ticks]
    places = [float(next(tick.iter(f"{SVG}use")).get("x", "")) for tick in ticks]
    axis = Axis(labels, {}, {})

    def key(x: float, style: str) -> tuple[str, str]:
        label = labels[int(np.argmin([abs(place - x) for place in places]))]
        return label, next(colour for colour in COLOURS if f"fill: {colour}" in style)

    for path in group.iter(f"{SVG}path"):
        style = path.get("style", "")
        if BOX in style:
            corners = [float(word) for word in path.get("d", "").split() if word not in "MLz"]
            x = (min(corners[::2]) + max(corners[::2])) / 2
            axis.boxes.setdefault(key(x, style), []).append(x)
    for dot in group.iter(f"{SVG}use"):
        style = dot.get("style", "")
        if DOT in style:
            place = float(dot.get("x", "")), float(dot.get("y", ""))
            axis.dots.setdefault(key(place[0], style), []).append(place)
    return axis


def check_axis(axis: Axis, groups: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """One box per label and group of ``groups`` with enough defined values, its cases as dots, all on one scale."""
    colour = dict(zip(groups, COLOURS, strict=False))
    known = {(label, colour[name]): values for name, parts in groups.items() for label, values in parts.items()}
    known = {key: [value for value in values if np.isfinite(value)] for key, values in known.items()}
    known = {key: values for key, values in known.items() if values}
    assert axis.labels == list(next(iter(groups.values())))
    assert set(axis.dots) == set(known)
    assert set(axis.boxes) == {key for key, values in known.items() if len(values) >= FEWEST_IN_BOX}
    assert all(len(boxes) == 1 for boxes in axis.boxes.values())
    middles = [axis.boxes[key][0] if key in axis.boxes else np.mean([x for x, _ in axis.dots[key]]) for key in known]
    assert len({round(x, 1) for x in middles}) == len(middles)  # none hides another
    drawn = np.array([y for key in known for _, y in axis.dots[key]])
    values = np.array([value for key in known for value in known[key]])
    assert drawn.shape == values.shape
    slope, offset = np.polyfit(values, drawn, 1)
    assert slope < 0  # pixels count downwards
    np.testing.assert_allclose(drawn, slope * values + offset, atol=0.05)


def scores(cells: Sequence[ModelRun], metric: str) -> dict[str, dict[str, list[float]]]:
    """The values of ``metric`` by method and label, pooled over cells."""
    found: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        assert cell.evaluation is not None
        for row in cell.evaluation.cases.itertuples():
            found.setdefault(cell.method, {}).setdefault(str(row.label), []).append(getattr(row, metric))
    return found


def test_each_label_and_method_has_its_box_and_each_case_its_dot(benchmark_folder: Path) -> None:
    source = benchmark_source(benchmark_folder)
    cells = [cell for cell in source.runs if cell.evaluation]
    svg = score_plot(source.runs, source.labels, "a")  # with cells that failed or wait
    axes = axes_of(svg)
    assert len(axes) == 2
    for axis, (metric, _) in zip(axes, METRICS, strict=False):
        groups = scores(cells, metric)
        assert list(groups) == ["diffatlas", "icf"] and {len(v) for v in groups["diffatlas"].values()} == {6}  # two seeds
        check_axis(axis, groups)
    assert {"diffatlas", "icf", "Dice", "NSD"} <= set(texts(svg))


def test_many_labels_and_methods(benchmark_folder: Path) -> None:
    """As many as there are colours, so that metrics are drawn below each other."""
    cell = next(cell for cell in benchmark_source(benchmark_folder).runs if cell.evaluation)
    assert cell.evaluation is not None
    labels = [replace(cell.evaluation.labels[0], name=f"label {index}", value=index) for index in range(1, 6)]
    names = {label.value: label.name for label in labels}
    cases = cell.evaluation.cases
    rng = np.random.default_rng(0)
    cells = []
    for index in range(len(COLOURS)):
        table = cases.loc[cases.index.repeat(3)].reset_index(drop=True)
        table = table.assign(value=rng.permutation(np.arange(len(table)) % 5 + 1), dice=rng.random(len(table)))
        table = table.assign(label=table["value"].map(names), nsd=rng.random(len(table)))
        table.loc[(table["value"] == 2) & (index % 2 == 0), ["dice", "nsd"]] = np.nan  # absent in all cases
        cells.append(replace(cell, method=f"method {index}", evaluation=replace(cell.evaluation, cases=table)))
    svg = score_plot(cells, labels, "a")
    for axis, metric in zip(axes_of(svg), ("dice", "nsd"), strict=True):
        groups = scores(cells, metric)
        check_axis(axis, {name: {label.name: parts[label.name] for label in labels} for name, parts in groups.items()})
    assert {cell.method for cell in cells} <= set(texts(svg))


def test_volumes_have_boxes_too_but_few_cases_are_points() -> None:
    values = {"left": [1.0, 2.0, 4.0, 4.5, 5.0, 6.0], "right": [3.0, 3.5, 4.0, math.nan, 5.0, 6.0]}
    [axis] = axes_of(box_plot(values, "volume [ml]", "v"))
    check_axis(axis, {"all": values})
    assert {label for label, _ in axis.boxes} == {"left"}


def test_a_method_keeps_its_colour_where_others_are_missing(benchmark_folder: Path) -> None:
    source = benchmark_source(benchmark_folder)
    cell = next(cell for cell in source.runs if cell.evaluation and cell.logs)
    known = ["first", cell.method, "third"]
    assert colours(score_plot([cell], source.labels, "a", known)) == {COLOURS[1]}
    assert colours(training_plot([cell], "b", known)) == {COLOURS[1]}
    two = [cell, replace(cell, method="third")]
    assert colours(score_plot(two, source.labels, "c", known)) == {COLOURS[1], COLOURS[2]}
    assert colours(score_plot(two, source.labels, "d")) == {COLOURS[0], COLOURS[1]}


@pytest.mark.parametrize("rows", [1, 5])
def test_a_training_of_a_single_row_is_seen(tmp_path: Path, rows: int) -> None:
    write_log(tmp_path / "fold0")
    path = tmp_path / "fold0" / "log.csv"
    path.write_text("\n".join(path.read_text().splitlines()[: rows + 1]) + "\n")
    svg = training_plot([ModelRun("all", "all", logs=(path,))], "t")
    assert svg is not None
    groups = [group for group in ElementTree.fromstring(svg).iter(f"{SVG}g") if "-axes_" in group.get("id", "")]
    assert len(groups) == (1 if rows == 1 else 2)  # without or with a validation
    for group in groups:
        drawn = [use for use in group.iter(f"{SVG}use") if COLOURS[0] in use.get("style", "")]
        lines = [path for path in group.iter(f"{SVG}path") if COLOURS[0] in path.get("style", "")]
        corners = max((path.get("d", "").count("L") for path in lines), default=0)
        assert drawn or corners >= 1
