"""Batches made ahead of the training by worker processes, none of which is waited for in vain.

The processes are those of ``torch.utils.data.DataLoader``: it notices a killed worker while it waits for a batch, and
its workers notice a killed parent, so neither side is left waiting (with batchgenerators' MultiThreadedAugmenter the
training waits for ever). One that a signal stopped is noticed here: torch would wait for the rest of its batch.
"""

from __future__ import annotations

import math
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

import blosc2
import torch
from torch.utils.data import DataLoader

from diffatlas_pipeline import console
from diffatlas_pipeline.data.batches import Batch, BatchStream, Unlabelled
from diffatlas_pipeline.data.patches import PatchSource
from diffatlas_pipeline.datasets.raw import listed
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.machine import SHARED, folder_for_sockets, shared_memory_bytes
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.processes import LOOK_S, StoppedProcesses, end_with_parent, start_tracker, unguarded_script

PREFETCHED = 2  # batches that each worker makes ahead
STOP_SECONDS = 10.0  # for a worker that was told to end
STALL_SECONDS = 600.0  # a batch takes well under a second; a worker silent for so long will never answer


class TrainingBatches:
    """Iterator over the batches of ``stream``; a context manager that stops its workers."""

    def __init__(self, stream: BatchStream, workers: int) -> None:
        options: dict[str, object] = {}
        if workers > 0:
            # spawn: a fork would inherit locks and threads of the training (OpenMP, CUDA) in whatever state they are.
            options = {
                "multiprocessing_context": "spawn",
                "prefetch_factor": PREFETCHED,
                "timeout": STALL_SECONDS,
                "worker_init_fn": _start_worker,
            }
        loader = DataLoader(stream, batch_size=None, num_workers=workers, **options)  # type: ignore[arg-type]
        self._workers, self._stream, self._made = workers, stream, 0
        with _deaf_children():
            self._batches: Iterator[Batch | UserError] | None = iter(loader)
        self._watch = _Watch(getattr(self._batches, "_workers", ()))

    def __enter__(self) -> TrainingBatches:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Torch says that a worker was lost wherever the training is just then, not only where it asks for a batch."""
        self.close()
        if self._workers and isinstance(error, RuntimeError) and is_lost_worker(error):
            raise self._lost(error) from error

    def __iter__(self) -> TrainingBatches:
        return self

    def __next__(self) -> Batch:
        if self._batches is None:
            raise StopIteration
        try:
            batch = next(self._batches)
        except StopIteration:
            self.close()
            raise
        except (RuntimeError, EOFError, OSError) as error:
            self.close()
            if self._workers and (is_lost_worker(error) or _lacks_shared_memory(error)):
                raise self._lost(error) from error
            raise
        if isinstance(batch, UserError):
            self.close()
            raise batch
        self._made += 1
        return batch

    def _lost(self, error: Exception) -> UserError:
        if self._watch.killed:
            advice = "It was stopped from outside (SIGSTOP) and not woken."
        elif _lacks_shared_memory(error):
            advice = (
                "Its shared memory (/dev/shm) is full: give the container more, such as 1 GB, or do without such "
                "processes by `workers` 0."
            )
        else:
            advice = "Most often the system killed it for lack of memory: run again with fewer `workers`."
        script = unguarded_script()
        return UserError(
            f"A process that makes training batches died or no longer answers ({error or type(error).__name__}). "
            f"{self._in_the_making()}{advice} Run the same command again: the training goes on from its last checkpoint."
            f"{' ' * bool(script)}{script}"
        )

    def _in_the_making(self) -> str:
        """Which cases the lost worker may have been at, and how large a batch is, as sentences."""
        with suppress(Exception):  # a case may be what is wrong
            cases = self._stream.cases_after(self._made, self._workers * PREFETCHED)
            size = f"a batch takes {bytes_of_batch(self._stream.plan) / 1e6:.3g} MB"
            return f"In the making were batches of {listed(cases)}; {size}. "
        return ""

    def close(self) -> None:
        """Stop the workers; safe to call again."""
        self._watch.end()
        batches, self._batches = self._batches, None
        # Not left to the garbage collector: a traceback may keep the iterator, and so the workers, alive.
        shutdown = getattr(batches, "_shutdown_workers", None)
        if shutdown is not None:
            try:
                shutdown()
            except RuntimeError as error:
                # One that dies of being stopped is no error, and must not hide why it was stopped. Torch has told the
                # others.
                if not is_lost_worker(error):
                    raise
                for worker in getattr(batches, "_workers", ()):
                    worker.join(STOP_SECONDS)


class _Watch:
    """Kills those of ``workers`` that a signal stopped and nobody wakes, so that nothing waits for them."""

    def __init__(self, workers: Sequence[BaseProcess]) -> None:
        self.killed = False
        self._workers, self._over = workers, threading.Event()
        if workers:
            threading.Thread(target=self._run, name="watch over the workers", daemon=True).start()

    def end(self) -> None:
        self._over.set()

    def _run(self) -> None:
        stopped = StoppedProcesses()
        while not self._over.wait(LOOK_S):
            alive = {worker.pid: worker for worker in self._workers if worker.pid is not None and worker.is_alive()}
            for number in stopped.look(alive):
                self.killed = True
                alive[number].kill()


def training_batches(
    folder: Path,
    cases: Sequence[str],
    plan: Plan,
    seed: int,
    first_iteration: int,
    last_iteration: int,
    workers: int,
    unlabelled: Unlabelled | None = None,
    any_contrast: float = 0.0,
    part: int = 0,
    parts: int = 1,
) -> TrainingBatches:
    """Batches number ``first_iteration`` up to, not including, ``last_iteration``, from the preprocessed data set
    ``folder``.

    A share ``any_contrast`` of the samples has a synthetic contrast. Each is {"image": (B, C, *patch), "distances": (B,
    K, *patch)}, float32 in [-1, 1]; the distances of a sample from the ``unlabelled`` cases are NaN, unless they have
    pseudo-labels. Batch i depends on ``seed`` and i only, so a resumed training, or one with another number of
    ``workers``, sees the same data. ``workers`` = 0 makes them in this process. Of several processes that train
    together, ``part`` of ``parts`` makes every ``parts``-th batch. Use it as a context manager. Raises DatasetError for
    cases that cannot be read, UserError when a worker dies.
    """
    unlabelled = unlabelled or Unlabelled()
    PatchSource(folder, cases, plan)  # say at once what is missing, not from within a worker
    if unlabelled:
        unlabelled.source(folder, plan)
    stream = BatchStream(
        folder, cases, plan, seed, range(first_iteration, last_iteration), unlabelled, any_contrast, part, parts
    )
    return TrainingBatches(stream, _workers_with_room(workers, plan))


def _workers_with_room(workers: int, plan: Plan) -> int:
    """``workers``, or 0 with a warning where they could not hand over their batches, which would be lost without a word
    and waited for: the memory that processes share is too small, or they cannot open sockets to one another.
    """
    if workers and folder_for_sockets() is None:
        console.warn(
            "Processes cannot open a socket in the temporary folder (TMPDIR) or in /tmp. Batches are made by the training "
            "itself, which is slower. Set TMPDIR to a folder with a short name that can be written."
        )
        return 0
    needed, free = bytes_of_batch(plan) * workers * (PREFETCHED + 1), shared_memory_bytes()
    if free is None or needed <= free:
        return workers
    console.warn(
        f"{SHARED} has {free / 1e6:.1f} MB free, but the batches of {workers} processes need {needed / 1e6:.0f} MB. They are "
        "made by the training itself, which is slower. Give the container more, such as 1 GB."
    )
    return 0


def bytes_of_batch(plan: Plan) -> int:
    """Images and distance maps of a batch."""
    voxels = plan.training.batch_size * math.prod(plan.patch_size)
    return 4 * voxels * (len(plan.channels) + plan.dataset.distance_maps)


def is_lost_worker(error: Exception) -> bool:
    """Whether what torch's DataLoader raised means that a worker was lost, and not that one raised an exception."""
    if str(error).startswith("Caught "):  # torch's note on an exception that a worker raised
        return False
    # A batch lies in its worker's memory: when that dies while it is fetched, the connection breaks (EOFError,
    # OSError).
    lost = ("killed", "exited", "timed out")
    return not isinstance(error, RuntimeError) or ("worker" in str(error) and any(word in str(error) for word in lost))


def _lacks_shared_memory(error: Exception) -> bool:
    """Whether batches did not fit into what processes share (/dev/shm), which containers keep small."""
    return any(word in str(error) for word in ("Bus error", "shared memory", "No space left on device"))


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started in here do not hear SIGTERM, from their first instruction on.

    A signal to end goes to the whole process group: the training writes its checkpoint first, and then ends its
    workers.
    """
    if sys.platform == "win32":
        yield
        return
    start_tracker()  # unblocks the signal where it has to start its own process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(_: int) -> None:
    """One thread: the other cores are the training's, or other workers'. It ends with the training."""
    end_with_parent()
    tempfile.tempdir = folder_for_sockets()  # through which torch hands over batches
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
