"""Run one function over many cases in worker processes: progress bar, time-outs, and a name for the case that failed.

Workers import what the function's module imports before they begin, so that should stay light: no torch.
"""

from __future__ import annotations

import copy
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, TypeVar

from diffatlas_pipeline import cluster, console
from diffatlas_pipeline.errors import DatasetError, UserError
from diffatlas_pipeline.files import drive_fault
from diffatlas_pipeline.machine import available_bytes
from diffatlas_pipeline.processes import KILLED, Lost, Pools, unguarded_script

Item = TypeVar("Item")
Result = TypeVar("Result")

TIMEOUT_S = 1800.0  # a case takes seconds, a huge one minutes: one that takes this long will not end
WORTH_WORKERS_S = 10.0  # of work left, from which on other processes are worth their start


def run_cases(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    names: Sequence[str],
    workers: int,
    title: str,
    timeout_s: float = TIMEOUT_S,
    memory: Callable[[Item], str] | None = None,
    kept: str = "",
    item_bytes: int = 0,
) -> list[Result]:
    """``function`` of each item, in the order of ``items``, whatever the number of ``workers`` (1 = in this process).

    In :func:`~diffatlas_pipeline.cluster.on` a cluster does it, whatever the ``workers``. Here they are no more than
    the free memory has room for, if an item takes up to ``item_bytes`` (0: unknown); that is said.

    ``function`` must be importable (spawned workers). A worker that is killed, or stopped and not woken, or not
    finished after ``timeout_s`` seconds costs its case alone: that is said at once, the other cases are done, and then
    DatasetError names those that were lost and says what to do: with ``memory`` of an item (a sentence) and ``kept``, a
    sentence on what need not be done again. So does a MemoryError of ``function``. UserErrors of it, and errors of a
    drive, are passed on at once; any other exception when the other cases are done, with a note that names the case.
    Where nothing but such faults comes of the first cases, the others are not tried.
    """
    fitting = _affordable(workers, item_bytes)
    each = _each(_Guarded(function), items, fitting, timeout_s, apart=fitting < workers)
    return _collected(each, items, names, fitting, title, memory, kept)


def run_short_cases(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    names: Sequence[str],
    workers: int,
    title: str,
    memory: Callable[[Item], str] | None = None,
    item_bytes: int = 0,
) -> list[Result]:
    """:func:`run_cases`, but in this process where starting others would take longer than the work itself."""
    fitting = _affordable(workers, item_bytes)
    return _collected(_each_short(_Guarded(function), items, fitting), items, names, fitting, title, memory)


