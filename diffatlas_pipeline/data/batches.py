"""What training batches are made of: patches of labelled and unlabelled cases, augmented, batch by batch.

batchgenerators makes the batches: its DataLoader deals out the sample numbers, over several workers too, and its
augmenter applies the transform.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading import data_loader
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from torch.utils.data import IterableDataset, get_worker_info

from diffatlas_pipeline.data.augmentation import Augmentation, AugmentationParameters
from diffatlas_pipeline.data.patches import PatchSource
from diffatlas_pipeline.datasets.codes import codes_of
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.planning.plan import Plan

Batch = dict[str, torch.Tensor]


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

    def cases_of(self, iteration: int) -> list[str]:
        """The cases that batch number ``iteration`` is made of."""
        drawn = (self._draw(iteration, position) for position in range(self.batch_size))
        return [source.draw_case(rng).case for rng, _, source in drawn]

    def _draw(self, iteration: int, position: int) -> tuple[np.random.Generator, AugmentationParameters, PatchSource]:
        rng = np.random.default_rng((self.seed, iteration, position))
        parameters = self.augmentation.draw(rng)
        source = self._data
        if self.unlabelled is not None and rng.random() < self.fraction:
            source = self.unlabelled
        return rng, parameters, source

    def _sample(self, iteration: int, position: int) -> tuple[np.ndarray, np.ndarray, AugmentationParameters]:
        rng, parameters, source = self._draw(iteration, position)
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
    again. Of several processes that train together, ``part`` of ``parts`` makes every ``parts``-th batch.
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
        part: int = 0,
        parts: int = 1,
    ) -> None:
        self.part, self.parts = part, parts
        self.folder, self.cases, self.plan, self.seed, self.numbers = folder, tuple(cases), plan, seed, numbers
        self.unlabelled, self.any_contrast = unlabelled, any_contrast

    def __iter__(self) -> Iterator[Batch | UserError]:
        """An error of the user's ends the stream as its last entry: it crosses processes better as a value than
        raised.
        """
        worker = get_worker_info()
        part, parts = (0, 1) if worker is None else (worker.id, worker.num_workers)
        try:
            loader = self._loader(part, parts)
            yield from SingleThreadedAugmenter(loader, AugmentPatches(loader.augmentation))
        except UserError as error:
            yield error

    def cases_after(self, batches: int, count: int) -> list[str]:
        """The cases that the next ``count`` batches are made of, when so many ``batches`` are there."""
        loader, numbers = self._loader(0, 1), self.numbers[self.part :: self.parts]
        return sorted({case for number in numbers[batches : batches + count] for case in loader.cases_of(number)})

    def _loader(self, part: int, parts: int) -> PatchLoader:
        plan = self.plan
        codes = codes_of(plan.dataset.labels)
        return PatchLoader(
            PatchSource(self.folder, self.cases, plan),  # opened by the process that reads
            Augmentation(plan.augmentation, plan.patch_size, plan.spacing_mm, self.any_contrast, codes),
            plan.training.batch_size,
            self.seed,
            self.numbers,
            self.part + self.parts * part,
            self.parts * parts,
            self.unlabelled.source(self.folder, plan) if self.unlabelled else None,
            self.unlabelled.fraction,
        )
