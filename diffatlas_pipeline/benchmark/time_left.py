"""How long a benchmark still takes, from what its finished cells took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from diffatlas_pipeline.benchmark.record import DONE, Cell


def time_left(cells: Sequence[Cell], trained: Iterable[str], known: Iterable[Cell], jobs: int = 1) -> str:
    """How long ``cells`` take with ``jobs`` at the same time, as text."""
    seconds = seconds_left(cells, trained, known)
    return "unknown until the first training is done" if seconds is None else duration(seconds / jobs)


def seconds_left(cells: Sequence[Cell], trained: Iterable[str], known: Iterable[Cell]) -> float | None:
    """Expected seconds of work for ``cells``, where the models ``trained`` are there already; None if nothing tells.

    A part takes as long as in finished cells of the same method, of those that are ``known``. Where there is none, training
    takes the time budget, and a test case as long as with any method, or does not count.
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


def duration(seconds: float) -> str:
    """'45 s', '12 min', '3 h 20 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _testing(cell: Cell) -> float | None:
    """Seconds per test case."""
    wall = cell.wall_seconds
    known = "predict" in wall and "evaluate" in wall
    return (wall["predict"] + wall["evaluate"]) / max(1, len(cell.test_cases)) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
