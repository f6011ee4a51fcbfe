"""Run the cells that are not done, some at the same time, with a line and the time left for each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from diffatlas_pipeline.benchmark.children import Children, Stopped
from diffatlas_pipeline.benchmark.paper_table import write_tables
from diffatlas_pipeline.benchmark.record import DONE, Cell
from diffatlas_pipeline.benchmark.run import Runner
from diffatlas_pipeline.benchmark.settings import PreparedSetting
from diffatlas_pipeline.benchmark.status import Status
from diffatlas_pipeline.benchmark.test_sets import link_test_set
from diffatlas_pipeline.benchmark.time_left import duration, time_left
from diffatlas_pipeline.console import say
from diffatlas_pipeline.machine import default_workers


@dataclass
class Schedule:
    """``todo``: the cells that are not done yet, of all ``cells``; so many ``jobs`` at the same time."""

    cells: Sequence[Cell]
    todo: list[Cell]
    status: Status
    jobs: int

    def announce(self, prepared: Sequence[PreparedSetting]) -> None:
        """Print what is compared, how much of it is done, and how long the rest takes."""
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
                for future in as_completed([pool.submit(runner.run, group) for group in groups.values()]):
                    future.result()
            except BaseException as error:
                children.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                if isinstance(error, Stopped):
                    raise KeyboardInterrupt from error
                raise

    def done(self, cell: Cell) -> None:
        """Print what became of ``cell``, and write the tables anew."""
        ended = self.status.known(cell)
        assert ended is not None and self.status.benchmark is not None
        self.todo.remove(cell)
        count = len(self.cells) - len(self.todo)
        if ended.status == DONE:
            took = duration(sum(ended.wall_seconds.values()))
            result = f"Dice {_mean_dice(self.status.folder / ended.evaluation)}, {took}"
        else:
            result = f"FAILED: {ended.message}"
        left = f"; about {self._left()} left" if self.todo else ""
        say(f"[{count}/{len(self.cells)}] {cell.title}: {result}{left}")
        write_tables(self.status.folder, self.status.benchmark)

    def _left(self) -> str:
        return time_left(self.todo, self._trained(), self.status.cells, self.jobs)

    def _trained(self) -> set[str]:
        return {cell.model for cell in self.cells if self.status.is_trained(cell)}


def run_cells(
    cells: Sequence[Cell],
    status: Status,
    prepared: Sequence[PreparedSetting],
    children: Children,
    labels_json: Path,
    device: str,
    jobs: int,
) -> None:
    """Run those of ``cells`` that are not done, as processes of ``children``; the options are those of :class:`Runner`."""
    schedule = Schedule(cells, [cell for cell in cells if not status.is_done(cell)], status, jobs)
    schedule.announce(prepared)
    if not schedule.todo:
        return
    settings = {setting.text: setting for setting in prepared}
    test_sets = {setting.test.dataset: link_test_set(setting.test, status.folder / "test_sets") for setting in prepared}
    workers = 1 if jobs > 1 else default_workers()
    runner = Runner(status, children.do, settings, test_sets, device, labels_json, workers, schedule.done)
    schedule.run(runner, children)


def _mean_dice(evaluation: Path) -> str:
    value = json.loads((evaluation / "summary.json").read_text(encoding="utf-8"))["mean"]["dice"]
    return "undefined" if value is None else f"{value:.3f}"
