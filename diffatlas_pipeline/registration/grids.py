"""Coarser grids of a volume, for registration from coarse to fine; an axis of one voxel stays as it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from diffatlas_pipeline.registration.warp import voxel_grid, warp_image


def finest_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """The shortest voxel edge, of the axes along which there is more than one voxel."""
    return min((s for n, s in zip(shape, spacing_mm, strict=True) if n > 1), default=min(spacing_mm))


def factors(shape: Sequence[int], spacing_mm: Sequence[float], factor: float) -> tuple[float, ...]:
    """By how much each axis shrinks: a coarse axis waits until the others have come to its spacing."""
    finest = finest_mm(shape, spacing_mm)
    return tuple(max(1.0, factor * finest / s) if n > 1 else 1.0 for n, s in zip(shape, spacing_mm, strict=True))


def shrunk_shape(shape: Sequence[int], by: Sequence[float]) -> tuple[int, ...]:
    """The shape of the coarser grid that covers the same volume."""
    return tuple(max(min(n, 2), round(n / f)) for n, f in zip(shape, by, strict=True))


def gaussian(image: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    """``image`` smoothed by ``sigma`` voxels per axis."""
    return ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3.0) if any(sigma) else image


def low_pass(image: np.ndarray, by: Sequence[float]) -> np.ndarray:
    """``image`` (X, Y, Z) without the detail that a grid coarser by the factors ``by`` cannot hold."""
    return gaussian(image, [0.5 * f if f > 1 else 0.0 for f in by])


def shrink(image: np.ndarray, by: Sequence[float]) -> np.ndarray:
    """``image`` (X, Y, Z) on a grid coarser by the factors ``by``, low-passed before."""
    return to_grid(low_pass(image, by)[None], shrunk_shape(image.shape, by))[0]


def to_grid(arrays: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Arrays (C, X, Y, Z), linear in between, on the grid of ``shape`` that covers the same volume."""
    if arrays.shape[1:] == tuple(shape):
        return arrays
    scale = scale_to(arrays.shape[1:], shape)
    points = voxel_grid(shape) * scale + (scale - 1) / 2
    return np.stack([warp_image(one, points) for one in arrays])


def scale_to(shape: Sequence[int], coarser: Sequence[int]) -> np.ndarray:
    """Voxels of ``shape`` per voxel of ``coarser``, (3, 1, 1, 1); voxel i of the latter lies at i * scale + (scale - 1)
    / 2.
    """
    return np.array([m / n for m, n in zip(shape, coarser, strict=True)], np.float32)[:, None, None, None]
