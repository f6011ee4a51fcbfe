"""Crop to content, and its inverse."""

from __future__ import annotations

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import crop_to_bbox, get_bbox_from_mask

from diffatlas_pipeline.contracts import Triple


def content_box(array: np.ndarray) -> tuple[Triple, Triple]:
    """The smallest box of ``array`` (C, X, Y, Z) outside of which every channel is constant; returns (start, shape) in voxels.

    The constant is the most frequent value of a channel's eight corner voxels: zero around a skull-stripped head, the padding
    value around the round field of view of a CT. An image without any content keeps its full extent.
    """
    content = np.zeros(array.shape[1:], dtype=bool)
    for channel in array:
        content |= channel != _corner_value(channel)
    box = get_bbox_from_mask(content)
    (x, y, z), (nx, ny, nz) = (tuple(low for low, _ in box), tuple(high - low for low, high in box))
    return (x, y, z), (nx, ny, nz)


def crop(array: np.ndarray, start: Triple, shape: Triple) -> np.ndarray:
    """The box of ``array`` (C, X, Y, Z) that begins at voxel ``start`` and has ``shape`` voxels; a view."""
    box = [[0, array.shape[0]], *([low, low + n] for low, n in zip(start, shape, strict=True))]
    for (low, high), n in zip(box[1:], array.shape[1:], strict=True):
        if low < 0 or high > n or low >= high:
            raise ValueError(f"box from {start} of shape {shape} does not lie inside a volume of shape {array.shape[1:]}")
    return crop_to_bbox(array, box)


def uncrop(array: np.ndarray, start: Triple, full_shape: Triple, fill: float) -> np.ndarray:
    """The inverse of :func:`crop`: ``array`` (C, x, y, z) put at ``start`` of (C, *full_shape), the rest ``fill``."""
    full = np.full((array.shape[0], *full_shape), fill, dtype=array.dtype)
    crop(full, start, (array.shape[1], array.shape[2], array.shape[3]))[...] = array
    return full


def _corner_value(channel: np.ndarray) -> float:
    """The most frequent value of the eight corner voxels (the smallest such value on a tie)."""
    values, counts = np.unique(channel[np.ix_(*((0, -1),) * 3)], return_counts=True)
    return values[np.argmax(counts)]