def _affordable(workers: int, item_bytes: int) -> int:
    free = available_bytes()
    if workers <= 1 or not item_bytes or free is None or cluster.scheduler() is not None:
        return workers
    fitting = max(1, min(workers, free // item_bytes))
    if fitting < workers:
        console.say(
            f"{fitting} of {workers} workers: a case takes up to {item_bytes / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are "
            "free."
        )
    return fitting


@dataclass(frozen=True)
class _Crashed:
    """The exception of an item, and where it was raised: that does not go from process to process with it."""

    error: Exception
    where: str


@dataclass(frozen=True)
class _Guarded(Generic[Item, Result]):
    """A function that returns what it raised, so that other items go on; but for what the user has to mend."""

    function: Callable[[Item], Result]

    def __call__(self, item: Item) -> Result | _Crashed:
        try:
            return self.function(item)
        except UserError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and drive_fault(error) is not None:
                raise
            traceback.clear_frames(error.__traceback__)  # which would keep the arrays of a case beside those of the next
            return _Crashed(_portable(error), traceback.format_exc())


def _portable(error: Exception) -> Exception:
    """``error``, or what it says, if it is one that cannot go to another process and this is not the first."""
    if multiprocessing.parent_process() is None:
        return error
    try:
        copy.copy(error)  # as it is made anew over there
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


_Found = Generator[tuple[int, Result | Lost | _Crashed], None, None]


def _each(
    work: _Guarded[Item, Result], items: Sequence[Item], workers: int, timeout_s: float = TIMEOUT_S, apart: bool = False
) -> _Found[Result]:
    """(index, what came of it) of each item as it ends; a single worker is this process, unless it works ``apart``."""
    if cluster.scheduler() is not None:
        yield from cluster.finished(work, items)
    elif (workers <= 1 and not apart) or len(items) <= 1:
        for index, item in enumerate(items):
            yield index, work(item)
    else:
        yield from Pools(work, items, min(workers, len(items)), timeout_s).finished()


def _each_short(work: _Guarded[Item, Result], items: Sequence[Item], workers: int) -> _Found[Result]:
    """:func:`_each`, with as many ``workers`` as the first item shows to be worth their start."""
    if cluster.scheduler() is not None or not items:
        yield from _each(work, items, workers)
        return
    start = time.perf_counter()
    first = work(items[0])
    is_short = (time.perf_counter() - start) * (len(items) - 1) < WORTH_WORKERS_S and not isinstance(first, _Crashed)
    yield 0, first
    for index, found in _each(work, items[1:], 1 if is_short else workers):
        yield index + 1, found


def _collected(
    each: _Found[Result],
    items: Sequence[Item],
    names: Sequence[str],
    workers: int,
    title: str,
    memory: Callable[[Item], str] | None = None,
    kept: str = "",
) -> list[Result]:
    """The results of ``each``, or the error that tells of those that failed: see :func:`run_cases`."""
    results: dict[int, Result] = {}
    failures = _Failures(f", {title[:1].lower()}{title[1:]}:", workers > 1 and cluster.scheduler() is None)
    with console.bar(title, len(items), "cases") as bar, closing(each):
        try:
            for index, found in each:
                if not isinstance(found, (Lost, _Crashed)):
                    results[index] = found
                    bar.advance()
                    continue
                told = failures.note(names[index], found, memory(items[index]) if memory else "")
                left = len(items) - len(results) - failures.count
                if left and not results and failures.all_would_fail(min(workers, len(items))):
                    failures.untried = left
                    break
                console.warn(f"{told} The other cases go on." if left else told)
        except UserError:
            for one in failures.crashed.values():  # they would go unseen
                print(one.where, file=sys.stderr)
            raise
    if failures.count:
        raise failures.error(kept, any_done=bool(results))
    return [results[index] for index in range(len(items))]


class _Failures:
    """What failed, and what is said of it; ``at`` follows the name of a case."""

    def __init__(self, at: str, several: bool) -> None:
        self.at, self.several = at, several
        self.lost: dict[str, str] = {}
        self.crashed: dict[str, _Crashed] = {}
        self.killed = self.short_of_memory = self.untried = 0

    @property
    def count(self) -> int:
        return len(self.lost) + len(self.crashed)

    def note(self, name: str, found: Lost | _Crashed, needs: str) -> str:
        """Keep in mind what became of a case; what is to be said of it."""
        if isinstance(found, _Crashed) and not isinstance(found.error, MemoryError):
            self.crashed[name] = found
            return f"{name}{self.at} a fault of this program ({type(found.error).__name__}: {found.error})."
        if isinstance(found, Lost):
            reason, by_memory = found.reason, found.reason is KILLED
            self.killed += by_memory
        else:
            reason, by_memory = f"{_NO_MEMORY} ({found.error})." if str(found.error) else f"{_NO_MEMORY}.", True
            self.short_of_memory += 1
        self.lost[name] = _sentences(f"{name}{self.at}", reason, needs if by_memory else "")
        return self.lost[name]

    def all_would_fail(self, workers: int) -> bool:
        """Whether, where nothing is done yet, so much failed that the others need not be tried: by a bug, or since
        processes do not live long enough. A case that is too large tells nothing of others.
        """
        certain = len(self.crashed) + (self.killed if cluster.scheduler() is None else 0)
        return certain >= max(2, workers)

    def error(self, kept: str, any_done: bool) -> Exception:
        """The first exception that is no want of memory, with notes; else what the user is to do."""
        untried = f"The other {self.untried} were not tried." if self.untried else ""
        if self.crashed:
            first, *_ = self.crashed.values()
            if first.error.__traceback__ is None:  # it comes from another process
                first.error.add_note(first.where)
            first.error.add_note(_sentences(f"Failed: {', '.join(self.crashed)}.", *self.lost.values(), untried, kept))
            return first.error
        script = unguarded_script() if self.killed and not any_done else ""
        mend = _FEWER if self.killed or self.short_of_memory else _STALLED
        if self.short_of_memory and not self.several:
            mend = _LESS
        return DatasetError(_sentences(*self.lost.values(), untried, script, kept, mend))


_NO_MEMORY = "there was not enough memory for it"
_FEWER = "Run the same command again with fewer `workers`."
_LESS = "Close other programs, crop the image, or leave it out. Then run the same command again."
_STALLED = (
    "Open the file in a viewer: if it is damaged, or far larger than the others, mend it or leave it out. If it lies on a "
    "network drive, copy the data to a local disk. If the computer is short of memory, use fewer `workers`. Then run the same "
    "command again."
)


def _sentences(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)
