"""Tissues of a patch: what a synthetic contrast paints in one intensity. Labels tell some, the image the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

BACKGROUND_TISSUES = (2, 12)
PLACE_WEIGHT = (0.02, 2.0)  # of the distance of two voxels in patches, against their difference in intensity
SPLIT_LABEL = 0.3  # probability that a label is two tissues, by its intensity
WALL, WALLED = 0.7, 0.7  # probability that labels have a thin wall of a tissue of its own, and that one of them has it
THICK_WALL = 0.3  # probability that it is two voxels thick, not one
SMOOTH = (0.4, 1.2)  # sigma in voxels of the finest spacing


@dataclass(frozen=True)
class Tissues:
    """``numbers`` (X, Y, Z) from 0 to ``count`` - 1: first the labels, some of them in two parts, ``inside`` in all;
    then the background's. ``wall`` is the number of the walls around labels, None without.
    """

    numbers: np.ndarray
    inside: int
    wall: int | None

    @property
    def count(self) -> int:
        return int(self.numbers.max()) + 1


def find_tissues(image: np.ndarray, distances: np.ndarray, rng: np.random.Generator, sigma_scale: np.ndarray) -> Tissues:
    """Tissues of ``image`` (C, X, Y, Z) with signed ``distances`` (K, X, Y, Z), NaN or positive where there is no
    label; of labels that overlap, the scores of their codes.

    A thin wall between a label and fat is half a voxel: no image shows it as a cluster, and a scan of another contrast
    as a line, so walls are made up. ``sigma_scale`` (3,) is the finest spacing in voxels of each axis.
    """
    smooth = np.stack([blurred(channel, rng.uniform(*SMOOTH), sigma_scale) for channel in image])
    nearest = np.where(np.isnan(distances), 1.0, distances)
    label = np.where(nearest.min(axis=0) < 0, nearest.argmin(axis=0) + 1, 0)
    numbers, following = label.copy(), len(distances) + 1
    for k in range(1, len(distances) + 1):
        if rng.random() < SPLIT_LABEL and (inside := label == k).any():
            channel = smooth[rng.integers(len(smooth))]
            cut = np.quantile(channel[inside], rng.uniform(0.1, 0.9))
            numbers[inside & (channel > cut)] = following
            following += 1
    background, wall = label == 0, following
    if rng.random() < WALL:
        walled = [k for k in range(1, len(distances) + 1) if rng.random() < WALLED]
        around = _around(np.isin(label, walled), 1 + int(rng.random() < THICK_WALL), sigma_scale) & background
        numbers[around] = wall
        background &= ~around
    if background.any():
        numbers[background] = wall + 1 + _clusters(smooth, background, rng)
    there, consecutive = np.unique(numbers, return_inverse=True)
    number = int(np.searchsorted(there, wall))
    return Tissues(consecutive.reshape(numbers.shape), number, number if wall in there else None)


def blurred(channel: np.ndarray, sigma: float, sigma_scale: np.ndarray) -> np.ndarray:
    """``channel`` (X, Y, Z) float32, Gaussian, ``sigma`` in voxels of the finest spacing."""
    return ndimage.gaussian_filter(channel.astype(np.float32), sigma * sigma_scale, mode="nearest", truncate=3.0)


def _around(mask: np.ndarray, voxels: int, sigma_scale: np.ndarray) -> np.ndarray:
    """``mask`` grown by so many ``voxels``, but not along an axis on which these are over twice as thick as the
    finest.
    """
    structure = np.zeros((3, 3, 3), dtype=bool)
    structure[1, 1, 1] = True
    for axis in np.flatnonzero(sigma_scale >= 0.5):
        structure[tuple(slice(None) if dimension == axis else 1 for dimension in range(3))] = True
    return ndimage.binary_dilation(mask, structure, iterations=voxels)


def _clusters(smooth: np.ndarray, background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) the cluster of each background voxel: the nearest of random voxels, by intensity and, more or less, by
    place.
    """
    spread = np.maximum(smooth[:, background].std(axis=1, keepdims=True), 1e-3)
    weight = np.exp(rng.uniform(*np.log(PLACE_WEIGHT)))
    place = np.stack(np.nonzero(background)) * (weight / max(background.shape))
    features = np.concatenate([smooth[:, background] / spread, place]).astype(np.float32)
    count = int(rng.integers(BACKGROUND_TISSUES[0], BACKGROUND_TISSUES[1] + 1))
    best = np.full(features.shape[1], np.inf, dtype=np.float32)
    cluster = np.zeros(features.shape[1], dtype=np.int64)
    for number, centre in enumerate(rng.integers(features.shape[1], size=count)):
        far = ((features - features[:, centre, None]) ** 2).sum(axis=0)
        cluster[far < best] = number
        np.minimum(best, far, out=best)
    return cluster
