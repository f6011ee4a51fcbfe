"""Contrast adaptation: the intensities that a scan would have, had it been taken as the training scans were.

Atlases are aligned to the target by mutual information, which does not care for contrast. The mean intensity of the
atlases, given the target's intensity, is then the curve that the target's intensities are sent through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from diffatlas_pipeline.registration.affine import RegistrationFailed, align
from diffatlas_pipeline.registration.threads import one_itk_thread
from diffatlas_pipeline.registration.warp import affine_coordinates, outside, voxel_grid, warp_image

BINS = 24
SMOOTHING = 1.0  # bins: few voxels fall into each, and a contrast changes gradually
RANGE = (2.0, 98.0)  # percentiles that the adapted scan shares with the atlases


@dataclass(frozen=True)
class ContrastCurve:
    """Target intensity -> atlas intensity, piecewise linear between ``given`` (ascending) and ``wanted``, both (n,)."""

    given: np.ndarray
    wanted: np.ndarray

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """``image`` of any shape -> float32 of the same shape, in [-1, 1]."""
        return np.interp(image, self.given, self.wanted).clip(-1, 1).astype(np.float32)


def adapt_contrast(
    target: np.ndarray, atlases: Sequence[np.ndarray], spacing_mm: Sequence[float], seed: int = 0
) -> tuple[np.ndarray, tuple[ContrastCurve, ...]]:
    """``target`` (C, X, Y, Z) float32 in [-1, 1] with the contrast of ``atlases`` (C, x, y, z), and the curve per
    channel.

    All are on grids of ``spacing_mm``. Alignment goes by the first channel. Raises RegistrationFailed if no atlas can
    be aligned.
    """
    warped, known = [], []
    with one_itk_thread():
        for atlas in atlases:
            try:
                matrix = align(target[0], atlas[0].astype(np.float32), spacing_mm, seed)
            except RegistrationFailed:
                continue
            coordinates = affine_coordinates(matrix, voxel_grid(target.shape[1:]))
            warped.append(np.stack([warp_image(channel.astype(np.float32), coordinates) for channel in atlas]))
            known.append((outside(coordinates, atlas.shape[1:]) == 0).all(axis=0))
    if not warped:
        raise RegistrationFailed("none of the training scans that the model keeps could be aligned to it")
    curves = tuple(contrast_curve(channel, [one[index] for one in warped], known) for index, channel in enumerate(target))
    return np.stack([curve(channel) for curve, channel in zip(curves, target, strict=True)]), curves


def contrast_curve(target: np.ndarray, aligned: Sequence[np.ndarray], known: Sequence[np.ndarray]) -> ContrastCurve:
    """The curve of one channel: ``target`` and ``aligned`` atlases (X, Y, Z), these where ``known`` (X, Y, Z) is true.

    Bins hold equally many voxels of the target. A conditional mean is less spread than what it is the mean of, so the
    curve is stretched until the adapted target has the atlases' range.
    """
    here = np.concatenate([target[inside] for inside in known])
    there = np.concatenate([image[inside] for image, inside in zip(aligned, known, strict=True)])
    edges = np.unique(np.quantile(here, np.linspace(0, 1, BINS + 1)))
    if len(edges) < 3:
        return ContrastCurve(np.array([-1.0, 1.0]), np.array([-1.0, 1.0]))
    index = np.clip(np.searchsorted(edges, here, side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(index, minlength=len(edges) - 1).astype(np.float64)
    filled = count > 0
    given = (np.bincount(index, here, len(edges) - 1) / np.maximum(count, 1))[filled]
    wanted = (np.bincount(index, there, len(edges) - 1) / np.maximum(count, 1))[filled]
    wanted = ndimage.gaussian_filter1d(wanted, SMOOTHING, mode="nearest")
    adapted = np.interp(here, given, wanted)
    (low, high), (wanted_low, wanted_high) = np.percentile(adapted, RANGE), np.percentile(there, RANGE)
    if high - low > 1e-3:
        wanted = (wanted - low) / (high - low) * (wanted_high - wanted_low) + wanted_low
    return ContrastCurve(given, wanted)
