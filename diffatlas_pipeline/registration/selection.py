"""Atlas selection: those most similar to the target after affine alignment are registered deformably."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffatlas_pipeline.registration.affine import BINS, centre_matrix
from diffatlas_pipeline.registration.grids import factors, shrink, shrunk_shape
from diffatlas_pipeline.registration.similarity import mutual_information
from diffatlas_pipeline.registration.warp import affine_coordinates, voxel_grid, warp_image

COARSE_AXIS = 24  # voxels of the finest axis' length at which centred volumes are compared


def centred_likeness(target: np.ndarray, atlas: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Mutual information in nats of two images (C, X, Y, Z) laid on each other by their centres, on a coarse grid.

    Milliseconds: good enough to leave out of many atlases those that differ most in size, position or field of view.
    Mean over channels.
    """
    by = factors(target.shape[1:], spacing_mm, max(1.0, max(target.shape[1:]) / COARSE_AXIS))
    shape = shrunk_shape(target.shape[1:], by)
    small = shrunk_shape(atlas.shape[1:], by)
    coordinates = affine_coordinates(centre_matrix(shape, small), voxel_grid(shape))
    pairs = zip(target, atlas, strict=True)
    return float(np.mean([mutual_information(shrink(t, by), warp_image(shrink(a, by), coordinates), BINS) for t, a in pairs]))


def aligned_likeness(target: np.ndarray, warped: np.ndarray) -> float:
    """Mutual information in nats of two aligned images (C, X, Y, Z), mean over channels.

    On validation cases it ranked atlases a little better than local correlation, the similarity of the deformable
    stage.
    """
    return float(np.mean([mutual_information(t, w, BINS) for t, w in zip(target, warped, strict=True)]))


def best(scores: Sequence[float], count: int) -> list[int]:
    """Indices of the ``count`` largest scores, in the order of the atlases; equal scores go to the earlier atlas."""
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return sorted(order[:count])
