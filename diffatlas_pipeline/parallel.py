"""Run one function over many cases in worker processes: progress bar, time-outs, and a name for the case that failed.

Workers import what the function's module imports before they begin, so that should stay light: no torch.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from diffatlas_pipeline import console
from diffatlas_pipeline.errors import DatasetError, UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

TIMEOUT_S = 1800.0  # a case takes seconds, a huge one minutes: one that takes this long will not end
WORTH_WORKERS_S = 10.0  # of work left, from which on other processes are worth their start
ENDING_S = 5.0  # for a terminated process to be gone
ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLOSC_NTHREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


def run_cases(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    names: Sequence[str],
    workers: int,
    title: str,
    timeout_s: float = TIMEOUT_S,
    memory: Callable[[Item], str] | None = None,
    kept: str = "",
) -> list[Result]:
    """``function`` of each item, in the order of ``items``, whatever the number of ``workers`` (1 = in this process).

    ``function`` must be importable (spawned workers). Raises DatasetError that names the case when its worker was
    killed, or when it was not finished after ``timeout_s`` seconds, and says what to do: with ``memory`` of its item (a
    sentence) and ``kept``, a sentence on what need not be done again. An exception of ``function`` is passed on.
    """
    results: dict[int, Result] = {}
    with console.bar(title, len(items), "cases") as bar:
        if workers <= 1 or len(items) <= 1:
            for index, item in enumerate(items):
                results[index] = function(item)
                bar.advance()
        else:
            pools = _Pools(function, items, min(workers, len(items)), timeout_s)
            try:
                for index, result in pools.finished():
                    results[index] = result
                    bar.advance()
            except _Killed as error:
                needs = memory(items[error.index]) if memory else ""
                raise DatasetError(
                    f"{names[error.index]}: {_sentences(_KILLED, unguarded_script(), needs, kept, _FEWER)}"
                ) from error
            except _Stalled as error:
                late = ", ".join(names[index] for index in error.indices)
                waited = f"{timeout_s / 60:.0f} minutes" if timeout_s >= 120 else f"{timeout_s:.0f} s"
                stalled = f"not finished after {waited}, so the work was stopped."
                raise DatasetError(f"{late}: {_sentences(stalled, kept, _STALLED)}") from error
    return [results[index] for index in range(len(items))]


def run_short_cases(
    function: Callable[[Item], Result], items: Sequence[Item], names: Sequence[str], workers: int, title: str
) -> list[Result]:
    """:func:`run_cases`, but in this process where starting others would take longer than the work itself."""
    start = time.perf_counter()
    first, rest = [function(item) for item in items[:1]], items[1:]
    if (time.perf_counter() - start) * len(rest) < WORTH_WORKERS_S:
        workers = 1
    return first + run_cases(function, rest, names[1:], workers, title)


def check_main_guard() -> None:
    """UserError in a process that is being started: it runs the user's script, and so this call, once more."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError(f"This call starts processes, each of which runs the script from its beginning. {_GUARD}")


def unguarded_script() -> str:
    """A sentence on why started processes die, if the script that runs does not keep its calls from them; else ""."""
    script = getattr(sys.modules["__main__"], "__file__", None)  # none in a notebook
    try:
        if script is None or "__main__" in Path(script).read_text(encoding="utf-8", errors="replace"):
            return ""
    except OSError:
        return ""
    return f"Here it is more likely that {Path(script).name}, which it runs from the beginning, makes its calls again. {_GUARD}"


_GUARD = 'In the script, put the calls under the line: if __name__ == "__main__":'
_KILLED = "the process working on it was killed, most often by the system for lack of memory."
_FEWER = "Run the same command again with fewer `workers`."
_STALLED = (
    "Open the file in a viewer: if it is damaged, or far larger than the others, mend it or leave it out. If it lies on a "
    "network drive, copy the data to a local disk. If the computer is short of memory, use fewer `workers`. Then run the same "
    "command again."
)


def _sentences(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)


class _Killed(Exception):
    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


class _Stalled(Exception):
    def __init__(self, indices: Sequence[int]) -> None:
        super().__init__(indices)
        self.indices = indices


class _Pools(Generic[Item, Result]):
    """One pool per process: when a process dies, its pool breaks and no other, so the case is known."""

    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item], workers: int, timeout_s: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._pools = [ProcessPoolExecutor(1, mp_context=context) for _ in range(workers)]
        self._function, self._items, self._timeout_s = function, items, timeout_s
        self._waiting = iter(range(len(items)))
        self._running: dict[Future[Result], tuple[int, ProcessPoolExecutor, float]] = {}

    def finished(self) -> Iterator[tuple[int, Result]]:
        """(index, result) of each item as it ends. Raises _Killed, _Stalled, or what the function raised."""
        try:
            with _one_thread():  # a process inherits the environment in which it is started: at the first submit
                for pool in self._pools:
                    self._submit(pool)
            while self._running:
                first = min(deadline for _, _, deadline in self._running.values())
                done, _ = wait(self._running, timeout=max(0.0, first - time.monotonic()), return_when=FIRST_COMPLETED)
                if not done:
                    now = time.monotonic()
                    raise _Stalled([index for index, _, deadline in self._running.values() if deadline <= now + 0.1])
                for future in done:
                    index, pool, _ = self._running.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool as error:
                        raise _Killed(index) from error
                    self._submit(pool)
                    yield index, result
        except BaseException:
            self._terminate()
            self._shut_down(wait=False)
            raise
        self._shut_down(wait=True)  # idle processes end at once; left to themselves, they disturb the end of this one

    def _shut_down(self, wait: bool) -> None:
        for pool in self._pools:
            pool.shutdown(wait=wait, cancel_futures=True)

    def _submit(self, pool: ProcessPoolExecutor) -> None:
        index = next(self._waiting, None)
        if index is None:
            return
        try:
            future = pool.submit(self._function, self._items[index])
        except BrokenProcessPool as error:
            raise _Killed(index) from error
        self._running[future] = index, pool, time.monotonic() + self._timeout_s

    def _terminate(self) -> None:
        processes = [process for pool in self._pools for process in (getattr(pool, "_processes", None) or {}).values()]
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(ENDING_S)  # not for ever: one that waits for a lost disk does not end


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes started in here use one thread each, so that they do not fight for cores."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
