"""Native axis order and direction <-> the one canonical orientation used inside (closest to RAS+)."""

from __future__ import annotations

import numpy as np
from nibabel.orientations import inv_ornt_aff, io_orientation

from diffatlas_pipeline.volumes.grids import Grid

_TILE = 32  # voxels; a tile's rows and columns both fit the processor's cache


def to_canonical(array: np.ndarray, grid: Grid) -> tuple[np.ndarray, Grid]:
    """Reorder and flip axes of ``array`` (C, X, Y, Z) so that they run right, anterior, superior; exact, no
    interpolation.

    Returns the array and its canonical grid. An oblique volume keeps its obliquity: each axis only goes to the nearest
    world axis. A two-dimensional image keeps its slice axis last; its in-plane axes are ordered by the world axes they
    follow.
    """
    order, flipped = _permutation(grid)
    _check_shape(array, grid.shape)
    turned = np.transpose(array, (0, *(axis + 1 for axis in order)))
    turned = np.flip(turned, tuple(position + 1 for position, axis in enumerate(order) if flipped[axis]))
    return _contiguous(turned), canonical_grid(grid)


def from_canonical(array: np.ndarray, native_grid: Grid) -> np.ndarray:
    """The inverse of :func:`to_canonical`: ``array`` (C, X, Y, Z) on the canonical grid, returned on
    ``native_grid``.
    """
    order, flipped = _permutation(native_grid)
    x, y, z = (native_grid.shape[axis] for axis in order)
    _check_shape(array, (x, y, z))
    unflipped = np.flip(array, tuple(position + 1 for position, axis in enumerate(order) if flipped[axis]))
    return _contiguous(np.transpose(unflipped, (0, *(position + 1 for position in np.argsort(order)))))


def canonical_grid(grid: Grid) -> Grid:
    """The grid on which :func:`to_canonical` puts a volume from ``grid``."""
    order, flipped = _permutation(grid)
    orientation = np.array([[order.index(axis), -1.0 if flipped[axis] else 1.0] for axis in range(3)])
    affine = grid.matrix @ inv_ornt_aff(orientation, grid.shape)
    return Grid.of(tuple(grid.shape[axis] for axis in order), affine, grid.dimensions)


def _permutation(grid: Grid) -> tuple[list[int], list[bool]]:
    """Which native axis lies at each canonical position, and whether each native axis is flipped."""
    orientation = io_orientation(grid.matrix)
    world_axis = orientation[:, 0]
    if grid.dimensions == 2:
        in_plane = sorted((0, 1), key=lambda axis: world_axis[axis])
        order = [*in_plane, 2]
    else:
        order = [int(axis) for axis in np.argsort(world_axis)]
    return order, [bool(direction < 0) for direction in orientation[:, 1]]


def _contiguous(array: np.ndarray) -> np.ndarray:
    """``array`` (C, X, Y, Z) laid out in that order in memory, copied tile by tile: twice as fast as at once if
    transposed.
    """
    if array.flags.c_contiguous:
        return array
    copied = np.empty(array.shape, dtype=array.dtype)
    for x in range(0, array.shape[1], _TILE):
        for z in range(0, array.shape[3], _TILE):
            copied[:, x : x + _TILE, :, z : z + _TILE] = array[:, x : x + _TILE, :, z : z + _TILE]
    return copied


def _check_shape(array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.ndim != 4 or array.shape[1:] != tuple(shape):
        raise ValueError(f"expected an array (C, {', '.join(map(str, shape))}), received shape {array.shape}")
