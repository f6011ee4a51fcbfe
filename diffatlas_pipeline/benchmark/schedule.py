"""Run the cells that are not done, some at the same time, with a line and the time left for each."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from diffatlas_pipeline.benchmark.on_cluster import OnCluster
from diffatlas_pipeline.benchmark.paper_table import write_tables
from diffatlas_pipeline.benchmark.record import DONE, Cell
from diffatlas_pipeline.benchmark.run import Runner
from diffatlas_pipeline.benchmark.settings import PreparedSetting
from diffatlas_pipeline.benchmark.status import Status
from diffatlas_pipeline.children import Children, ChildrenStopped
from diffatlas_pipeline.console import duration, say


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

    def run(self, runner: Runner, children: Children | OnCluster) -> None:
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
                if isinstance(error, ChildrenStopped):
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


def time_left(cells: Sequence[Cell], trained: Iterable[str], known: Iterable[Cell], jobs: int = 1) -> str:
    """How long ``cells`` take with ``jobs`` at the same time, as text."""
    seconds = seconds_left(cells, trained, known)
    return "unknown until the first training is done" if seconds is None else duration(seconds / jobs)


def seconds_left(cells: Sequence[Cell], trained: Iterable[str], known: Iterable[Cell]) -> float | None:
    """Expected seconds of work for ``cells``, where the models ``trained`` are there already; None if nothing tells.

    A part takes as long as in finished cells of the same method, of those that are ``known``. Where there is none,
    training takes the time budget, and a test case as long as with any method, or does not count.
    """
    finished = [cell for cell in known if cell.status == DONE]
    there, total = set(trained), 0.0
    for cell in cells:
        same = [one for one in finished if one.method == cell.method]
        if cell.model not in there:
            there.add(cell.model)
            training = _mean(one.wall_seconds.get("train") for one in same)
            if training is None:
                training = cell.options.training.max_time_s if cell.choice.learned else 0.0
            if training is None:
                return None
            total += training
        testing = _mean(_testing(one) for one in same)
        if testing is None:
            testing = _mean(_testing(one) for one in finished) or 0.0
        total += testing * len(cell.test_cases)
    return total


def _testing(cell: Cell) -> float | None:
    """Seconds per test case."""
    wall = cell.wall_seconds
    known = "predict" in wall and "evaluate" in wall
    return (wall["predict"] + wall["evaluate"]) / max(1, len(cell.test_cases)) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
