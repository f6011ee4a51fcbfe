"""Processes that this one starts: a pool for each, so that it is known what one of them died of; they end with it, and
none of them stands still unseen.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Generic, TypeVar

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.machine import is_stopped

Item = TypeVar("Item")
Result = TypeVar("Result")

ENDING_S = 5.0  # for a terminated process to be gone
LOOK_S, LOOKS = 5.0, 6  # seconds between looks at the processes; a stopped one is given up after so many looks
ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLOSC_NTHREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
KILLED = "the process working on it was killed, most often by the system for lack of memory."
STOPPED = "the process working on it was stopped from outside (SIGSTOP) and not woken, so it was ended."
_GUARD = 'In the script, put the calls under the line: if __name__ == "__main__":'


def start_tracker() -> None:
    """Start Python's tracker of shared memory and semaphores, which removes what processes that were killed have left.

    It does not say so: its words for that would be taken for an error of ours.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (before, "ignore::UserWarning:multiprocessing.resource_tracker")))
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


def end_with_parent() -> None:
    """Make this process, which another one started, end when that one does, however that comes about.

    One that waits for work, or to hand over its result, would wait for ever: it holds both ends of the pipe itself.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True, name="end with the parent").start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


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


class StoppedProcesses:
    """Tells which processes stand still because a signal stopped them. It counts looks, not seconds: where all were
    stopped together, by Ctrl-Z or a job scheduler, the looks were, too.
    """

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def look(self, processes: Iterable[int]) -> list[int]:
        """Those of ``processes`` (their numbers) that were found stopped at this and the LOOKS - 1 looks before."""
        self._seen = {number: self._seen.get(number, 0) + 1 for number in processes if is_stopped(number)}
        return [number for number, times in self._seen.items() if times >= LOOKS]


def end(processes: Iterable[BaseProcess]) -> None:
    """Terminate, and kill what does not hear it: a process that was stopped, or that waits for a lost disk."""
    ending = list(processes)
    for process in ending:
        process.terminate()
    for process in ending:
        process.join(ENDING_S)
        if process.is_alive():
            process.kill()
            process.join(ENDING_S)


@dataclass(frozen=True)
class Lost:
    """What came of an item whose process ended without a result."""

    reason: str


@dataclass(frozen=True)
class _Task:
    index: int
    pool: int
    deadline: float


class Pools(Generic[Item, Result]):
    """One pool per process: when a process dies, its pool breaks and no other, so the case is known."""

    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item], workers: int, timeout_s: float) -> None:
        start_tracker()
        self._pools = [_pool() for _ in range(workers)]
        self._function, self._items, self._timeout_s = function, items, timeout_s
        self._waiting = iter(range(len(items)))
        self._running: dict[Future[Result], _Task] = {}
        self._processes: dict[int, BaseProcess] = {}  # the last of each pool
        self._ended: dict[int, str] = {}  # why the process of an item was ended from here
        self._stopped, self._look_at = StoppedProcesses(), time.monotonic() + LOOK_S

    def finished(self) -> Iterator[tuple[int, Result | Lost]]:
        """(index, result) of each item as it ends; raises what the function raised."""
        try:
            with _one_thread():  # a process inherits the environment in which it is started: at a submit
                for pool in range(len(self._pools)):
                    self._submit(pool)
                while self._running:
                    done, _ = wait(self._running, timeout=self._look_at - time.monotonic(), return_when=FIRST_COMPLETED)
                    for future in done:
                        task = self._running.pop(future)
                        try:
                            result: Result | Lost = future.result()
                        except BrokenProcessPool:
                            result = Lost(self._ended.pop(task.index, KILLED))
                            self._replace(task.pool)
                        self._submit(task.pool)
                        yield task.index, result
                    if time.monotonic() >= self._look_at:
                        self._end_those_that_hang()
        except BaseException:
            end(self._processes.values())
            self._shut_down(wait=False)
            raise
        self._shut_down(wait=True)  # idle processes end at once; left to themselves, they disturb the end of this one

    def _end_those_that_hang(self) -> None:
        """End the processes of items that take too long or stand still: then their pools break."""
        now = time.monotonic()
        self._look_at = now + LOOK_S
        numbers = {process.pid: pool for pool, process in self._processes.items() if process.pid is not None}
        stopped = {numbers[number] for number in self._stopped.look(numbers)}
        for task in self._running.values():
            if task.pool in stopped:
                self._ended[task.index] = STOPPED
            elif now >= task.deadline:
                limit = self._timeout_s
                waited = f"{limit / 60:.0f} minutes" if limit >= 120 else f"{limit:.0f} s"
                self._ended[task.index] = f"not finished after {waited}, so it was ended."
            else:
                continue
            end([self._processes[task.pool]])

    def _submit(self, pool: int) -> None:
        index = next(self._waiting, None)
        if index is None:
            return
        try:
            future = self._pools[pool].submit(self._function, self._items[index])
        except BrokenProcessPool:  # its process died while it was idle
            self._replace(pool)
            future = self._pools[pool].submit(self._function, self._items[index])
        for process in (getattr(self._pools[pool], "_processes", None) or {}).values():
            self._processes[pool] = process
        self._running[future] = _Task(index, pool, time.monotonic() + self._timeout_s)

    def _replace(self, pool: int) -> None:
        self._pools[pool].shutdown(wait=True)
        self._pools[pool] = _pool()

    def _shut_down(self, wait: bool) -> None:
        for pool in self._pools:
            pool.shutdown(wait=wait, cancel_futures=True)


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent)


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
