"""Batches of augmented patches, made ahead of the training by worker processes.

batchgenerators makes the batches: its DataLoader deals out the sample numbers, over several workers too, and its
augmenter applies the transform. The worker processes are those of ``torch.utils.data.DataLoader``: it notices a killed
worker while it waits for a batch, and its workers notice a killed parent, so neither side is left waiting (with
batchgenerators' MultiThreadedAugmenter the training waits for ever).
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from types import TracebackType
from typing import Any

import blosc2
import numpy as np
import torch
from batchgenerators.dataloading import data_loader
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from diffatlas_pipeline.data.augmentation import Augmentation, AugmentationParameters
from diffatlas_pipeline.data.patches import PatchSource
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.parallel import unguarded_script
from diffatlas_pipeline.planning.plan import Plan

Batch = dict[str, torch.Tensor]
PREFETCHED = 2  # batches that each worker makes ahead
STOP_SECONDS = 10.0  # for a worker that was told to end
STALL_SECONDS = 600.0  # a batch takes well under a second; a worker silent for so long will never answer


@dataclass(frozen=True)
class Unlabelled:
    """Cases of which only the image is used, and the share of all samples that is drawn from them.

    With ``labelled``, a folder that holds these cases with pseudo-labels, they are used as labelled ones.
    """

    cases: tuple[str, ...] = ()
    fraction: float = 0.0
    labelled: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.cases) and self.fraction > 0

    def source(self, folder: Path, plan: Plan) -> PatchSource:
        """Their patches; ``folder`` is the preprocessed data set. DatasetError for cases that cannot be read."""
        return PatchSource(self.labelled or folder, self.cases, plan, labelled=self.labelled is not None)


class PatchLoader(data_loader.DataLoader):
    """Reads the boxes that the patches of batches ``numbers`` are augmented from, and draws how: worker ``part`` of
    ``parts`` makes every ``parts``-th batch. Sample b of batch i is number i * batch size + b, and depends on ``seed``,
    i and b alone.
    """

    def __init__(
        self,
        source: PatchSource,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        numbers: range,
        part: int = 0,
        parts: int = 1,
        unlabelled: PatchSource | None = None,
        fraction: float = 0.0,
    ) -> None:
        super().__init__(source, batch_size, parts, shuffle=False)
        self.set_thread_id(part)
        self.indices = range(numbers.start * batch_size, numbers.stop * batch_size)
        self.augmentation = augmentation
        self.seed = seed
        self.unlabelled, self.fraction = unlabelled, fraction

    def generate_train_batch(self) -> dict[str, Any]:
        """{"image": boxes (C, *extent), "distances": boxes (K, *extent), "parameters"}: a list each, one entry per
        sample.
        """
        samples = [self._sample(*divmod(index, self.batch_size)) for index in self.get_indices()]
        images, distances, parameters = map(list, zip(*samples, strict=True))
        return {"image": images, "distances": distances, "parameters": parameters}

    def _sample(self, iteration: int, position: int) -> tuple[np.ndarray, np.ndarray, AugmentationParameters]:
        rng = np.random.default_rng((self.seed, iteration, position))
        parameters = self.augmentation.draw(rng)
        source = self._data
        if self.unlabelled is not None and rng.random() < self.fraction:
            source = self.unlabelled
        image, distances = source.sample(
            rng, self.augmentation.source_extent(parameters), beyond=parameters.contrast_seed is not None
        )
        return image, distances, parameters


class AugmentPatches(AbstractTransform):
    """Turns the boxes and drawn parameters of a batch into "image" (B, C, *patch) and "distances" (B, K, *patch)."""

    def __init__(self, augmentation: Augmentation) -> None:
        self.augmentation = augmentation

    def __call__(self, image: list[np.ndarray], distances: list[np.ndarray], parameters: list[AugmentationParameters]) -> Batch:
        patches = [self.augmentation.apply(*sample) for sample in zip(image, distances, parameters, strict=True)]
        images, maps = zip(*patches, strict=True)
        return {"image": torch.from_numpy(np.stack(images)), "distances": torch.from_numpy(np.stack(maps))}


class BatchStream(IterableDataset):
    """The batches ``numbers``, or this worker process's share of them, in order.

    torch's DataLoader asks its workers in turn, as batchgenerators' deals to them, so the batches come out in order
    again.
    """

    def __init__(
        self,
        folder: Path,
        cases: Sequence[str],
        plan: Plan,
        seed: int,
        numbers: range,
        unlabelled: Unlabelled,
        any_contrast: float,
    ) -> None:
        self.folder, self.cases, self.plan, self.seed, self.numbers = folder, tuple(cases), plan, seed, numbers
        self.unlabelled, self.any_contrast = unlabelled, any_contrast

    def __iter__(self) -> Iterator[Batch | UserError]:
        """An error of the user's ends the stream as its last entry: it crosses processes better as a value than
        raised.
        """
        plan, worker = self.plan, get_worker_info()
        part, parts = (0, 1) if worker is None else (worker.id, worker.num_workers)
        augmentation = Augmentation(plan.augmentation, plan.patch_size, plan.spacing_mm, self.any_contrast)
        try:
            source = PatchSource(self.folder, self.cases, plan)  # opened by the process that reads
            more = self.unlabelled.source(self.folder, plan) if self.unlabelled else None
            loader = PatchLoader(
                source,
                augmentation,
                plan.training.batch_size,
                self.seed,
                self.numbers,
                part,
                parts,
                more,
                self.unlabelled.fraction,
            )
            yield from SingleThreadedAugmenter(loader, AugmentPatches(augmentation))
        except UserError as error:
            yield error


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
        self._workers = workers
        with _deaf_children():
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
        except (RuntimeError, EOFError, OSError) as error:
            self.close()
            if self._workers and is_lost_worker(error):
                script = unguarded_script()
                raise UserError(
                    f"A process that makes training batches died or no longer answers ({error or type(error).__name__}). Most "
                    "often the system killed it for lack of memory: run again with fewer `workers`; the training goes on from "
                    f"its last checkpoint.{' ' * bool(script)}{script}"
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
            try:
                shutdown()
            except RuntimeError as error:
                # One that dies of being stopped is no error, and must not hide why it was stopped. Torch has told the
                # others.
                if not is_lost_worker(error):
                    raise
                for worker in getattr(batches, "_workers", ()):
                    worker.join(STOP_SECONDS)


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
) -> TrainingBatches:
    """Batches number ``first_iteration`` up to, not including, ``last_iteration``, from the preprocessed data set
    ``folder``.

    A share ``any_contrast`` of the samples has a synthetic contrast. Each is {"image": (B, C, *patch), "distances": (B,
    K, *patch)}, float32 in [-1, 1]; the distances of a sample from the ``unlabelled`` cases are NaN, unless they have
    pseudo-labels. Batch i depends on ``seed`` and i only, so a resumed training, or one with another number of
    ``workers``, sees the same data. ``workers`` = 0 makes them in this process. Use it as a context manager. Raises
    DatasetError for cases that cannot be read, UserError when a worker dies.
    """
    unlabelled = unlabelled or Unlabelled()
    PatchSource(folder, cases, plan)  # say at once what is missing, not from within a worker
    if unlabelled:
        unlabelled.source(folder, plan)
    stream = BatchStream(folder, cases, plan, seed, range(first_iteration, last_iteration), unlabelled, any_contrast)
    return TrainingBatches(stream, workers)


def is_lost_worker(error: Exception) -> bool:
    """Whether what torch's DataLoader raised means that a worker was lost, and not that one raised an exception."""
    if str(error).startswith("Caught "):  # torch's note on an exception that a worker raised
        return False
    # A batch lies in its worker's memory: when that dies while it is fetched, the connection breaks (EOFError,
    # OSError).
    lost = ("killed", "exited", "timed out")
    return not isinstance(error, RuntimeError) or ("worker" in str(error) and any(word in str(error) for word in lost))


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started in here do not hear SIGTERM, from their first instruction on.

    A signal to end goes to the whole process group: the training writes its checkpoint first, and then ends its
    workers.
    """
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # unblocks the signal where it has to start its own process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(_: int) -> None:
    """One thread: the other cores are the training's, or other workers'."""
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
