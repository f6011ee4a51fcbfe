"""Small images with two touching labels, and maps to bend them by."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from diffatlas_pipeline.registration.fusion import distances_of, labels_of
from diffatlas_pipeline.registration.warp import voxel_grid, warp_distances

SPACING_MM = (1.0, 1.0, 1.0)
TAU_MM = 3.0
SHAPE = (24, 28, 22)


def scan(coordinates: np.ndarray, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Image (1, X, Y, Z) in [-1, 1] and labels (X, Y, Z) in {0, 1, 2} of an anatomy given in voxels of ``shape``.

    ``coordinates`` (3, X, Y, Z) say which place of the anatomy each voxel shows; the identity shows it as it is.
    """
    centre = (np.array(shape, np.float32)[:, None, None, None] - 1) / 2
    reach = np.maximum(np.array(shape, np.float32)[:, None, None, None], 2)
    x, y, z = (coordinates - centre) / reach
    body = (x / 0.45) ** 2 + (y / 0.42) ** 2 + (z / 0.45) ** 2 < 1
    inner = ((x + 0.3 * y) / 0.22) ** 2 + (y / 0.3) ** 2 + (z / 0.24) ** 2 < 1
    labels = np.where(inner, np.where(y + 0.4 * x > 0.02, 1, 2), 0)
    texture = 0.12 * np.sin(14 * x + 3) * np.cos(11 * y + 1) * np.cos(12 * z)
    image = np.where(labels == 1, 0.75, np.where(labels == 2, 0.3, np.where(body, -0.25, -0.9))) + texture
    smooth = ndimage.gaussian_filter(image.astype(np.float32), [0.6 if n > 1 else 0 for n in image.shape])
    return np.clip(smooth, -1, 1)[None], labels


def distances(labels: np.ndarray, spacing_mm: tuple[float, float, float] = SPACING_MM) -> np.ndarray:
    return distances_of(labels, 2, spacing_mm, TAU_MM)


def bend(shape: tuple[int, int, int] = SHAPE, size: float = 2.0, seed: int = 0) -> np.ndarray:
    """Coordinates (3, X, Y, Z): the identity plus a smooth random displacement of at most ``size`` voxels."""
    noise = np.random.default_rng(seed).normal(size=(3, *shape)).astype(np.float32)
    sigma = [4.0 if n > 1 else 0.0 for n in shape]
    smooth = np.stack([ndimage.gaussian_filter(one, sigma) for one in noise])
    smooth[[axis for axis, n in enumerate(shape) if n == 1]] = 0
    return voxel_grid(shape) + size * smooth / np.abs(smooth).max()


def tilt(matrix: np.ndarray, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Coordinates of an affine map about the centre of the volume; ``matrix`` (3, 4), its shift in voxels."""
    centre = (np.array(shape, np.float32)[:, None] - 1) / 2
    points = voxel_grid(shape).reshape(3, -1) - centre
    return (matrix[:, :3] @ points + matrix[:, 3:] + centre).reshape(3, *shape).astype(np.float32)


def carried(labels: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """Labels of an atlas at ``coordinates``, by way of their distance maps."""
    return labels_of(warp_distances(distances(labels), coordinates, SPACING_MM, TAU_MM))


def mean_dice(a: np.ndarray, b: np.ndarray) -> float:
    """Mean Dice of labels 1 and 2."""
    return float(np.mean([2 * ((a == k) & (b == k)).sum() / max(1, (a == k).sum() + (b == k).sum()) for k in (1, 2)]))
