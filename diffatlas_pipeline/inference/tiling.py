"""Where windows lie in a volume, and how much each of their voxels counts."""

from __future__ import annotations

import itertools
import math

import torch

from diffatlas_pipeline.volumes.grids import Triple

SMALLEST_WEIGHT = 1e-3  # keeps the quotient of two sums well defined, in half precision too
SIGMA_PER_PATCH = 1 / 8


def windows(shape: Triple, patch: Triple, overlap: float = 0.5) -> list[Triple]:
    """First voxels of windows of size ``patch`` that cover ``shape``, spread evenly; neighbours share at least
    ``overlap``.

    ``shape`` must be at least ``patch`` on each axis and ``overlap`` in [0, 1), else ValueError. No window leaves the
    volume.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap {overlap}: must be at least 0 and below 1")
    if any(size < window for size, window in zip(shape, patch, strict=True)):
        raise ValueError(f"volume {shape} is smaller than the window {patch}: pad it first")
    per_axis = [_starts(size, window, overlap) for size, window in zip(shape, patch, strict=True)]
    return [(x, y, z) for x, y, z in itertools.product(*per_axis)]


def _starts(size: int, window: int, overlap: float) -> list[int]:
    step = max(1, math.floor(window * (1 - overlap) + 1e-9))
    count = math.ceil((size - window) / step) + 1
    if count == 1:
        return [0]
    # The exact distance is at most the integer `step`, so rounding down never makes a distance larger than `step`.
    return [index * (size - window) // (count - 1) for index in range(count)]


def importance(patch: Triple) -> torch.Tensor:
    """Gaussian weight (X, Y, Z) float32 of a window's voxels: sigma = patch / 8, largest value about 1, smallest 0.001.

    Predictions near a window's border see less context, so they count less where windows overlap.
    """
    weight = torch.ones(())
    for size in patch:
        distance = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
        weight = weight[..., None] * torch.exp(-0.5 * (distance / (size * SIGMA_PER_PATCH)) ** 2)
    return weight.clamp_min(SMALLEST_WEIGHT).float()
