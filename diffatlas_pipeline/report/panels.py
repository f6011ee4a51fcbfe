"""The tables of the page."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.evaluation.evaluate import Evaluation
from diffatlas_pipeline.evaluation.summary_table import results_rows
from diffatlas_pipeline.report.sources import DONE, CaseSource, Cell
from diffatlas_pipeline.volumes.io import read_labels

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """Rows of text. ``texts``: columns without numbers; ``marks``: a CSS class per row; ``remarks``: a text under a row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    texts: Collection[int] = (0,)
    marks: Sequence[str] = ()
    remarks: Sequence[str] = ()

    def mark(self, row: int) -> str:
        return self.marks[row] if self.marks else ""

    def remark(self, row: int) -> str:
        return self.remarks[row] if self.remarks else ""


def summary_table(evaluation: Evaluation) -> Table:
    """Mean and standard deviation over cases, a row per label and one for their mean."""
    header, rows = results_rows(evaluation)
    marks = [""] * (len(rows) - 1) + ["total"]
    return Table(header, rows, "Mean ± standard deviation over cases. The last row is the mean over labels.", marks=marks)


def case_table(evaluation: Evaluation) -> Table:
    """Every case, worst first: Dice per label, then means over labels."""
    names = [label.name for label in evaluation.labels]
    dice = evaluation.cases.pivot_table(index="case", columns="label", values="dice", dropna=False, aggfunc="first")
    means = evaluation.cases.groupby("case")[["dice", "nsd", "hd95_mm"]].mean()
    order = means["dice"].sort_values(kind="stable", na_position="last").index
    rows = [
        [
            str(case),
            *(_number(dice[name].get(case, math.nan) if name in dice else math.nan) for name in names),
            *(_number(means.loc[case, metric], 2 if metric == "hd95_mm" else 3) for metric in ("dice", "nsd", "hd95_mm")),
        ]
        for case in order
    ]
    header = ["case", *(f"Dice {name}" for name in names), "mean Dice", "mean NSD", "mean HD95 [mm]"]
    return Table(header, rows, "All cases, worst first.")


def volume_tables(volumes: Mapping[str, Mapping[str, float]], labels: Sequence[LabelClass]) -> tuple[Table, Table]:
    """Without references: volumes in millilitres, as statistics per label and for each case, smallest first."""
    rows = []
    for label in labels:
        values = np.array([found[label.name] for found in volumes.values()])
        present = values[values > 0]
        statistics = (
            (present.mean(), present.std(ddof=1) if len(present) > 1 else math.nan) if len(present) else (math.nan,) * 2
        )
        low, high = (present.min(), present.max()) if len(present) else (math.nan, math.nan)
        absent = str(int((values == 0).sum()))
        rows.append([label.name, *(_number(float(v), 2) for v in (*statistics, low, high)), str(len(present)), absent])
    header = ["label", "mean [ml]", "std [ml]", "smallest [ml]", "largest [ml]", "found in", "absent in"]
    summary = Table(header, rows, "Volumes over the cases in which the label was found.")
    order = sorted(volumes, key=lambda case: sum(volumes[case].values()))
    each = [[case, *(_number(volumes[case][label.name], 2) for label in labels)] for case in order]
    return summary, Table(["case", *(f"{label.name} [ml]" for label in labels)], each, "All cases, smallest first.")


def cell_table(cells: Sequence[Cell]) -> Table:
    """What became of each cell of a benchmark; a failed one says why."""
    rows, marks = [], []
    for cell in cells:
        mean = cell.evaluation.mean() if cell.evaluation else {}
        rows.append(
            [
                cell.setting,
                cell.method,
                str(cell.seed),
                cell.status if cell.status == DONE or not cell.message else f"{cell.status}: {cell.message}",
                str(cell.training_cases or NOTHING),
                NOTHING if cell.train_seconds is None else f"{cell.train_seconds / 60:.1f}",
                NOTHING if cell.seconds_per_case is None else f"{cell.seconds_per_case:.2f}",
                _number(mean.get("dice", math.nan)),
                _number(mean.get("nsd", math.nan)),
            ]
        )
        marks.append(cell.status if cell.status in ("failed", "waiting") else "")
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
    return Table(header, rows, "One row per model and test set.", range(4), marks)


def paper_tables(folder: Path) -> list[Table]:
    """The tables of ``table.md`` of a benchmark, [] if it is not there. The text after a table is its caption."""
    try:
        lines = (folder / "table.md").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    tables: list[Table] = []
    rows: list[list[str]] = []
    texts: set[int] = set()
    for line in [*lines, ""]:
        if line.startswith("|"):
            cells = [cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
            if all(re.fullmatch(r":?-+:?", cell) for cell in cells):
                texts = {index for index, cell in enumerate(cells) if not cell.endswith(":")}
            else:
                rows.append(cells)
        elif rows:
            remarks: list[str] = []
            if rows[0][-1] == "remarks":  # they would make the table wider than a screen
                remarks = [row.pop() for row in rows][1:]
            tables.append(Table(rows[0], rows[1:], texts=texts, remarks=remarks))
            rows = []
        if tables and line.startswith("- "):
            tables[-1] = replace(tables[-1], caption=f"{tables[-1].caption} {line[2:]}".strip())
    return tables


def measure_volumes(source: CaseSource, labels: Sequence[LabelClass]) -> dict[str, float] | str:
    """Millilitres of each label in the case's first segmentation, or why it cannot be read."""
    try:
        volume = read_labels(source.segmentations[0][1])
    except ImageError as error:
        return str(error)
    voxel_ml = float(np.prod(volume.grid.spacing_mm)) / 1000
    return {label.name: float(np.count_nonzero(volume.array == label.value)) * voxel_ml for label in labels}


def _number(value: float, digits: int = 3) -> str:
    return NOTHING if math.isnan(value) else f"{value:.{digits}f}"
