"""How long a benchmark still takes, from what its finished cells took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from diffatlas_pipeline.benchmark.cells import Cell
from diffatlas_pipeline.benchmark.record import DONE, CellRecord


def time_left(cells: Sequence[Cell], trained: Iterable[str], records: Iterable[CellRecord], jobs: int = 1) -> str:
    """How long ``cells`` take with ``jobs`` at the same time, as text."""
    seconds = seconds_left(cells, trained, records)
    return "unknown until the first training is done" if seconds is None else duration(seconds / jobs)


def seconds_left(cells: Sequence[Cell], trained: Iterable[str], records: Iterable[CellRecord]) -> float | None:
    """Expected seconds of work for ``cells``, where the models ``trained`` are there already; None if nothing tells.

    A part takes as long as in finished cells of the same method. Where there is none, training takes the time budget, and a
    test case as long as with any method, or does not count.
    """
    finished = [record for record in records if record.status == DONE]
    there, total = set(trained), 0.0
    for cell in cells:
        same = [record for record in finished if record.method == cell.method]
        if cell.model not in there:
            there.add(cell.model)
            training = _mean(record.wall_seconds.get("train") for record in same)
            if training is None:
                training = cell.conditions.max_time_s if cell.learned else 0.0
            if training is None:
                return None
            total += training
        testing = _mean(_testing(record) for record in same)
        if testing is None:
            testing = _mean(_testing(record) for record in finished) or 0.0
        total += testing * len(cell.test.cases)
    return total


def duration(seconds: float) -> str:
    """'45 s', '12 min', '3 h 20 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _testing(record: CellRecord) -> float | None:
    """Seconds per test case."""
    wall = record.wall_seconds
    known = "predict" in wall and "evaluate" in wall
    return (wall["predict"] + wall["evaluate"]) / max(1, len(record.test_cases)) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
