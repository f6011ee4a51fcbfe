"""Replacement guidance (Eq. 5): at every step the image half of the joint state is the noised input image."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffatlas_pipeline.diffusion.solvers import Denoiser

GUIDANCE_NOISES = ("fresh", "fixed")

JointDenoiser = Callable[[Tensor, float, float], Tensor]
"""(noisy joint state (C + K, X, Y, Z), image level, mask level) -> clean joint state."""


def guided(
    denoise: JointDenoiser,
    image: Tensor,
    largest_level: float,
    noise: str,
    interval: tuple[float, float],
    generator: torch.Generator,
) -> Denoiser:
    """A denoiser of the joint state (C + K, X, Y, Z) that is told the ``image`` (C, X, Y, Z) at levels in ``interval``.

    The image is given at noise level min(level, ``largest_level``): 1 keeps it as noisy as the mask (the paper), 0 shows it
    clean. ``noise`` is "fresh" (drawn at each step, the paper) or "fixed" (one draw for the whole sample). Outside the interval
    the image half is generated with the mask.
    """
    if noise not in GUIDANCE_NOISES:
        raise ValueError(f"guidance noise '{noise}' is unknown; known: {', '.join(GUIDANCE_NOISES)}")
    channels = image.shape[0]

    def draw() -> Tensor:
        return torch.randn(image.shape, generator=generator).to(image)

    fixed = draw() if noise == "fixed" else None

    def denoise_guided(state: Tensor, level: float) -> Tensor:
        if not interval[0] <= level <= interval[1]:
            return denoise(state, level, level)
        image_level = min(level, largest_level)
        given = image
        if image_level > 0:
            eps = draw() if fixed is None else fixed
            given = math.cos(image_level * math.pi / 2) * image + math.sin(image_level * math.pi / 2) * eps
        clean = denoise(torch.cat([given, state[channels:]]), image_level, level)
        return torch.cat([image, clean[channels:]])

    return denoise_guided
