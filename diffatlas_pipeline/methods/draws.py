"""Several draws of a segmentation: their mean."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffatlas_pipeline.datasets.codes import Codes
from diffatlas_pipeline.methods.base import PlannedSegmentation, Progress, case_generator
from diffatlas_pipeline.methods.segmentation_loss import SHARPNESS, label_probabilities
from diffatlas_pipeline.scratch import IN_MEMORY, Scratch

Draw = Callable[[torch.Generator, Progress | None], Tensor]
"""A generator of its own noise, and whom to tell of the steps -> signed distances (K, X, Y, Z) in units of tau."""


def averaged(
    draw: Draw,
    draws: int,
    seed: int,
    progress: Progress | None,
    sharpness: float = SHARPNESS,
    images: int = 0,
    codes: Codes | None = None,
    scratch: Scratch = IN_MEMORY,
) -> PlannedSegmentation:
    """Mean over ``draws`` of the distances, clipped to [-1, 1] each, and of the labels' probabilities. What is drawn is
    overwritten.

    The first ``images`` channels of a draw are those of an image: they have none. Of labels that overlap, the
    probabilities are those of the ``codes``.
    """
    total: Tensor | None = None
    probabilities: Tensor | None = None
    for index in range(draws):
        distances = draw(case_generator(seed, index), _part_of(progress, index, draws)).float().cpu()
        for where in scratch.slabs(distances.shape):
            distances[where] = distances[where].clamp(-1, 1)
            if total is not None:
                total[where] += distances[where]
            if draws > 1:
                latest = label_probabilities(distances[where][images:], sharpness, codes)
                if probabilities is None:
                    probabilities = scratch.zeros((len(latest), *distances.shape[1:]))
                probabilities[where] += latest
        total = distances if total is None else total
    assert total is not None
    for summed in (total, probabilities):
        if summed is not None and draws > 1:
            for where in scratch.slabs(summed.shape):
                summed[where] /= draws
    return PlannedSegmentation(total, probabilities=probabilities)


def divided(found: Tensor, scale: float, scratch: Scratch) -> Tensor:
    """``found`` / ``scale``, in place."""
    if scale != 1:
        for where in scratch.slabs(found.shape):
            found[where] /= scale
    return found


def _part_of(progress: Progress | None, index: int, draws: int) -> Progress | None:
    return None if progress is None else lambda done, total: progress(index * total + done, draws * total)
