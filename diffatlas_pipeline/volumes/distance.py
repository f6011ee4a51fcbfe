"""Signed distance to the surface of a voxel mask, in mm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from diffatlas_pipeline.volumes.crop import mask_box

_LARGEST = float(np.finfo(np.float32).max)
_BLOCK_VOXELS = 1 << 16  # voxels worked on at a time, so that they stay in the processor's cache


def signed_distance_mm(mask: np.ndarray, spacing_mm: Sequence[float], limit_mm: float | None = None) -> np.ndarray:
    """Distance (X, Y, Z) float32 in mm from each voxel centre to the surface of ``mask`` (X, Y, Z), negative inside.

    The surface crosses the line between a mask voxel and a background neighbour half-way, at their common face: there
    the distance is half a spacing. Each voxel counts as a box whose edges are rounded by half the shortest spacing m.
    For cubes this is a ball, and the result is the Euclidean distance to the nearest opposite voxel centre, less m / 2.
    For thick slices it stays right where that is wrong by millimetres (a slice's face may be nearer than any centre).
    The distance to the rounded boxes is exact. The border of the volume is no surface, so an axis of one voxel does not
    matter.

    An empty mask is +inf everywhere, a full one -inf. ``limit_mm`` clips to [-limit_mm, limit_mm] and is much faster,
    as only the neighbourhood of the mask is then worked on.
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
    edge_mm = _shortest_edge_mm(mask, spacing_mm)
    result[wide] = _distance_to_voxels_mm(mask[wide], spacing_mm, edge_mm, limit)
    near = mask_box(mask, (1, 1, 1))
    result[near] -= _distance_to_voxels_mm(~mask[near], spacing_mm, edge_mm, limit)
    return result


def inscribed_radius_mm(mask: np.ndarray, spacing_mm: Sequence[float], of: np.ndarray | None = None) -> float:
    """The largest distance in mm from a voxel centre of ``mask`` (X, Y, Z) to its surface; 0 if empty, inf if full.

    Only the voxels of its part ``of`` count, if that is given: of those that are known to be inside.
    """
    mask = np.asarray(mask, dtype=bool)
    if not mask.any():
        return 0.0
    near = mask_box(mask, (1, 1, 1))
    depth = _distance_to_voxels_mm(~mask[near], spacing_mm, _shortest_edge_mm(mask, spacing_mm), math.inf)
    return float(depth.max() if of is None else depth.max(where=np.asarray(of, dtype=bool)[near], initial=0.0))


def _shortest_edge_mm(mask: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """The shortest voxel edge, of the axes along which there is anything to measure."""
    return min((s for n, s in zip(mask.shape, spacing_mm, strict=True) if n > 1), default=min(spacing_mm))


def _distance_to_voxels_mm(mask: np.ndarray, spacing_mm: Sequence[float], edge_mm: float, limit: float) -> np.ndarray:
    """Distance (X, Y, Z) float32 in mm from voxel centres to the nearest rounded box of ``mask``; 0 inside, at most
    ``limit``.

    A rounded box is a smaller box of edges (spacing - edge_mm), dilated by edge_mm / 2. The squared distance to the
    smaller box is a sum over axes, see :func:`_gap_mm`; its minimum is found one axis after the other (as in
    Felzenszwalb and Huttenlocher, Theory of Computing 8, 2012, with this cost in place of k squared).
    """
    squared = _along_first_axis(mask, spacing_mm[0], edge_mm)
    np.minimum(squared, np.float32(min((limit + edge_mm / 2) ** 2, _LARGEST)), out=squared)
    rows = max(1, _BLOCK_VOXELS // max(1, squared[0].size))
    for begin in range(0, len(squared), rows):
        block = squared[begin : begin + rows]
        for axis in (1, 2):
            _lower(block, axis, spacing_mm[axis], edge_mm)
    squared[squared >= _LARGEST] = np.inf
    distance = np.sqrt(squared, out=squared)
    distance -= np.float32(edge_mm / 2)
    return np.maximum(distance, 0.0, out=distance)


def _gap_mm(steps: float, spacing_mm: float, edge_mm: float) -> float:
    """Distance along one axis from a voxel centre to the smaller box ``steps`` voxels away (none if negative)."""
    return steps * spacing_mm - max(spacing_mm - edge_mm, 0.0) / 2


def _along_first_axis(mask: np.ndarray, spacing_mm: float, edge_mm: float) -> np.ndarray:
    """Squared distance (X, Y, Z) in mm^2 to the nearest smaller box of ``mask`` along the first axis; inf if none."""
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
        row *= spacing_mm
        row += _gap_mm(0, spacing_mm, edge_mm)
        np.maximum(row, 0.0, out=row)
        row *= row
    return squared


def _lower(squared: np.ndarray, axis: int, spacing_mm: float, edge_mm: float) -> None:
    """Replace ``squared`` (x, Y, Z), in place, by the minimum over k of squared(. + k along axis) + gap(|k|)^2."""
    source, target = np.moveaxis(squared.copy(), axis, 0), np.moveaxis(squared, axis, 0)
    lowest, largest = float(squared.min()), float(squared.max())
    buffer = np.empty_like(source)
    for k in range(1, len(source)):
        cost = _gap_mm(k, spacing_mm, edge_mm) ** 2
        if lowest + cost >= largest:
            break  # no step this long, or longer, lowers anything
        raised = np.add(source, np.float32(cost), out=buffer)
        np.minimum(target[k:], raised[:-k], out=target[k:])
        np.minimum(target[:-k], raised[k:], out=target[:-k])
        if k % 8 == 0:
            largest = float(target.max())
