"""Batches of augmented patches, made ahead of the training by worker processes.

The workers are those of ``torch.utils.data.DataLoader``: it notices a killed worker while it waits for a batch, and its
workers notice a killed parent, so neither side is left waiting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import blosc2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from diffatlas_pipeline.contracts import Plan
from diffatlas_pipeline.data.augmentation import Augmentation
from diffatlas_pipeline.data.patches import PatchSource
from diffatlas_pipeline.errors import UserError

Batch = dict[str, torch.Tensor]
PREFETCHED = 2  # batches that each worker makes ahead
STALL_SECONDS = 600.0  # a batch takes well under a second; a worker silent for so long will never answer


class BatchMaker(Dataset):
    """Makes batch number i, from ``seed`` and i alone."""

    def __init__(self, folder: Path, cases: Sequence[str], plan: Plan, seed: int) -> None:
        self.folder, self.cases, self.plan, self.seed = folder, tuple(cases), plan, seed
        self._source: PatchSource | None = None
        self._augmentation = Augmentation(plan.augmentation, plan.patch_size, plan.spacing_mm)

    def __getitem__(self, iteration: int) -> Batch | UserError:
        """The batch, or the error of the user's that prevented it: it crosses processes better as a value than raised."""
        try:
            if self._source is None:  # opened by the process that reads
                self._source = PatchSource(self.folder, self.cases, self.plan)
            samples = [self._sample(iteration, b) for b in range(self.plan.training.batch_size)]
        except UserError as error:
            return error
        images, distances = zip(*samples, strict=True)
        return {"image": torch.from_numpy(np.stack(images)), "distances": torch.from_numpy(np.stack(distances))}

    def _sample(self, iteration: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        assert self._source is not None
        rng = np.random.default_rng((self.seed, iteration, position))
        parameters = self._augmentation.draw(rng)
        image, distances = self._source.sample(rng, self._augmentation.source_extent(parameters))
        return self._augmentation.apply(image, distances, parameters)


class TrainingBatches:
    """Iterator over the batches of ``[first_iteration, last_iteration)``; a context manager that stops its workers."""

    def __init__(self, maker: BatchMaker, first_iteration: int, last_iteration: int, workers: int) -> None:
        options: dict[str, object] = {}
        if workers > 0:
            # spawn: a fork would inherit locks and threads of the training (OpenMP, CUDA) in whatever state they are.
            options = {
                "multiprocessing_context": "spawn",
                "prefetch_factor": PREFETCHED,
                "timeout": STALL_SECONDS,
                "worker_init_fn": _start_worker,
            }
        loader = DataLoader(
            maker,
            batch_size=None,
            sampler=range(first_iteration, last_iteration),
            num_workers=workers,
            **options,  # type: ignore[arg-type]
        )
        self._batches: Iterator[Batch | UserError] | None = iter(loader)

    def __enter__(self) -> TrainingBatches:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

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
        except RuntimeError as error:
            self.close()
            if "worker" in str(error) and ("killed" in str(error) or "exited" in str(error) or "timed out" in str(error)):
                raise UserError(
                    f"A process that makes training batches died or no longer answers ({error}). Most often the system killed "
                    "it for lack of memory: run again with fewer --workers; the training goes on from its last checkpoint."
                ) from error
            raise
        if isinstance(batch, UserError):
            self.close()
            raise batch
        return batch

    def close(self) -> None:
        """Stop the workers; safe to call again."""
        batches, self._batches = self._batches, None
        # Not left to the garbage collector: a traceback may keep the iterator, and so the workers, alive.
        shutdown = getattr(batches, "_shutdown_workers", None)
        if shutdown is not None:
            shutdown()


def training_batches(
    folder: Path, cases: Sequence[str], plan: Plan, seed: int, first_iteration: int, last_iteration: int, workers: int
) -> TrainingBatches:
    """Batches number ``first_iteration`` up to, not including, ``last_iteration``, from the preprocessed data set ``folder``.

    Each is {"image": (B, C, *patch), "distances": (B, K, *patch)}, float32 in [-1, 1]. Batch i depends on ``seed`` and i only,
    so a resumed training, or one with another number of ``workers``, sees the same data. ``workers`` = 0 makes them in this
    process. Use it as a context manager. Raises DatasetError for cases that cannot be read, UserError when a worker dies.
    """
    PatchSource(folder, cases, plan)  # say at once what is missing, not from within a worker
    return TrainingBatches(BatchMaker(folder, cases, plan, seed), first_iteration, last_iteration, workers)


def _start_worker(_: int) -> None:
    """One thread: the other cores are the training's, or other workers'."""
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
