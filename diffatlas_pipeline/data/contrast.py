"""Random contrast: the same anatomy as if another scanner, or another modality, had taken it."""

from __future__ import annotations

import torch
from torch import Tensor

KNOTS = (3, 6)  # fewest and most points that a curve is drawn through


def randomise_contrast(image: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """``image`` (B, C, X, Y, Z) in [-1, 1], with the intensities of some of its channels sent through random curves.

    A curve is piecewise linear through random values at evenly spaced knots, rising, falling or neither, stretched to [-1, 1].
    It keeps equal equal and near near, and nothing else: a network that is to survive it has to go by shapes and edges. Each
    sample's channels are changed with ``probability``, all of them or none. Intensities alone change, so labels stay true.
    """
    changed = image.clone()
    for sample in range(image.shape[0]):
        if float(torch.rand((), generator=generator)) >= probability:
            continue
        for channel in range(image.shape[1]):
            changed[sample, channel] = through(image[sample, channel], random_curve(generator).to(image))
    return changed


def random_curve(generator: torch.Generator) -> Tensor:
    """Values (n,) at n evenly spaced intensities of [-1, 1]: random, the lowest -1 and the highest 1."""
    count = int(torch.randint(KNOTS[0], KNOTS[1] + 1, (), generator=generator))
    values = torch.rand(count, generator=generator)
    span = values.max() - values.min()
    return (values - values.min()) / span.clamp_min(1e-6) * 2 - 1


def through(image: Tensor, curve: Tensor) -> Tensor:
    """``image`` (any shape, in [-1, 1]) through the piecewise linear ``curve`` (n,)."""
    place = (image.clamp(-1, 1) + 1) / 2 * (len(curve) - 1)
    below = place.floor().clamp(max=len(curve) - 2)
    low = below.long()
    return torch.lerp(curve[low], curve[low + 1], place - below)
