"""Run the cells that are not done, some at the same time, with a line and the time left for each."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from diffatlas_pipeline.benchmark.children import Children, Stopped
from diffatlas_pipeline.benchmark.paper_table import write_tables
from diffatlas_pipeline.benchmark.record import DONE, Cell
from diffatlas_pipeline.benchmark.run import Runner
from diffatlas_pipeline.benchmark.settings import PreparedSetting
from diffatlas_pipeline.benchmark.status import Status
from diffatlas_pipeline.benchmark.time_left import duration, time_left
from diffatlas_pipeline.console import say


@dataclass
class Schedule:
    """``todo``: the cells that are not done yet, of all ``cells``; so many ``jobs`` at the same time."""

    cells: Sequence[Cell]
    todo: list[Cell]
    status: Status
    jobs: int
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def announce(self, prepared: Sequence[PreparedSetting]) -> None:
        """Say what is compared, how much of it is done, and how long the rest takes."""
        seeds = sorted({cell.seed for cell in self.cells})
        methods = dict.fromkeys(cell.choice.text for cell in self.cells)
        say(f"Methods: {', '.join(methods)}\nSeeds: {', '.join(map(str, seeds))}\nSettings:")
        for note in (note for setting in prepared for note in setting.notes):
            say(f"  {note}")
        models = {cell.model for cell in self.todo} - self._trained()
        done = f", {len(self.cells) - len(self.todo)} of them done already" if len(self.todo) < len(self.cells) else ""
        say(f"{len(self.cells)} cells{done}; {len(models)} model(s) to make. Expected time: {self._left()}.")
        say(f"Results: {self.status.folder} (what each cell prints is in its log.txt)\n")

    def run(self, runner: Runner, children: Children) -> None:
        """Run what is not done, cells of one model together. KeyboardInterrupt if that is stopped."""
        groups: dict[str, list[Cell]] = {}
        for cell in self.todo:
            groups.setdefault(cell.model, []).append(cell)
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                for future in as_completed([pool.submit(self._run, runner, group) for group in groups.values()]):
                    future.result()
            except BaseException as error:
                children.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                if isinstance(error, Stopped):
                    raise KeyboardInterrupt from error
                raise

    def _run(self, runner: Runner, cells: Sequence[Cell]) -> None:
        """Run cells of one model, one after the other; say what became of each, and write the tables anew."""
        for cell in cells:
            ended = runner.run(cell)
            with self._lock:
                self._tell(ended)

    def _tell(self, cell: Cell) -> None:
        self.todo = [other for other in self.todo if other.key != cell.key]
        result = f"FAILED: {cell.message}"
        if cell.status == DONE:
            took = duration(sum(cell.wall_seconds.values()))
            result = f"Dice {_mean_dice(self.status.folder / cell.evaluation)}, {took}"
        left = f"; about {self._left()} left" if self.todo else ""
        say(f"[{len(self.cells) - len(self.todo)}/{len(self.cells)}] {cell.title}: {result}{left}")
        write_tables(self.status.folder, self.status.begun)

    def _left(self) -> str:
        return time_left(self.todo, self._trained(), self.status.cells, self.jobs)

    def _trained(self) -> set[str]:
        return {cell.model for cell in self.cells if self.status.is_trained(cell)}


def _mean_dice(evaluation: Path) -> str:
    value = json.loads((evaluation / "summary.json").read_text(encoding="utf-8"))["mean"]["dice"]
    return "undefined" if value is None else f"{value:.3f}"
