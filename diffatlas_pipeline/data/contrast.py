"""Contrasts that no scanner gave: a patch repainted by its labels, so that a network learns shapes, not grey values.

After SynthSeg (Billot et al. 2023, Medical Image Analysis 86), which paints label maps alone. Here the patch's own
image says what lies between and within the labels: its structures outside the labels are tissues, too, and a random
share of the detail in every tissue stays, brighter or darker.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from diffatlas_pipeline.data.tissues import Tissues, blurred, find_tissues
from diffatlas_pipeline.volumes.grids import TripleMm

INDEPENDENT = 0.35  # probability that tissues get means of their own; else a curve of their real means
LOOK_ALIKE = 0.25  # probability that a tissue of the background looks like a label
JITTER = 0.08  # of a mean on the curve
CURVE_POINTS = (3, 6)
DETAIL = 1.2  # largest share of the real detail that stays in a tissue, in either sign
TEXTURE = 0.12  # largest standard deviation of a tissue's own noise
EMPTY_STAYS = 0.5  # probability that what is black around a scan stays black
EMPTY = 0.1  # above the lowest intensity
THICK = 0.2  # probability of thick slices, and their largest thickness in voxels of the finest spacing
THICKEST = 6.0
BIAS_POINTS, BIAS = 3, 0.3  # control points along an axis of the field, and its largest strength (of a logarithm)
PERCENTILES = (0.5, 99.5)
SMOOTH_PAINT, SMOOTH_TEXTURE = (0.3, 0.9), (0.3, 0.8)  # sigma in voxels of the finest spacing


def synthesise_contrast(
    image: np.ndarray, distances: np.ndarray, rng: np.random.Generator, spacing_mm: TripleMm = (1.0, 1.0, 1.0)
) -> np.ndarray:
    """``image`` (C, X, Y, Z) with another contrast, each channel its own, float32 in [-1, 1]. What goes beyond [-1, 1]
    in it tells tissues apart.

    ``distances`` (K, X, Y, Z), negative inside, tell the labels (of labels that overlap, the scores of their codes do);
    of a sample without labels they are NaN, or positive everywhere: then all tissues come from the image.
    """
    sigma_scale = min(spacing_mm) / np.asarray(spacing_mm)
    slices = _draw_slices(image.shape[1:], sigma_scale, rng) if rng.random() < THICK else None
    tissues = find_tissues(image, distances, rng, sigma_scale)
    empty = ndimage.binary_opening((image <= image.min() + EMPTY).all(axis=0)) if rng.random() < EMPTY_STAYS else None
    painted = [_painted(channel, tissues, rng, sigma_scale) for channel in image]
    if empty is not None:
        for channel in painted:
            channel[empty] = channel.min()
    if slices is not None:
        painted = [_in_thick_slices(channel, *slices) for channel in painted]
    return np.stack([_normalised(channel) for channel in painted])


def _painted(channel: np.ndarray, tissues: Tissues, rng: np.random.Generator, sigma_scale: np.ndarray) -> np.ndarray:
    """A channel with a new mean, share of its detail, and texture in each tissue; then blur and a bias field."""
    count, flat = tissues.count, tissues.numbers.ravel()
    means = np.bincount(flat, weights=channel.ravel(), minlength=count) / np.bincount(flat, minlength=count)
    new = _new_means(means, tissues, rng)
    detail, texture = rng.uniform(-DETAIL, DETAIL, count), rng.uniform(0, TEXTURE, count)
    noise = blurred(rng.standard_normal(channel.shape, dtype=np.float32), rng.uniform(*SMOOTH_TEXTURE), sigma_scale)
    tables = [table.astype(np.float32) for table in (new, detail, means, texture)]
    new_, detail_, mean_, texture_ = (table[tissues.numbers] for table in tables)
    painted = blurred(new_ + detail_ * (channel - mean_) + texture_ * noise, rng.uniform(*SMOOTH_PAINT), sigma_scale)
    return (painted + 1.2) * np.exp(_bias_field(channel.shape, rng))


def _new_means(means: np.ndarray, tissues: Tissues, rng: np.random.Generator) -> np.ndarray:
    """Any, or those on a curve of the real ones, so that tissues that look alike stay alike. Some of the background
    comes to look like a label; a wall, which scans show mixed with its surroundings, always has any.
    """
    independent = rng.random() < INDEPENDENT
    new = rng.uniform(-1, 1, means.shape) if independent else _curve(means, rng) + rng.normal(0, JITTER, means.shape)
    if tissues.inside:
        alike = (rng.random(len(new)) < LOOK_ALIKE) & (np.arange(len(new)) >= tissues.inside)
        new[alike] = new[rng.integers(tissues.inside, size=int(alike.sum()))]
    if tissues.wall is not None:
        new[tissues.wall] = rng.uniform(-1, 1)
    return new


def _curve(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``values`` through a random curve, from their lowest to their highest, onto [-1, 1]."""
    heights = rng.random(int(rng.integers(CURVE_POINTS[0], CURVE_POINTS[1] + 1)))
    heights = (heights - heights.min()) / max(np.ptp(heights), 1e-6) * 2 - 1
    return np.interp(values, np.linspace(values.min(), values.max(), len(heights)), heights)


def _draw_slices(shape: Sequence[int], sigma_scale: np.ndarray, rng: np.random.Generator) -> tuple[int, float, float] | None:
    """An axis, a thickness in its voxels, and where the first slice lies; None where voxels are that thick already."""
    axis, finest = int(rng.integers(3)), rng.uniform(2, THICKEST)
    thickness = float(finest * sigma_scale[axis])
    return (axis, thickness, float(rng.uniform(0, thickness))) if 1.5 < thickness < shape[axis] / 2 else None


def _in_thick_slices(channel: np.ndarray, axis: int, thickness: float, first: float) -> np.ndarray:
    """``channel`` as if scanned in slices ``thickness`` voxels apart along ``axis``, each a mean, and interpolated."""
    means = ndimage.uniform_filter1d(channel, max(2, round(thickness)), axis=axis, mode="nearest")
    places = np.arange(channel.shape[axis])
    centres = np.arange(first, channel.shape[axis], thickness)
    below = np.clip(np.searchsorted(centres, places, side="right") - 1, 0, max(0, len(centres) - 2))
    above = np.minimum(below + 1, len(centres) - 1)
    weight = np.clip((places - centres[below]) / thickness, 0, 1).astype(np.float32)
    weight = weight.reshape([-1 if dimension == axis else 1 for dimension in range(3)])
    low, high = (
        np.take(means, np.rint(centres[index]).astype(int).clip(0, len(places) - 1), axis=axis) for index in (below, above)
    )
    return low * (1 - weight) + high * weight


def _bias_field(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Smooth, of mean about zero."""
    points = [min(BIAS_POINTS, n) for n in shape]
    field = (rng.standard_normal(points) * rng.uniform(0, BIAS)).astype(np.float32)
    for axis, voxels in enumerate(shape):
        at, control = np.linspace(0, points[axis] - 1, voxels), np.arange(points[axis])
        weights = np.stack([np.interp(at, control, one) for one in np.eye(points[axis])], axis=1).astype(np.float32)
        field = np.moveaxis(np.tensordot(weights, field, (1, axis)), 0, axis)
    return field


def _normalised(channel: np.ndarray) -> np.ndarray:
    """Percentiles onto -1 and 1, as a scan without calibrated intensities is normalised."""
    low, high = np.percentile(channel.ravel()[:: max(1, channel.size // 20000)], PERCENTILES)
    return np.clip((channel - low) / max(high - low, 1e-3) * 2 - 1, -1, 1).astype(np.float32)
