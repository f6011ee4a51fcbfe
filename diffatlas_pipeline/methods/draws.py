"""Several draws of a segmentation: their mean."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffatlas_pipeline.datasets.codes import Codes
from diffatlas_pipeline.methods.base import PlannedSegmentation, Progress, case_generator
from diffatlas_pipeline.methods.segmentation_loss import SHARPNESS, label_probabilities

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
) -> PlannedSegmentation:
    """Mean over ``draws`` of the distances, clipped to [-1, 1] each, and of the labels' probabilities.

    The first ``images`` channels of a draw are those of an image: they have none. Of labels that overlap, the
    probabilities are those of the ``codes``.
    """
    total, probabilities = torch.zeros(()), torch.zeros(())
    for index in range(draws):
        distances = draw(case_generator(seed, index), _part_of(progress, index, draws)).clamp(-1, 1).float().cpu()
        total = total + distances
        if draws > 1:
            probabilities = probabilities + label_probabilities(distances[images:], sharpness, codes)
    return PlannedSegmentation(total / draws, probabilities=probabilities / draws if draws > 1 else None)


def _part_of(progress: Progress | None, index: int, draws: int) -> Progress | None:
    return None if progress is None else lambda done, total: progress(index * total + done, draws * total)
