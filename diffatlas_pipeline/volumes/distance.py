"""Signed distance to the surface of a voxel mask, in mm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from diffatlas_pipeline.volumes.crop import mask_box

_BLOCK_VOXELS = 1 << 16  # voxels worked on at a time, so that they stay in the processor's cache


def signed_distance_mm(mask: np.ndarray, spacing_mm: Sequence[float], limit_mm: float | None = None) -> np.ndarray:
    """Distance (X, Y, Z) float32 in mm from each voxel centre to the surface of ``mask`` (X, Y, Z), negative inside.

    The surface consists of the faces between mask and background voxels, and the distance to it is exact: half a spacing at
    a voxel that touches the surface with a face, also when voxels are far from cubes (where the distance to the nearest
    opposite voxel *centre*, less half a voxel, is wrong by millimetres). The border of the volume is no surface.
    An empty mask is +inf everywhere, a full one -inf. ``limit_mm`` clips to [-limit_mm, limit_mm] and is much faster, as
    only the neighbourhood of the mask is then worked on.
    """
    mask = np.asarray(mask, dtype=bool)
    if mask.ndim != 3:
        raise ValueError(f"expected a mask (X, Y, Z), received shape {mask.shape}")
    limit = math.inf if limit_mm is None else float(limit_mm)
    result = np.full(mask.shape, limit, dtype=np.float32)
    if not mask.any():
        return result
    reach = [n if math.isinf(limit) else math.ceil(limit / s) + 1 for n, s in zip(mask.shape, spacing_mm, strict=True)]
    wide = mask_box(mask, reach)
    result[wide] = _box_distance_mm(mask[wide], spacing_mm, limit)
    near = mask_box(mask, (1, 1, 1))
    result[near] -= _box_distance_mm(~mask[near], spacing_mm, limit)
    return result


def inscribed_radius_mm(mask: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """The largest distance in mm from a voxel centre of ``mask`` (X, Y, Z) to its surface; 0 if empty, inf if full."""
    mask = np.asarray(mask, dtype=bool)
    if not mask.any():
        return 0.0
    near = mask_box(mask, (1, 1, 1))
    return float(_box_distance_mm(~mask[near], spacing_mm, math.inf).max())


def _box_distance_mm(mask: np.ndarray, spacing_mm: Sequence[float], limit: float) -> np.ndarray:
    """Distance (X, Y, Z) float32 in mm from voxel centres to the nearest voxel of ``mask`` taken as a box; at most ``limit``.

    A box whose centre is k voxels away along an axis begins (|k| - 1/2) spacings away along it (0 for k = 0), so the squared
    distance is a sum over axes, and its minimum is found one axis after the other (as in Felzenszwalb and Huttenlocher,
    Theory of Computing 8, 2012, with this cost in place of k squared).
    """
    squared = _along_first_axis(mask, spacing_mm[0])
    np.minimum(squared, np.float32(min(limit * limit, np.finfo(np.float32).max)), out=squared)
    rows = max(1, _BLOCK_VOXELS // max(1, squared[0].size))
    for begin in range(0, len(squared), rows):
        block = squared[begin : begin + rows]
        for axis in (1, 2):
            _lower(block, axis, spacing_mm[axis])
    squared[squared >= np.finfo(np.float32).max] = np.inf
    return np.sqrt(squared, out=squared)


def _along_first_axis(mask: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Squared distance (X, Y, Z) in mm^2 to the nearest box of ``mask`` in the same line along the first axis; inf if none."""
    squared = np.empty(mask.shape, dtype=np.float32)
    steps = np.full(mask.shape[1:], np.inf, dtype=np.float32)  # since the last mask voxel of each line
    for here, row in zip(mask, squared, strict=True):
        steps += 1.0
        np.copyto(steps, 0.0, where=here)
        row[...] = steps
    steps.fill(np.inf)
    for here, row in zip(mask[::-1], squared[::-1], strict=True):
        steps += 1.0
        np.copyto(steps, 0.0, where=here)
        np.minimum(row, steps, out=row)
        row -= 0.5
        np.maximum(row, 0.0, out=row)
        row *= spacing_mm
        row *= row
    return squared


def _lower(squared: np.ndarray, axis: int, spacing_mm: float) -> None:
    """Replace ``squared`` (x, Y, Z), in place, by the minimum over k of squared(. + k along axis) + ((|k| - 1/2) spacing)^2."""
    n = squared.shape[axis]
    source, target = np.moveaxis(squared.copy(), axis, 0), np.moveaxis(squared, axis, 0)
    largest = float(squared.max())
    lowest = float(squared.min())
    buffer = np.empty_like(source)
    for k in range(1, n):
        cost = ((k - 0.5) * spacing_mm) ** 2
        if lowest + cost >= largest:
            break
        raised = np.add(source, np.float32(cost), out=buffer)
        np.minimum(target[k:], raised[:-k], out=target[k:])
        np.minimum(target[:-k], raised[k:], out=target[:-k])
        if k % 8 == 0:
            largest = float(target.max())
