"""Preprocess a whole data set: in parallel, resumable case by case."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import blosc2
import torch
from tqdm import tqdm

from diffatlas_pipeline.contracts import CaseFiles, Plan, RawDataset
from diffatlas_pipeline.errors import DatasetError, UserError
from diffatlas_pipeline.preprocessing.case import prepare_image, prepare_labels
from diffatlas_pipeline.preprocessing.distance_maps import STORED_LIMIT
from diffatlas_pipeline.preprocessing.store import STORE_VERSION, open_case, write_case
from diffatlas_pipeline.volumes.io import read_grid, read_labels, read_volume

STALL_SECONDS = 1800.0  # a case takes seconds, a huge one minutes: when none ends for so long, none will
_LISTED = 20


def preprocess_dataset(dataset: RawDataset, plan: Plan, folder: Path, workers: int, overwrite: bool) -> None:
    """Store all training and unlabelled cases of ``dataset`` in ``folder``/cases.

    A case that is already there is kept if its checksum is right and it was made from the same files with the same
    plan-relevant settings, unless ``overwrite``. ``workers`` <= 1 works in this process. A case that cannot be used does not
    stop the others: one DatasetError at the end lists all of them. Raises DatasetError naming the case when a worker is
    killed, or when nothing ends for ``STALL_SECONDS``.
    """
    cases = [*dataset.training, *dataset.unlabelled]
    names = [files.case for files in cases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"{dataset.folder}: cases named twice: {', '.join(twice)}. Rename those in imagesUn.")
    task = partial(preprocess_case, plan=plan, folder=folder, overwrite=overwrite)
    with tqdm(total=len(cases), desc="Preprocessing", unit="case", delay=2, dynamic_ncols=True) as bar:
        problems = _run(task, cases, workers, bar, plan)
    if problems:
        shown = [f"  {problem}" for problem in problems[:_LISTED]]
        if len(problems) > _LISTED:
            shown.append(f"  and {len(problems) - _LISTED} more")
        summary = f"{dataset.folder}: {len(problems)} of {len(cases)} cases cannot be used; the others are done."
        raise DatasetError("\n".join([summary, *shown]))


def preprocess_case(files: CaseFiles, plan: Plan, folder: Path, overwrite: bool) -> str | None:
    """Store one case unless it is stored already; returns what is wrong with it, None when all is well."""
    try:
        settings = _settings(files, plan)
        if not overwrite and _is_stored(folder, files.case, settings):
            return None
        image, record = prepare_image(read_volume(files.images), plan)
        distances = None if files.label is None else prepare_labels(read_labels(files.label), record, plan)
        write_case(folder, files.case, image, distances, record, settings)
    except UserError as error:
        return f"{files.case}: {error}"
    return None


def _is_stored(folder: Path, case: str, settings: str) -> bool:
    try:
        stored = open_case(folder, case)
    except UserError:  # missing or damaged
        return False
    return stored.facts.settings == settings and stored.verify()


def _settings(files: CaseFiles, plan: Plan) -> str:
    """Digest of everything a stored case depends on: the plan's part in it, and which files it was made from."""
    paths = [*files.images, *([files.label] if files.label else [])]
    parts = [part for path in paths for part in (sorted(path.iterdir()) if path.is_dir() else [path])]
    missing = [path for path in parts if not path.exists()]
    if missing:
        raise DatasetError(f"{missing[0]}: no such file. Put it back, or remove the case.")
    source = [(part.name, (status := part.stat()).st_size, status.st_mtime_ns) for part in parts]
    made_with = {
        "version": STORE_VERSION,
        "limit": STORED_LIMIT,
        "dimensions": plan.dimensions,
        "spacing_mm": plan.spacing_mm,
        "channels": [dataclasses.asdict(channel) for channel in plan.channels],
        "tau_mm": plan.distance.tau_mm,
        "labels": [dataclasses.asdict(label) for label in plan.dataset.labels],
        "source": source,
    }
    return hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()


def _run(task: Callable[[CaseFiles], str | None], cases: Sequence[CaseFiles], workers: int, bar: tqdm, plan: Plan) -> list[str]:
    """``task`` of every case; returns the problems, in the order of ``cases``."""
    problems: dict[str, str | None] = {}
    if workers <= 1 or len(cases) <= 1:
        for files in cases:
            problems[files.case] = task(files)
            bar.update()
    else:
        _run_pools(task, cases, min(workers, len(cases)), bar, plan, problems)
    return [problem for files in cases if (problem := problems[files.case])]


def _run_pools(
    task: Callable[[CaseFiles], str | None],
    cases: Sequence[CaseFiles],
    workers: int,
    bar: tqdm,
    plan: Plan,
    problems: dict[str, str | None],
) -> None:
    """One pool per process: when a process dies, its pool breaks, and no other; so the case is known."""
    context = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, mp_context=context, initializer=_start_worker) for _ in range(workers)]
    waiting = deque(cases)
    running: dict[Future[str | None], tuple[CaseFiles, ProcessPoolExecutor]] = {}
    try:
        for pool in pools:
            files = waiting.popleft()
            running[pool.submit(task, files)] = (files, pool)
        while running:
            done, _ = wait(running, timeout=STALL_SECONDS, return_when=FIRST_COMPLETED)
            if not done:
                names = ", ".join(sorted(files.case for files, _ in running.values()))
                raise DatasetError(f"No case ended for {STALL_SECONDS:.0f} s while working on {names}. Look at these files.")
            for future in done:
                files, pool = running.pop(future)
                try:
                    problems[files.case] = future.result()
                except BrokenProcessPool as error:
                    raise DatasetError(_killed(files, plan)) from error
                bar.update()
                if waiting:
                    files = waiting.popleft()
                    running[pool.submit(task, files)] = (files, pool)
    except BaseException:
        for pool in pools:
            for process in list((getattr(pool, "_processes", None) or {}).values()):
                process.terminate()
        raise
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)


def _killed(files: CaseFiles, plan: Plan) -> str:
    """What to tell of a case whose process died."""
    try:
        x, y, z = read_grid(files.images[0]).shape
        # Image, canonical copy, normalised copy and spline work space per channel; labels and one label's maps; stored maps.
        gigabytes = x * y * z * (16 * len(plan.channels) + 24 + 4 * len(plan.dataset.labels)) / 1e9
        size = f"It needs about {gigabytes:.1f} GB ({x} x {y} x {z} voxels)"
    except UserError:
        size = "Its size is unknown"
    return (
        f"{files.case}: the process working on it was killed, most often by the system for lack of memory. {size}. "
        "Finished cases are kept: run the same command again with fewer --workers."
    )


def _start_worker() -> None:
    """One thread: the other cores are other workers'."""
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
