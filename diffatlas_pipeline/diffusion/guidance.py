"""Replacement guidance (Eq. 5): at every step the image half of the joint state is the noised input image.

A channel that the scan lacks is not replaced: it is generated, as the mask is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffatlas_pipeline.diffusion.solvers import Denoise, Parts
from diffatlas_pipeline.fields import fraction, one_of
from diffatlas_pipeline.scratch import IN_MEMORY, Scratch

GUIDANCE_NOISES = ("fresh", "fixed")

JointDenoise = Callable[[Tensor, float, float], Parts]
"""(noisy joint state (C + K, X, Y, Z), image level, mask level) -> the clean joint state, part by part."""


@dataclass(frozen=True)
class Guidance:
    """How the image is given: at noise level min(the mask's, ``level``), so 1 is as noisy as the mask (the paper), 0
    clean.

    ``noise`` on it is "fresh" (drawn at each step, the paper) or "fixed" (one draw for the whole sample).
    """

    level: float = field(default=0.0, metadata=fraction())
    noise: str = field(default="fixed", metadata=one_of(*GUIDANCE_NOISES))


def guided(
    denoise: JointDenoise, image: Tensor, guidance: Guidance, generator: torch.Generator, scratch: Scratch = IN_MEMORY
) -> Denoise:
    """A denoiser of the joint state (C + K, X, Y, Z) that is told the ``image`` (C, X, Y, Z) as ``guidance`` says.

    It replaces the image half of the state by what is given. Channels that are :func:`missing` are those of the state,
    at the mask's level.
    """
    lacks = missing(image).tolist()
    known = [channel for channel, is_missing in enumerate(lacks) if not is_missing]

    def draw() -> Tensor:
        return scratch.randn(image.shape, generator).to(image)

    fixed = draw() if guidance.noise == "fixed" else None

    def denoise_guided(state: Tensor, level: float) -> Parts:
        image_level = min(level, guidance.level)
        eps = None
        if image_level > 0:
            eps = draw() if fixed is None else fixed
        for where in scratch.slabs(image.shape):
            for c in known:
                given = image[c][where[1:]]
                if eps is not None:
                    a, b = math.cos(image_level * math.pi / 2), math.sin(image_level * math.pi / 2)
                    given = a * given + b * eps[c][where[1:]]
                state[c][where[1:]] = given
        for where, clean in denoise(state, image_level, level):
            for c in known:
                clean[c] = image[c][where[1:]]
            yield where, clean

    return denoise_guided


def missing(image: Tensor) -> Tensor:
    """Which channels of ``image`` (C, X, Y, Z) the scan lacks, bool (C,): they are NaN, but for what pads them."""
    return image.isnan().flatten(1).any(dim=1)
