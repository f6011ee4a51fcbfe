"""Grids whose axes are not perpendicular, as of a CT with a tilted gantry, brought to perpendicular axes and back.

All that measures by voxel edges (distances, patches, convolutions) needs perpendicular axes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from diffatlas_pipeline.volumes.crop import corner_value
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.orientation import to_canonical


def to_upright(array: np.ndarray, grid: Grid, is_label: bool = False, outside: float = 0) -> tuple[np.ndarray, Grid]:
    """``array`` (C, X, Y, Z) in canonical orientation, on perpendicular axes, and its grid.

    Where the axes are sheared (a tilted gantry), images are resampled linearly and go on beyond their grid with the
    value of their corners; labels take the nearest voxel, and ``outside``.
    """
    canonical, sheared = to_canonical(array, grid)
    upright = upright_grid(sheared)
    fill = [outside if is_label else float(corner_value(channel)) for channel in canonical]
    return on_grid(canonical, sheared, upright, 0 if is_label else 1, fill), upright


def upright_grid(grid: Grid) -> Grid:
    """The smallest grid with perpendicular axes that holds all of ``grid``; ``grid`` itself if its axes are.

    The first axis keeps its direction, the second stays in the plane of the first two, and the third is normal to it,
    with the distance of these planes as its spacing.
    """
    if not grid.is_sheared:
        return grid
    columns, edges_mm = grid.matrix[:3, :3], np.asarray(grid.spacing_mm)
    directions, upper = np.linalg.qr(columns)
    signs = np.sign(np.diag(upper))
    directions = directions * signs
    spacing_mm = np.array([edges_mm[0], edges_mm[1], abs(upper[2, 2])])
    corners = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in grid.shape)))) @ columns.T
    along = corners @ directions
    low, high = along.min(axis=0), along.max(axis=0)
    shape = np.maximum(1, np.ceil((high - low) / spacing_mm - 1e-6).astype(int))
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing_mm
    middle = (low + high) / 2 - (shape - 1) / 2 * spacing_mm  # of the first voxel, along each direction
    affine[:3, 3] = grid.matrix[:3, 3] + directions @ middle
    return Grid.of(tuple(int(n) for n in shape), affine, grid.dimensions)


def on_grid(array: np.ndarray, grid: Grid, target: Grid, order: int, outside: Sequence[float]) -> np.ndarray:
    """``array`` (C, X, Y, Z) on ``grid`` at the voxels of ``target``: the nearest voxel (``order`` 0), or linear (1).

    ``outside`` has one value per channel for what lies beyond ``grid``. The array itself if both grids are one.
    """
    if grid == target:
        return array
    to_source = np.linalg.inv(grid.matrix) @ target.matrix
    result = np.empty((len(array), *target.shape), dtype=array.dtype)
    for channel, fill, out in zip(array, outside, result, strict=True):
        mapped = {"output": out, "order": order, "mode": "constant", "cval": fill}
        ndimage.affine_transform(channel, to_source[:3, :3], to_source[:3, 3], output_shape=target.shape, **mapped)
    return result
