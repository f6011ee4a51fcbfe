"""Resampling between grids that share one field of view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from diffatlas_pipeline.volumes.grids import Box, Triple

_BLOCK = 64  # output samples per matrix product
_REACH = 24  # samples after which the cubic spline's prefilter has decayed below single precision (0.268 ** 24 = 2e-14)


def resampled_shape(shape: Sequence[int], spacing_mm: Sequence[float], new_spacing_mm: Sequence[float]) -> Triple:
    """The shape that a volume of ``shape`` voxels takes at ``new_spacing_mm``: its field of view kept, at least one
    voxel.
    """
    x, y, z = (
        max(1, int(np.floor(n * old / new + 0.5))) for n, old, new in zip(shape, spacing_mm, new_spacing_mm, strict=True)
    )
    return x, y, z


def resample(array: np.ndarray, shape: Triple, order: int | Triple) -> np.ndarray:
    """Resample ``array`` (C, X, Y, Z) to (C, *shape), float32, by splines of ``order`` 0, 1 or 3, for all or for each
    axis.

    The outer edges of the field of view are kept: sample i of n_out lies at (i + 1/2) n_in / n_out - 1/2 of the input,
    and the input continues beyond its border with its edge value. The result is that of
    ``scipy.ndimage.zoom(grid_mode=True, mode="nearest")``, computed one axis at a time as products with small matrices,
    since tensor-product splines separate. Values must be finite.
    """
    if array.ndim != 4:
        raise ValueError(f"expected an array (C, X, Y, Z), received shape {array.shape}")
    orders = (order, order, order) if isinstance(order, int) else order
    if any(one not in (0, 1, 3) for one in orders):
        raise ValueError(f"order must be 0, 1 or 3 on each axis, received {order}")
    if tuple(shape) == array.shape[1:]:
        return np.array(array, dtype=np.float32)
    axes = [axis for axis in range(3) if array.shape[axis + 1] != shape[axis]]
    axes.sort(key=lambda axis: shape[axis] / array.shape[axis + 1])  # the axis that shrinks most first: least work
    channels = []
    for channel in np.asarray(array, dtype=np.float32):
        for axis in axes:
            channel = _resample_axis(np.ascontiguousarray(channel), axis, shape[axis], orders[axis])
        channels.append(channel)
    return np.stack(channels)


def resample_part(array: np.ndarray, shape: Triple, part: Box) -> np.ndarray:
    """What :func:`resample` of ``array`` (C, X, Y, Z) to ``shape`` by linear splines has in ``part``, without the
    rest.
    """
    found = np.asarray(array, dtype=np.float32)
    for axis, (size, within) in enumerate(zip(shape, part, strict=True), 1):
        count = found.shape[axis]
        where = np.clip((np.arange(size)[within] + 0.5) * count / size - 0.5, 0, count - 1)
        low = np.floor(where).astype(int)
        share = (where - low).astype(np.float32).reshape(-1, *[1] * (3 - axis))
        below, above = (np.take(found, np.minimum(low + step, count - 1), axis=axis) for step in (0, 1))
        found = below + share * (above - below)
    return found


def _resample_axis(volume: np.ndarray, axis: int, n_out: int, order: int) -> np.ndarray:
    """``volume`` (X, Y, Z) float32 with ``n_out`` samples along ``axis``."""
    n_in = volume.shape[axis]
    if order == 0:
        nearest = ((2 * np.arange(n_out) + 1) * n_in) // (2 * n_out)
        return np.take(volume, nearest, axis=axis)
    result = np.empty((*volume.shape[:axis], n_out, *volume.shape[axis + 1 :]), dtype=np.float32)
    for target, source, matrix in _operator(n_in, n_out, order):
        if axis == 0:
            flat = volume[source].reshape(source.stop - source.start, -1)
            result[target] = (matrix @ flat).reshape(-1, *volume.shape[1:])
        elif axis == 1:
            result[:, target] = np.matmul(matrix, volume[:, source])
        else:
            result[:, :, target] = np.matmul(volume[:, :, source], matrix.T)
    return result


def _operator(n_in: int, n_out: int, order: int) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """The resampling matrix of one axis as blocks: (rows of the output, samples of the input they need, their
    weights).
    """
    step = n_in / n_out
    reach = _REACH if order == 3 else 1
    for begin in range(0, n_out, _BLOCK):
        end = min(begin + _BLOCK, n_out)
        first, last = (begin + 0.5) * step - 0.5, (end - 0.5) * step - 0.5
        low, high = max(0, int(np.floor(first)) - reach), min(n_in, int(np.floor(last)) + 2 + reach)
        unit = np.eye(high - low)  # the operator's columns are its answers to unit impulses
        weights = ndimage.affine_transform(
            unit, [step, 1.0], offset=[first - low, 0.0], output_shape=(end - begin, high - low), order=order, mode="nearest"
        )
        weights[np.abs(weights) < 1e-10] = 0.0  # the spline's far tails would be denormal numbers, which multiply slowly
        yield slice(begin, end), slice(low, high), weights.astype(np.float32)
