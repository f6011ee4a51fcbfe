"""Several draws of a segmentation: their mean."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffatlas_pipeline.methods.base import PlannedSegmentation, Progress, case_generator

Draw = Callable[[torch.Generator, Progress | None], Tensor]
"""A generator of its own noise, and whom to tell of the steps -> signed distances (K, X, Y, Z) in units of tau."""


def averaged(draw: Draw, draws: int, seed: int, progress: Progress | None) -> PlannedSegmentation:
    """Mean over ``draws`` of the distances, clipped to [-1, 1] each."""
    total = torch.zeros(())
    for index in range(draws):
        distances = draw(case_generator(seed, index), _part_of(progress, index, draws)).clamp(-1, 1).float().cpu()
        total = total + distances
    return PlannedSegmentation(total / draws)


def _part_of(progress: Progress | None, index: int, draws: int) -> Progress | None:
    return None if progress is None else lambda done, total: progress(index * total + done, draws * total)
