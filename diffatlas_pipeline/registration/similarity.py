"""Similarity of two aligned images, by measures that do not depend on the contrast of either.

Images are (X, Y, Z) float32. An axis of one voxel is no axis: windows do not reach along it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from diffatlas_pipeline.registration.grids import finest_mm

_FLAT = 1e-4  # variance below which a window holds no structure: images lie in [-1, 1], so 1 % of half their range, squared


def window_of(shape: Sequence[int], spacing_mm: Sequence[float], radius: float) -> tuple[int, ...]:
    """Window edges in voxels: ``radius`` counts in voxels of the finest axis; a coarser axis has one neighbour at
    least.
    """
    finest = finest_mm(shape, spacing_mm)
    return tuple(2 * max(1, round(radius * finest / s)) + 1 if n > 1 else 1 for n, s in zip(shape, spacing_mm, strict=True))


def box(image: np.ndarray, window: Sequence[int]) -> np.ndarray:
    """Mean over the window around each voxel; the image is continued by its border values."""
    result = image
    for axis, size in enumerate(window):
        if size > 1:
            result = ndimage.uniform_filter1d(result, size, axis=axis, mode="nearest")
    return result


def local_correlation(target: np.ndarray, other: np.ndarray, window: Sequence[int]) -> np.ndarray:
    """Squared correlation coefficient of the windows around each voxel, (X, Y, Z) in [0, 1]; 0 where one of them is
    flat.

    The square makes it blind to the contrast: windows that are each other's negative have 1.
    """
    mean_t, mean_o = box(target, window), box(other, window)
    covariance = box(target * other, window) - mean_t * mean_o
    variance_t = np.maximum(box(target * target, window) - mean_t * mean_t, 0)
    variance_o = np.maximum(box(other * other, window) - mean_o * mean_o, 0)
    return np.minimum(covariance * covariance / ((variance_t + _FLAT) * (variance_o + _FLAT)), 1)


def local_correlation_force(target: np.ndarray, other: np.ndarray, window: Sequence[int]) -> tuple[float, np.ndarray]:
    """The mean of :func:`local_correlation`, and its derivative by each voxel of ``other`` times the number of
    voxels.
    """
    mean_t, mean_o = box(target, window), box(other, window)
    covariance = box(target * other, window) - mean_t * mean_o
    variance_t = np.maximum(box(target * target, window) - mean_t * mean_t, 0) + _FLAT
    variance_o = np.maximum(box(other * other, window) - mean_o * mean_o, 0) + _FLAT
    slope = covariance / (variance_t * variance_o)
    value = float(np.mean(slope * covariance))
    # A voxel counts in every window that holds it, so the windows' coefficients are averaged in turn.
    ratio = slope * covariance / variance_o
    force = box(slope, window) * target - box(slope * mean_t - ratio * mean_o, window) - box(ratio, window) * other
    return value, 2 * force


def mutual_information(target: np.ndarray, other: np.ndarray, bins: int = 24) -> float:
    """Mutual information of two sets of values in nats, from their joint histogram of ``bins`` x ``bins``."""
    counts, _, _ = np.histogram2d(target.ravel(), other.ravel(), bins=bins)
    joint = counts / max(counts.sum(), 1)
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    there = joint > 0
    return float(np.sum(joint[there] * np.log(joint[there] / product[there])))
