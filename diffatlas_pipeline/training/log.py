"""The training log: ``log.csv`` (one row per epoch), ``progress.png`` if matplotlib is installed, and TensorBoard
events if that is.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffatlas_pipeline import console
from diffatlas_pipeline.files import write_text_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECONDS_BETWEEN_PICTURES = 20
_FIRST = ("iteration", "seconds", "learning_rate", "loss")
_BAND = re.compile(r"_band(\d+)$")

Row = dict[str, float]
"""A row of log.csv by column; what was not measured is not in it."""


class TrainingLog:
    """Collects numbers of single iterations, writes means as rows; rows after ``iteration`` (of a killed run) are
    dropped.
    """

    def __init__(self, folder: Path, iteration: int, writes: bool = True) -> None:
        self.folder = folder
        self.path = folder / "log.csv"
        self.rows: list[Row] = []
        if iteration and self.path.exists():
            self.rows = [row for row in _rows_of(self.path) if row["iteration"] <= iteration]
        self._collected: dict[str, list[float]] = defaultdict(list)
        self._drawn_s = 0.0
        self._events = _tensorboard(folder) if writes else None

    def collect(self, parts: dict[str, float]) -> None:
        for name, value in parts.items():
            if not math.isnan(value):
                self._collected[name].append(value)

    def mean(self, name: str) -> float:
        """Mean of what was collected since the last row; NaN if nothing was."""
        values = self._collected.get(name, [])
        return sum(values) / len(values) if values else math.nan

    def write_row(
        self, iteration: int, seconds: float, learning_rate: float, validation: dict[str, float], last: bool = False
    ) -> None:
        """End an epoch: a row of means, and the file and events brought up to date; the picture now and then, not at
        once, and at the end.
        """
        row = {"iteration": float(iteration), "seconds": round(seconds, 2), "learning_rate": learning_rate}
        row |= {name: self.mean(name) for name in self._collected}
        row |= {f"dice_{name}": value for name, value in validation.items()}
        self.rows.append(row)
        self._collected.clear()
        write_text_atomically(self.path, _as_csv(self.rows))
        if last or seconds - self._drawn_s > SECONDS_BETWEEN_PICTURES:
            draw_progress(self.rows, self.folder / "progress.png")
            self._drawn_s = seconds
        if self._events is not None:
            for name, value in row.items():
                self._events.add_scalar(name, value, iteration)


def _place(column: str) -> tuple[int, str, int]:
    """Where a column of log.csv stands: time, losses, their parts, losses per noise band, Dice. Equals keep their
    order.
    """
    if column in _FIRST:
        return 0, "", _FIRST.index(column)
    if band := _BAND.search(column):
        return 2, column[: band.start()], int(band.group(1))
    if column.startswith("loss_"):
        return 1, "", 0
    return (4, "", 0) if column.startswith("dice_") else (3, "", 0)


def _rows_of(path: Path) -> list[Row]:
    """What was logged; nothing, with a warning, if the file is damaged: the training does not depend on it."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
        if all("iteration" in row for row in rows):
            return rows
        fault = "a row names no iteration"
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        fault = str(error)
    console.warn(f"{path} is damaged ({fault}): the log begins anew. The weights are not concerned.")
    return []


def _columns(rows: Sequence[Row]) -> list[str]:
    return sorted(dict.fromkeys(name for row in rows for name in row), key=_place)


def _as_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, _columns(rows), lineterminator="\n")
    table.writeheader()
    for row in rows:
        shown = {name: f"{value:.6g}" for name, value in row.items() if not math.isnan(value)}
        table.writerow(shown | {"iteration": int(row["iteration"])})
    return text.getvalue()


def draw_progress(rows: Sequence[Row], path: Path) -> None:
    """Losses, losses per noise band, validation Dice and learning rate over the iterations, as a PNG; none without
    matplotlib. Its title names the data set, model and fold that the folders above ``path`` are called by.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure  # not pyplot: a notebook's own backend and figures stay as they are
    except ImportError:
        return
    names = _columns(rows)
    panels = [
        ("Training loss", [name for name in names if name.startswith("loss_") and "band" not in name], True),
        ("Training loss per noise band (0: least noise)", [name for name in names if "band" in name], True),
        ("Validation Dice (sampled, EMA weights)", [name for name in names if name.startswith("dice_")], False),
        ("Learning rate", ["learning_rate"], False),
    ]
    temporary = path.with_name(f".{path.name}.tmp.png")
    with mpl.rc_context({"text.parse_math": False}):  # names may hold any letters
        figure = Figure(figsize=(14, 7.5))
        figure.suptitle(_title(rows, path), fontsize=13)
        for axis, (title, columns, logarithmic) in zip(figure.subplots(2, 2, sharex=True).flat, panels, strict=True):
            for column in columns:
                points = [(row["iteration"], row[column]) for row in rows if not math.isnan(row.get(column, math.nan))]
                label = column.removeprefix("loss_").removeprefix("dice_").replace("_", " ")
                axis.plot(*zip(*points, strict=True), label=label, marker="o" if len(points) < 40 else None, markersize=3)
            axis.set_title(title, y=1.0)
            axis.grid(alpha=0.3)
            last = axis.get_subplotspec().is_last_row()
            if columns and title != "Learning rate":  # beside the curves, which it would hide
                place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0, "frameon": False}
                axis.legend(fontsize=9, ncols=math.ceil(len(columns) / (17 if last else 34)), **place)
            if not columns:
                axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes)
            if logarithmic and columns:
                axis.set_yscale("log")
                axis.yaxis.set_major_formatter("{x:g}")
                low, high = axis.get_ylim()
                axis.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else "")  # the default one writes formulas
            if title.startswith("Validation"):
                axis.set_ylim(0, 1)
            if last:
                axis.set_xlabel("iteration")
        _make_room_for_legends(figure)
        figure.savefig(temporary, dpi=90)
    temporary.replace(path)


def _make_room_for_legends(figure: Figure) -> None:
    """Place the four panels, each with its legend on the right. Matplotlib's own layouts draw all several times to find
    the same, and a training waits for its picture.
    """
    numbers, beside = 0.055, [0.0, 0.0]  # shares of the figure's width: left of each panel, right of each column
    for place, axis in enumerate(figure.axes):
        if legend := axis.get_legend():
            beside[place % 2] = max(beside[place % 2], legend.get_window_extent().width / figure.bbox.width + 0.01)
    width = max(0.1, (0.99 - 2 * numbers - sum(beside)) / 2)
    for place, axis in enumerate(figure.axes):
        row, column = divmod(place, 2)
        axis.set_position((numbers + column * (numbers + width + beside[0]), 0.075 if row else 0.52, width, 0.37))


def _title(rows: Sequence[Row], path: Path) -> str:
    """Data set, model and fold, as their folders are called, and how long the training has taken."""
    minutes = rows[-1].get("seconds", 0.0) / 60 if rows else 0.0
    return f"{', '.join(path.resolve().parts[-4:-1])}: {minutes:.1f} minutes of training"


def _tensorboard(folder: Path):  # type: ignore[no-untyped-def]
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))
