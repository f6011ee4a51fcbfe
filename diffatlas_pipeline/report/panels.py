"""The tables of the page."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from diffatlas_pipeline.benchmark.paper_table import header_of, notes_of, rows_of, summarise
from diffatlas_pipeline.benchmark.record import DONE
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.evaluation.evaluate import Evaluation
from diffatlas_pipeline.evaluation.summary_table import results_rows
from diffatlas_pipeline.inference.volume_intervals import volumes_ml
from diffatlas_pipeline.report.sources import CaseSource, Source
from diffatlas_pipeline.volumes.io import read_labels
from diffatlas_pipeline.volumes.size_unit import VOLUME, SizeUnit

NOTHING = "–"


@dataclass(frozen=True)
class Panel:
    """A table as text. ``texts``: columns without numbers; by row, ``marks``: its CSS class, ``remarks``: a text under
    it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    texts: Collection[int] = (0,)
    marks: Mapping[int, str] = field(default_factory=dict)
    remarks: Mapping[int, str] = field(default_factory=dict)


def summary_panel(evaluation: Evaluation) -> Panel:
    """Mean and standard deviation over cases, a row per label and one for their mean."""
    header, rows = results_rows(evaluation)
    caption = "Mean ± standard deviation over cases. The last row is the mean over labels."
    return Panel(header, rows, caption, marks={len(rows) - 1: "total"})


def case_panel(evaluation: Evaluation) -> Panel:
    """Every case, worst first: Dice per label, then means over labels."""
    names = [label.name for label in evaluation.labels]
    dice = evaluation.cases.pivot_table(index="case", columns="label", values="dice", dropna=False, aggfunc="first")
    means = evaluation.cases.groupby("case")[["dice", "nsd", "hd95_mm"]].mean().sort_values("dice", kind="stable")
    rows = []
    for case, mean in means.iterrows():
        scores = [_number(value) for value in (*dice.reindex(columns=names).loc[case], mean["dice"], mean["nsd"])]
        rows.append([str(case), *scores, _number(mean["hd95_mm"], 2)])
    header = ["case", *(f"Dice {name}" for name in names), "mean Dice", "mean NSD", "mean HD95 [mm]"]
    return Panel(header, rows, "All cases, worst first.")


def volume_panels(
    volumes: Mapping[str, Mapping[str, float]],
    labels: Sequence[LabelClass],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]],
    unit: SizeUnit = VOLUME,
) -> tuple[Panel, Panel]:
    """Without references: volumes in ``unit``, as statistics per label and for each case, smallest first; with the
    intervals in which the true volumes lie, of the cases that have them.
    """
    found = pd.DataFrame.from_dict(volumes, orient="index", columns=[label.name for label in labels], dtype=float)
    rows = []
    for name, column in found.items():
        present = column[column > 0]
        statistics = [_number(value, 2) for value in (present.mean(), present.std(), present.min(), present.max())]
        rows.append([str(name), *statistics, str(len(present)), str(len(column) - len(present))])
    header = ["label", *(f"{one} [{unit.symbol}]" for one in ("mean", "std", "smallest", "largest")), "found in", "absent in"]
    summary = Panel(header, rows, f"{unit.quantity.capitalize()}s over the cases in which the label was found.")
    ordered = found.loc[found.sum(axis=1).sort_values(kind="stable").index]
    each = []
    for case, row in ordered.iterrows():
        bounds = intervals.get(str(case), {})
        each.append([str(case), *(_number(value, 2) + _within(bounds.get(name)) for name, value in row.items())])
    caption = "All cases, smallest first."
    if any(intervals.get(str(case)) for case in ordered.index):
        caption += " In brackets: the true volume lies in between in nine of ten cases, by the errors of held-out cases."
    return summary, Panel(["case", *(f"{label.name} [{unit.symbol}]" for label in labels)], each, caption)


def _within(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f" ({bounds[0]:.2f} to {bounds[1]:.2f})"


def familiarity_panel(familiarity: Mapping[str, Mapping[str, Any]]) -> Panel:
    """How far each scan lies from what the model has learnt, the most unusual first."""
    aspects = list(dict.fromkeys(aspect for found in familiarity.values() for aspect in found["aspects"]))
    ordered = sorted(familiarity.items(), key=lambda item: (-item[1]["score"], item[0]))
    rows, marks = [], {}
    for index, (case, found) in enumerate(ordered):
        numbers = [found["score"], found["limit"], *(found["aspects"].get(aspect) for aspect in aspects)]
        rows.append([case, *(_number(number, 2) for number in numbers)])
        if found["score"] > found["limit"]:
            marks[index] = "failed"
    caption = (
        "How far each scan lies from cases that the model should know, in their standard deviations: about 1 is usual, and "
        "beyond the limit the scan may not belong to what the model has learnt. The most unusual first."
    )
    header = ["case", "score", "limit", *(aspect.replace("_", " ") for aspect in aspects)]
    return Panel(header, rows, caption, marks=marks)


def paper_panel(source: Source) -> Panel:
    """The table that the benchmark wrote, with its notes; remarks stand under their rows, which would be too wide."""
    assert source.benchmark is not None
    rows = rows_of(summarise(source.folder, source.benchmark), source.benchmark)
    marked = [[f"**{text}**" if index in row.best else text for index, text in enumerate(row.texts)][:-1] for row in rows]
    remarks = {index: row.texts[-1] for index, row in enumerate(rows) if row.texts[-1]}
    caption = " ".join(notes_of(source.benchmark))
    return Panel(header_of(source.benchmark)[:-1], marked, caption, texts=(0, 1), remarks=remarks)


def cell_panel(source: Source) -> Panel:
    """What became of each cell of a benchmark; a failed one says why."""
    assert source.benchmark is not None
    rows = []
    for record, run in zip(source.benchmark.cells, source.runs, strict=True):
        mean = run.evaluation.mean() if run.evaluation else {}
        said = f": {record.message}" if record.status != DONE and record.message else ""
        numbers = [str(len(record.training_cases)), _number(record.train_seconds, 1, 60), _number(record.seconds_per_case, 2)]
        scores = [_number(mean.get("dice")), _number(mean.get("nsd"))]
        rows.append([run.setting, run.method, str(run.seed), record.status + said, *numbers, *scores])
    header = [
        "setting",
        "method",
        "seed",
        "status",
        "training cases",
        "training [min]",
        "per case [s]",
        "mean Dice",
        "mean NSD",
    ]
    marks = {index: record.status for index, record in enumerate(source.benchmark.cells) if record.status != DONE}
    return Panel(header, rows, "One row per model and test set. Dice and NSD: mean over labels.", range(4), marks)


def measure_volumes(source: CaseSource, labels: Sequence[LabelClass]) -> dict[str, float] | str:
    """Millilitres of each label in the case's first segmentation, or why it cannot be read."""
    try:
        volume = read_labels(source.segmentations[0][1])
    except ImageError as error:
        return str(error)
    return volumes_ml(volume.array, labels, volume.grid)


def _number(value: float | None, digits: int = 3, unit: float = 1.0) -> str:
    return NOTHING if value is None or math.isnan(value) else f"{value / unit:.{digits}f}"
