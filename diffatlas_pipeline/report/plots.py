"""Box plots and training curves as SVG that takes its text colour from the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.report.sources import ModelRun

COLOURS = ("#3a7fc1", "#d9762b", "#45976a", "#a8559b", "#8f8b2c", "#c4524e", "#4aa3a8", "#8a6d5a")
STYLE = Path(__file__).parent / "templates" / "page.mplstyle"
_INK = "#010203"  # stands for the page's own colour of text
WIDTH = 11.0  # inches; the page scales it to its own width
FEWEST_IN_BOX = 6  # fewer cases are points: quartiles of them would say more than is known
METRICS = (("dice", "Dice"), ("nsd", "NSD"), ("hd95_mm", "HD95 [mm]"))


def box_plot(values: Mapping[str, Sequence[float]], title: str, name: str) -> str:
    """One box per label. ``values``: label -> one value per case; ``title``: of the y axis, with its unit.

    ``name`` makes the ids inside the SVG differ from those of others in the page.
    """
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
        axis = figure.add_subplot()
        _boxes(axis, {"all": values}, list(values), _colours(["all"]))
        axis.set_ylabel(title)
        return svg_of(figure, name)


def grouped_boxes(groups: Mapping[str, Mapping[str, Sequence[float]]], title: str, name: str) -> str:
    """A box per label and group, as ``groups`` has them: group -> label -> one value per case; see :func:`box_plot`."""
    labels = list(next(iter(groups.values())))
    colours = _colours(list(groups))
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
        axis = figure.add_subplot()
        _boxes(axis, groups, labels, colours)
        axis.set_ylabel(title)
        _legend(figure, [Patch(facecolor=f"{c}40", edgecolor=c, label=group) for group, c in colours.items()])
        return svg_of(figure, name)


def score_plot(runs: Sequence[ModelRun], labels: Sequence[LabelClass], name: str, known: Sequence[str] = ()) -> str:
    """Dice, NSD and HD95 per label; a box per method, pooled over seeds. Runs without scores are left out.

    The methods that are ``known`` to the page have one colour in all of its plots.
    """
    tables = [run.evaluation.cases.assign(method=run.method) for run in runs if run.evaluation]
    cases = pd.concat(tables, ignore_index=True)
    methods, names = list(cases["method"].unique()), [label.name for label in labels]
    colours = _colours(methods, known)
    metrics = METRICS if len(methods) == 1 else METRICS[:2]
    beside = len(methods) * len(labels) <= 8
    size = (WIDTH / len(metrics), 3.1) if beside else (WIDTH, 2.7)
    parts = []
    with mpl.rc_context(fname=STYLE):
        for metric, title in metrics:
            figure = Figure(figsize=size, layout="constrained")
            axis = figure.add_subplot()
            groups = {
                method: {label: of_method.loc[of_method["label"] == label, metric].tolist() for label in names}
                for method, of_method in cases.groupby("method", sort=False)
            }
            _boxes(axis, groups, names, colours)
            axis.set_title(title)
            if metric == "hd95_mm":
                axis.set_ylim(bottom=0)
            else:
                axis.set_ylim(_floor(cases[metric].min()), 1.01)
            parts.append(svg_of(figure, f"{name}-{metric}"))
    return _together(parts, beside, colours if len(methods) > 1 else {})


def training_plot(runs: Sequence[ModelRun], name: str, known: Sequence[str] = ()) -> str | None:
    """Validation Dice and training loss over minutes of training, a line per log; None if there is no log to show.

    Colours are those of :func:`score_plot`.
    """
    logs = [(run.method, table) for run in runs for path in run.logs if (table := _log(path)) is not None]
    curves = [("Training loss", "loss"), ("Validation Dice, mean over labels", "dice")]
    curves = [curve for curve in curves if any(len(_curve(table, curve[1])) for _, table in logs)]
    if not curves:
        return None
    colours = _colours(list(dict.fromkeys(method for method, _ in logs)), known)
    parts = []
    with mpl.rc_context(fname=STYLE):
        for title, what in curves:
            figure = Figure(figsize=(WIDTH / len(curves), 3.1), layout="constrained")
            axis = figure.add_subplot()
            for method, table in logs:
                values = _curve(table, what)
                dots = what == "dice" or len(values) == 1  # of a single value no line could be seen
                style: dict[str, Any] = {"marker": "o", "markersize": 2.5} if dots else {}
                axis.plot(table["seconds"][values.index] / 60, values, color=colours[method], linewidth=1.3, **style)
            axis.set_title(title)
            axis.set_xlabel("minutes of training")
            axis.grid(True, axis="both")
            if what == "dice":
                axis.set_ylim(-0.02, 1.02)
            else:
                axis.set_yscale("log")
                axis.yaxis.set_major_formatter("{x:g}")
                axis.yaxis.set_minor_formatter(NullFormatter())
            parts.append(svg_of(figure, f"{name}-{what}"))
    return _together(parts, True, colours if len(colours) > 1 else {})


def _together(parts: Sequence[str], beside: bool, colours: Mapping[str, str]) -> str:
    """Plots of their own in one element, ``beside`` one another where the page is wide enough; below them, what the
    ``colours`` mean.
    """
    kind = "" if beside else ' class="wide"'
    plots = "".join(f"<div{kind}>{part}</div>" for part in parts)
    key = "".join(f'<li><i style="background: {colour}"></i>{escape(name)}</li>' for name, colour in colours.items())
    return f'<div><div class="plots">{plots}</div>' + (f'<ul class="key">{key}</ul>' if key else "") + "</div>"


def _boxes(
    axis: Axes, groups: Mapping[str, Mapping[str, Sequence[float]]], labels: Sequence[str], colours: Mapping[str, str]
) -> None:
    """Boxes of ``groups`` (group -> label -> values) around each label's place, with the single cases as dots. Of few
    cases there are only the dots, and a line for their median.
    """
    rng = np.random.default_rng(0)
    step = 0.8 / len(groups)
    for index, (group, values) in enumerate(groups.items()):
        colour = colours[group]
        for place, label in enumerate(labels):
            defined = [value for value in values[label] if not math.isnan(value)]
            if not defined:
                continue
            x = place + (index - (len(groups) - 1) / 2) * step
            few, width = len(defined) < FEWEST_IN_BOX, min(0.4, step * 0.75)
            if few:
                axis.plot([x - width / 2, x + width / 2], [float(np.median(defined))] * 2, color=colour, linewidth=2)
            else:
                axis.boxplot(
                    [defined],
                    positions=[x],
                    widths=width,
                    showfliers=False,
                    patch_artist=True,
                    boxprops={"facecolor": f"{colour}40", "edgecolor": colour},
                    medianprops={"color": colour, "linewidth": 2},
                    whiskerprops={"color": colour},
                    capprops={"color": colour},
                )
            jitter = rng.uniform(-1, 1, len(defined)) * min(0.12, step * 0.25)
            size = 5 if few else 2.2
            axis.plot(x + jitter, defined, "o", color=colour, markersize=size, alpha=0.55, markeredgewidth=0, clip_on=False)
    axis.set_xlim(-0.6, len(labels) - 0.4)
    axis.set_xticks(range(len(labels)), labels)
    if sum(map(len, labels)) > 40:
        axis.tick_params(axis="x", rotation=30)
    axis.grid(True, axis="y")


def _curve(table: pd.DataFrame, what: str) -> pd.Series:
    """The loss, or the validation Dice (mean over labels), where it was measured; its index is that of ``table``."""
    if what == "loss":
        return table["loss"].dropna() if "loss" in table else pd.Series(dtype=float)
    return table[[column for column in table if str(column).startswith("dice_")]].mean(axis=1).dropna()


def _floor(smallest: float) -> float:
    """Where an axis for scores begins: a tenth below the smallest (NaN: none is defined), at least 0."""
    return -0.01 if math.isnan(smallest) else max(-0.01, math.floor(10 * smallest - 0.5) / 10)


def _log(path: Path) -> pd.DataFrame | None:
    """The training log, None if it cannot be read or has not begun."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError):  # pandas' own errors are ValueErrors
        return None
    return table if len(table) and "seconds" in table else None


def _legend(figure: Figure, handles: Sequence[Artist]) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))


def _colours(names: Sequence[str], known: Sequence[str] = ()) -> dict[str, str]:
    """A colour for each of ``names``, by its place among those that are ``known`` as far as it is."""
    places = list(dict.fromkeys([*known, *names]))
    return {name: COLOURS[places.index(name) % len(COLOURS)] for name in names}


def svg_of(figure: Figure, name: str) -> str:
    """The figure as an <svg> element: no XML head, no metadata, the page's font and colour of text."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r'(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font: ([^;\"]*?px) [^;\"]*", r"font: \1 system-ui, sans-serif", text)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*" ', r"<svg \1", text, count=1)
    return re.sub(r'<svg ([^>]*?)width="[^"]*" ', r'<svg \1role="img" ', text, count=1)
