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
LESION, LESIONS = 0.7, 4  # probability that labels have lesions, and how many at most
LESION_RADIUS = (0.2, 0.8)  # of the radius of a ball as large as the label
LESION_STRETCH = 0.4  # standard deviation of the logarithm of its extent along an axis
SMOOTH = (0.4, 1.2)  # sigma in voxels of the finest spacing


@dataclass(frozen=True)
class Tissues:
    """``numbers`` (X, Y, Z) from 0 to ``count`` - 1: first the labels, some of them in two parts, and ``lesions`` in
    them, ``inside`` in all; then the background's. ``wall`` is the number of the walls around labels, None without.
    """

    numbers: np.ndarray
    inside: int
    wall: int | None
    lesions: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        return int(self.numbers.max()) + 1


def find_tissues(image: np.ndarray, distances: np.ndarray, rng: np.random.Generator, sigma_scale: np.ndarray) -> Tissues:
    """Tissues of ``image`` (C, X, Y, Z) with signed ``distances`` (K, X, Y, Z), NaN or positive where there is no
    label; of labels that overlap, the scores of their codes.

    A thin wall between a label and fat is half a voxel: no image shows it as a cluster, and a scan of another contrast
    as a line, so walls are made up. A scar may not be seen in one sequence, and look like blood in another: so are
    lesions. ``sigma_scale`` (3,) is the finest spacing in voxels of each axis.
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
    lesions = _add_lesions(numbers, label, following, rng, sigma_scale) if rng.random() < LESION else 0
    wall = following + lesions
    background = label == 0
    if rng.random() < WALL:
        walled = [k for k in range(1, len(distances) + 1) if rng.random() < WALLED]
        around = _around(np.isin(label, walled), 1 + int(rng.random() < THICK_WALL), sigma_scale) & background
        numbers[around] = wall
        background &= ~around
    if background.any():
        numbers[background] = wall + 1 + _clusters(smooth, background, rng)
    there, consecutive = np.unique(numbers, return_inverse=True)
    number = int(np.searchsorted(there, wall))
    of_lesions = np.flatnonzero((there >= following) & (there < wall))
    return Tissues(
        consecutive.reshape(numbers.shape), number, number if wall in there else None, tuple(int(n) for n in of_lesions)
    )


def blurred(channel: np.ndarray, sigma: float, sigma_scale: np.ndarray) -> np.ndarray:
    """``channel`` (X, Y, Z) float32, Gaussian, ``sigma`` in voxels of the finest spacing."""
    return ndimage.gaussian_filter(channel.astype(np.float32), sigma * sigma_scale, mode="nearest", truncate=3.0)


def _add_lesions(
    numbers: np.ndarray, label: np.ndarray, following: int, rng: np.random.Generator, sigma_scale: np.ndarray
) -> int:
    """Give parts of labels a number of their own in ``numbers``, from ``following`` on: what of a label lies in an
    ellipsoid about one of its voxels. Returns how many.
    """
    present = np.unique(label[label > 0])
    count = int(rng.integers(1, LESIONS + 1)) if len(present) else 0
    for number in range(following, following + count):
        inside = np.argwhere(label == rng.choice(present))
        ball = np.cbrt(len(inside) / sigma_scale.prod() * 3 / (4 * np.pi))  # its radius, in voxels of the finest spacing
        radii = rng.uniform(*LESION_RADIUS) * ball * np.exp(rng.normal(0, LESION_STRETCH, 3))
        from_centre = (inside - inside[rng.integers(len(inside))]) / (sigma_scale * radii)
        numbers[tuple(inside[(from_centre**2).sum(axis=1) < 1].T)] = number
    return count


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
