"""Sampling that begins with distances that are nearly right already, made noisy, in place of noise alone."""

from __future__ import annotations

from torch import Tensor

from diffatlas_pipeline.diffusion.levels import add_noise
from diffatlas_pipeline.scratch import Scratch

BEGIN_LEVEL = 0.75
"""The level at which such a sample begins. Below it a network trusts what it is given too much (how-to/large-scans.md).
"""


def begun(noise: Tensor, distances: Tensor, scale: float, scratch: Scratch) -> float:
    """Make of ``noise`` (K, X, Y, Z), in place, the ``distances`` (K, X, Y, Z), in units of tau, times ``scale`` at
    :data:`BEGIN_LEVEL`; returns that.
    """
    level = noise.new_tensor(BEGIN_LEVEL)
    for where in scratch.slabs(noise.shape):
        noise[where] = add_noise(distances[where].to(noise) * scale, noise[where], level)
    return BEGIN_LEVEL
