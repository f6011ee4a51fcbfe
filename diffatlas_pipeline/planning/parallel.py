"""Run one function over many cases in worker processes: progress bar, time-outs, and a name for the case that failed."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from diffatlas_pipeline.contracts import CaseFiles
from diffatlas_pipeline.errors import DatasetError

Item = TypeVar("Item")
Result = TypeVar("Result")

TIMEOUT_S = 900.0  # no case takes this long: a worker that does has stalled
SMALL_BYTES = 32 * 2**20


def useful_workers(cases: Iterable[CaseFiles], workers: int) -> int:
    """``workers``, but one (this process) for data so small that starting processes would take longer than the work."""
    total = 0
    for files in cases:
        for path in (*files.images, files.label):
            if path is not None:
                total += _size(path)
                if total > SMALL_BYTES:
                    return workers
    return 1


def _size(path: Path) -> int:
    return sum(part.stat().st_size for part in path.iterdir()) if path.is_dir() else path.stat().st_size


def run_cases(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    names: Sequence[str],
    workers: int,
    title: str,
    timeout_s: float = TIMEOUT_S,
) -> list[Result]:
    """``function`` of each item, in the order of ``items``, whatever the number of ``workers`` (1 = in this process).

    ``function`` must be importable (spawned workers). Raises DatasetError that names the cases being worked on when a worker
    was killed or nothing was finished for ``timeout_s`` seconds; an exception of ``function`` is passed on.
    """
    results: dict[int, Result] = {}
    with tqdm(total=len(items), desc=title, unit="case", delay=2, dynamic_ncols=True) as bar:
        if workers <= 1 or len(items) <= 1:
            for index, item in enumerate(items):
                results[index] = function(item)
                bar.update()
        else:
            _run_pool(function, items, names, min(workers, len(items)), timeout_s, results, bar)
    return [results[index] for index in range(len(items))]


def _run_pool(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    names: Sequence[str],
    workers: int,
    timeout_s: float,
    results: dict[int, Result],
    bar: tqdm,
) -> None:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread)
    running: dict[Future[Result], int] = {}
    waiting = iter(range(len(items)))
    try:
        # No more cases are handed out than there are workers, so the running ones are exactly the suspects of a crash.
        while len(results) < len(items):
            while len(running) < workers and (index := next(waiting, None)) is not None:
                running[pool.submit(function, items[index])] = index
            done, _ = wait(running, timeout=timeout_s, return_when=FIRST_COMPLETED)
            suspects = ", ".join(sorted(names[index] for index in running.values()))
            if not done:
                raise DatasetError(
                    f"No case was finished in {timeout_s:.0f} s while working on {suspects}. Look at these files."
                )
            for future in done:
                try:
                    results[running[future]] = future.result()
                except BrokenProcessPool as error:
                    raise DatasetError(
                        f"A worker process was killed, most likely for want of memory, while working on {suspects}. "
                        "Use fewer --workers."
                    ) from error
                del running[future]
                bar.update()
    except BaseException:
        for process in list((getattr(pool, "_processes", None) or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _one_thread() -> None:
    """One thread per worker, so that workers do not fight for cores."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
