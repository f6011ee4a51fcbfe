"""How long a benchmark still takes, from what its finished cells took."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffatlas_pipeline.benchmark.cells import DONE, Cell, Status
from diffatlas_pipeline.benchmark.settings import PreparedSetting


class TimeLeft:
    """One line per cell, with the time left."""

    def __init__(self, cells: list[Cell], todo: list[Cell], status: Status, jobs: int) -> None:
        self.cells, self.todo, self.status, self.jobs = cells, list(todo), status, jobs

    def announce(self, prepared: list[PreparedSetting]) -> None:
        seeds = sorted({cell.seed for cell in self.cells})
        methods = dict.fromkeys(cell.choice.text for cell in self.cells)
        print(f"Methods: {', '.join(methods)}\nSeeds: {', '.join(map(str, seeds))}\nSettings:")
        for setting in prepared:
            for note in setting.notes:
                print(f"  {note}")
        models = {cell.model for cell in self.todo} - self._trained()
        done = f", {len(self.cells) - len(self.todo)} of them done already" if len(self.todo) < len(self.cells) else ""
        print(f"{len(self.cells)} cells{done}; {len(models)} model(s) to make. Expected time: {self._left()}.")
        print(f"Results: {self.status.folder} (what each cell prints is in its log.txt)\n", flush=True)

    def done(self, cell: Cell) -> None:
        entry = self.status.entry(cell) or {}
        self.todo.remove(cell)
        count = len(self.cells) - len(self.todo)
        if entry["status"] == DONE:
            wall = entry["wall_seconds"]
            result = f"Dice {_average_dice(self.status.folder / entry['evaluation'])}, {duration(sum(wall.values()))}"
        else:
            result = f"FAILED: {entry['message']}"
        left = f"; about {self._left()} left" if self.todo else ""
        print(f"[{count}/{len(self.cells)}] {cell.title}: {result}{left}", flush=True)

    def _left(self) -> str:
        seconds = seconds_left(self.todo, self._trained(), self.status.content["cells"])
        return "unknown until the first training is done" if seconds is None else duration(seconds / self.jobs)

    def _trained(self) -> set[str]:
        return {cell.model for cell in self.cells if self.status.is_trained(cell)}


def seconds_left(cells: Sequence[Cell], trained: Iterable[str], entries: Iterable[Mapping[str, Any]]) -> float | None:
    """Expected seconds of work for ``cells``, where the models ``trained`` are there already; None if nothing tells.

    A part takes as long as in finished cells of the same method. Where there is none, training takes the time budget, and a
    test case as long as with any method, or does not count.
    """
    finished = [entry for entry in entries if entry["status"] == DONE]
    there, total = set(trained), 0.0
    for cell in cells:
        same = [entry for entry in finished if entry["method"] == cell.method]
        if cell.model not in there:
            there.add(cell.model)
            training = _mean(_training(entry) for entry in same)
            if training is None:
                training = cell.conditions.max_time_s if cell.learned else 0.0
            if training is None:
                return None
            total += training
        testing = _mean(_testing(entry) for entry in same)
        if testing is None:
            testing = _mean(_testing(entry) for entry in finished) or 0.0
        total += testing * len(cell.test.cases)
    return total


def duration(seconds: float) -> str:
    """'45 s', '12 min', '3 h 20 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _training(entry: Mapping[str, Any]) -> float | None:
    value = entry["wall_seconds"].get("train")
    return None if value is None else float(value)


def _testing(entry: Mapping[str, Any]) -> float | None:
    parts = [entry["wall_seconds"].get(part) for part in ("predict", "evaluate")]
    return None if None in parts else sum(float(part) for part in parts) / max(1, len(entry["test_cases"]))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _average_dice(evaluation: Path) -> str:
    value = json.loads((evaluation / "summary.json").read_text(encoding="utf-8"))["mean"]["dice"]
    return "undefined" if value is None else f"{value:.3f}"
