"""Generation in a field of view: what lies around it is known, and smaller fields than the patch lie in a patch."""

from __future__ import annotations

import torch
from torch import Tensor

from diffatlas_pipeline.data.patches import IMAGE_PADDING
from diffatlas_pipeline.diffusion.guidance import JointDenoise
from diffatlas_pipeline.diffusion.solvers import Denoise, Parts
from diffatlas_pipeline.volumes.grids import Triple


def around(shape: Triple, patch: Triple) -> tuple[Triple, tuple[slice, slice, slice]]:
    """The smallest volume that holds ``shape`` and a patch, and where in its middle the field of ``shape`` lies."""
    x, y, z = (max(pair) for pair in zip(shape, patch, strict=True))
    starts = [(large - small) // 2 for large, small in zip((x, y, z), shape, strict=True)]
    a, b, c = (slice(start, start + small) for start, small in zip(starts, shape, strict=True))
    return (x, y, z), (a, b, c)


def within(denoise: JointDenoise, shape: Triple, patch: Triple, channels: int, scale: float) -> Denoise:
    """A denoiser of both halves at one level, for joint states (C + K, X, Y, Z) of the size that :func:`around` tells.

    Around the field, training pads images with their minimum and is outside of every label: the clean prediction is
    set to that there, so every solver keeps what is around consistent at all levels. Inside, predictions are kept
    within the range of the data, [-1, 1] and [-``scale``, ``scale``].
    """
    size, field = around(shape, patch)
    outside = torch.ones(size, dtype=torch.bool)
    outside[field] = False

    def denoise_within(state: Tensor, level: float) -> Parts:
        for where, clean in denoise(state, level, level):
            image, mask = clean[:channels].clamp(-1, 1), clean[channels:].clamp(-scale, scale)
            here = outside[where[1:]].to(clean.device)
            yield where, torch.cat([image.masked_fill(here, IMAGE_PADDING), mask.masked_fill(here, scale)])

    return denoise_within
