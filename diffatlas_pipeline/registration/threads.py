"""Registrations side by side, one in each thread."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def side_by_side(tasks: int, workers: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads for ``tasks`` registrations, at most ``workers`` (default: one per core). Registrations hold no lock."""
    with one_itk_thread(), ThreadPoolExecutor(max(1, min(workers or _cores(), tasks))) as threads:
        yield threads


@contextmanager
def one_itk_thread() -> Iterator[None]:
    """In here ITK uses one thread per filter.

    The number is the process' own; setting it on the registration alone does not reach the metric.
    """
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
