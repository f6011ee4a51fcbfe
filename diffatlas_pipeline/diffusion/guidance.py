"""Replacement guidance (Eq. 5): at every step the image half of the joint state is the noised input image.

A channel that the scan lacks is not replaced: it is generated, as the mask is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffatlas_pipeline.diffusion.solvers import Denoise
from diffatlas_pipeline.fields import fraction, one_of

GUIDANCE_NOISES = ("fresh", "fixed")

JointDenoise = Callable[[Tensor, float, float], Tensor]
"""(noisy joint state (C + K, X, Y, Z), image level, mask level) -> clean joint state."""


@dataclass(frozen=True)
class Guidance:
    """How the image is given: at noise level min(the mask's, ``level``), so 1 is as noisy as the mask (the paper), 0
    clean.

    ``noise`` on it is "fresh" (drawn at each step, the paper) or "fixed" (one draw for the whole sample).
    """

    level: float = field(default=0.0, metadata=fraction())
    noise: str = field(default="fixed", metadata=one_of(*GUIDANCE_NOISES))


def guided(denoise: JointDenoise, image: Tensor, guidance: Guidance, generator: torch.Generator) -> Denoise:
    """A denoiser of the joint state (C + K, X, Y, Z) that is told the ``image`` (C, X, Y, Z) as ``guidance`` says.

    Its channels that are :func:`missing` are those of the state, at the mask's level.
    """
    channels = image.shape[0]
    known = ~missing(image)[:, None, None, None]

    def draw() -> Tensor:
        return torch.randn(image.shape, generator=generator).to(image)

    fixed = draw() if guidance.noise == "fixed" else None

    def denoise_guided(state: Tensor, level: float) -> Tensor:
        image_level = min(level, guidance.level)
        given = image
        if image_level > 0:
            eps = draw() if fixed is None else fixed
            given = math.cos(image_level * math.pi / 2) * image + math.sin(image_level * math.pi / 2) * eps
        half = torch.where(known, given, state[:channels])
        clean = denoise(torch.cat([half, state[channels:]]), image_level, level)
        return torch.cat([torch.where(known, image, clean[:channels]), clean[channels:]])

    return denoise_guided


def missing(image: Tensor) -> Tensor:
    """Which channels of ``image`` (C, X, Y, Z) the scan lacks, bool (C,): they are NaN, but for what pads them."""
    return image.isnan().flatten(1).any(dim=1)
