"""Maps from a target grid into an atlas, as the atlas coordinates of every target voxel, and resampling through them.

``coordinates`` (3, X, Y, Z) float32: for each voxel of the target, where it lies in the atlas, in atlas voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def voxel_grid(shape: Sequence[int]) -> np.ndarray:
    """The coordinates (3, X, Y, Z) float32 of each voxel of a grid: the identity map."""
    return np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij"))


def affine_coordinates(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """``matrix`` (3, 4) of target voxels to atlas voxels, applied to ``points`` (3, X, Y, Z)."""
    linear = matrix[:, :3].astype(np.float32)
    return (linear @ points.reshape(3, -1) + matrix[:, 3:].astype(np.float32)).reshape(points.shape)


def warp_image(image: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """``image`` (x, y, z) at ``coordinates``, linear in between, continued by its border values -> (X, Y, Z)
    float32.
    """
    return ndimage.map_coordinates(image, coordinates, output=np.float32, order=1, mode="nearest")


def outside(coordinates: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """How far (3, X, Y, Z), in voxels along each axis, coordinates lie beyond the volume of the atlas; 0 inside of it.

    The volume reaches half a voxel beyond its outermost centres, and without end along an axis of one voxel.
    """
    beyond = np.zeros_like(coordinates)
    for axis, n in enumerate(shape):
        if n > 1:
            np.maximum(-0.5 - coordinates[axis], coordinates[axis] - (n - 0.5), out=beyond[axis])
            np.maximum(beyond[axis], 0, out=beyond[axis])
    return beyond


def warp_distances(distances: np.ndarray, coordinates: np.ndarray, spacing_mm: Sequence[float], tau_mm: float) -> np.ndarray:
    """``distances`` (K, x, y, z) in units of tau at ``coordinates`` -> (K, X, Y, Z) float32, clipped to [-1, 1].

    Beyond the atlas its border values go on, plus the way out of it: a structure that is cut off by the border does not
    go on for ever.
    """
    way_mm = outside(coordinates, distances.shape[1:]) * np.asarray(spacing_mm, np.float32)[:, None, None, None]
    beyond = np.sqrt((way_mm * way_mm).sum(axis=0)) / np.float32(tau_mm)
    return np.stack([np.clip(warp_image(one, coordinates) + beyond, -1, 1) for one in distances])
