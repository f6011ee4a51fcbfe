"""Deformable registration: a smooth, invertible displacement that raises the local correlation of two images.

Greedy diffeomorphic registration with squared local correlation as similarity (the similarity of Avants et al., Medical
Image Analysis 12, 2008, without their symmetric half): a smoothed step along the similarity's gradient is composed with
the displacement so far, from coarse to fine. Each step is short and smooth, therefore invertible, and so is what the
steps compose to. The square makes it blind to contrast, so that an atlas of another modality can be registered.

Why no library: from the same affine maps and with one setting for all data, this stage was level with the best of
greedy, DIPY's SyN and ANTs' SyN on scans of the atlases' modality (fused Dice 0.840; greedy by correlation 0.836, DIPY
0.837 in three times the time) and on scans of another one (0.800; greedy by mutual information 0.801). Greedy needs
another metric for each of the two, DIPY failed on the second. Rows: documentation/results/registration.csv.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffatlas_pipeline.registration.grids import factors, finest_mm, gaussian, low_pass, scale_to, shrink, to_grid
from diffatlas_pipeline.registration.similarity import local_correlation_force, window_of
from diffatlas_pipeline.registration.warp import affine_coordinates, outside, voxel_grid, warp_image

PATIENCE = 8  # steps without a better similarity before a level ends
TOLERANCE = 1e-4
LARGEST_VOXELS = 400_000  # the finest level's: a larger volume ends on a coarser grid, to bound time


@dataclass(frozen=True)
class DeformableSettings:
    """Lengths are in voxels of the finest axis of the level at hand. The values measured best on validation cases."""

    shrink: tuple[float, ...] = (2, 1)
    iterations: tuple[int, ...] = (40, 30)
    radius: float = 1.0  # of the windows whose correlation is measured
    smooth_step: float = 2.0  # sigma of the Gaussian on each step: fluid
    smooth_total: float = 0.5  # sigma of the Gaussian on the whole displacement: elastic
    step: float = 0.5  # the longest displacement of one step


def deform(
    target: np.ndarray, atlas: np.ndarray, matrix: np.ndarray, spacing_mm: Sequence[float], settings: DeformableSettings
) -> np.ndarray:
    """The coordinates (3, X, Y, Z) in the atlas of each voxel of the target.

    ``target`` (C, X, Y, Z) and ``atlas`` (C, x, y, z) are float32 in [-1, 1]; their similarity is the mean over
    channels. ``matrix`` (3, 4), target voxels to atlas voxels, is where it starts and what the displacement is added
    to.
    """
    full = target.shape[1:]
    base = max(1.0, (math.prod(full) / LARGEST_VOXELS) ** (1 / max(1, sum(n > 1 for n in full))))
    displacement = np.zeros((3, *full), np.float32)  # in voxels of the full grid
    for factor, iterations in zip(settings.shrink, settings.iterations, strict=True):
        by = factors(full, spacing_mm, factor * base)
        small = np.stack([shrink(channel, by) for channel in target])
        smooth = np.stack([low_pass(channel, by) for channel in atlas])
        displacement = to_grid(displacement, small.shape[1:])
        displacement = _register_level(small, smooth, matrix, full, spacing_mm, displacement, iterations, settings)
    displacement = to_grid(displacement, full)
    return affine_coordinates(matrix, voxel_grid(full) + displacement)


def _register_level(
    target: np.ndarray,
    atlas: np.ndarray,
    matrix: np.ndarray,
    full: Sequence[int],
    spacing_mm: Sequence[float],
    displacement: np.ndarray,
    iterations: int,
    settings: DeformableSettings,
) -> np.ndarray:
    """A better ``displacement`` (3, x, y, z), in voxels of the full grid, for a target (C, x, y, z) shrunk from it."""
    shape = target.shape[1:]
    scale = scale_to(full, shape)
    here_mm = [s * m / n for s, m, n in zip(spacing_mm, full, shape, strict=True)]
    voxel_mm = finest_mm(shape, here_mm)
    window = window_of(shape, here_mm, settings.radius)
    sigmas = [_sigmas(shape, [h / voxel_mm for h in here_mm], sigma) for sigma in (settings.smooth_step, settings.smooth_total)]
    grid = voxel_grid(shape)
    centres = grid * scale + (scale - 1) / 2
    best, kept, since = -math.inf, displacement, 0
    for _ in range(iterations):
        coordinates = affine_coordinates(matrix, centres + displacement)
        value, update = _similarity_gradient(target, atlas, coordinates, here_mm, window)
        since = 0 if value > best + TOLERANCE else since + 1
        if value > best:
            best, kept = value, displacement
        if since >= PATIENCE:
            break
        update = np.stack([gaussian(one, sigmas[0]) for one in update])
        longest_mm = float(np.sqrt((update * update).sum(axis=0).max()))
        if not longest_mm > 0:
            break
        update *= np.float32(settings.step * voxel_mm / longest_mm)
        update /= np.array(here_mm, np.float32)[:, None, None, None]  # in voxels of this level
        composed = [warp_image(one, grid + update) for one in displacement]
        displacement = np.stack([gaussian(one + u, sigmas[1]) for one, u in zip(composed, update * scale, strict=True)])
    return kept


def _similarity_gradient(
    target: np.ndarray, atlas: np.ndarray, coordinates: np.ndarray, here_mm: Sequence[float], window: Sequence[int]
) -> tuple[float, np.ndarray]:
    """The mean similarity over channels, and its gradient (3, x, y, z) by the displacement in mm."""
    known = (outside(coordinates, atlas.shape[1:]) == 0).all(axis=0)
    total, gradient = 0.0, np.zeros_like(coordinates)
    for fixed, moving in zip(target, atlas, strict=True):
        moved = warp_image(moving, coordinates)
        value, force = local_correlation_force(fixed, moved, window)
        force *= known
        for axis in range(3):
            if moved.shape[axis] > 1:
                gradient[axis] += force * np.gradient(moved, here_mm[axis], axis=axis)
        total += value / len(target)
    return total, gradient


def _sigmas(shape: Sequence[int], relative: Sequence[float], sigma: float) -> tuple[float, ...]:
    """Sigmas in voxels per axis; a coarse axis is smoothed by half as many voxels as the finest at least."""
    return tuple(float(max(sigma / r, sigma / 2)) if n > 1 else 0.0 for n, r in zip(shape, relative, strict=True))
