"""What is done to label maps at the end: the largest component of a label is kept, and its holes are filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from diffatlas_pipeline.models.postprocessing import FILLED, LARGEST


def postprocessed(labels: np.ndarray, steps: Mapping[int, Sequence[str]]) -> np.ndarray:
    """``labels`` (X, Y, Z) after the ``steps`` of some of its values, as a new array.

    What is not in the largest component becomes background. A hole is background that is enclosed: other labels in it
    stay. Holes are filled last, in the order of ``steps``.
    """
    done = labels.copy()
    for value, taken in steps.items():
        if LARGEST in taken:
            mask = done == value
            done[mask & ~largest_component(mask)] = 0
    for value, taken in steps.items():
        if FILLED in taken:
            done[filled_holes(done == value) & (done == 0)] = value
    return done


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest part of ``mask`` (X, Y, Z) whose voxels touch, if only at corners; of equal ones the first."""
    box = bounding_box(mask)
    parts, count = ndimage.label(mask[box], structure=np.ones((3,) * mask.ndim))
    if count < 2:
        return mask
    kept = np.zeros_like(mask)
    kept[box] = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    return kept


def filled_holes(mask: np.ndarray) -> np.ndarray:
    """``mask`` (X, Y, Z) with what it encloses; of a single slice, within this."""
    box = bounding_box(mask)
    inside = mask[box]
    axes = tuple(axis for axis, size in enumerate(mask.shape) if size > 1)
    if not inside.any() or not axes:
        return mask
    flat = inside.reshape([inside.shape[axis] for axis in axes])
    filled = np.zeros_like(mask)
    filled[box] = ndimage.binary_fill_holes(flat).reshape(inside.shape)
    return filled


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds ``mask``."""
    box = []
    for axis in range(mask.ndim):
        there = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(there[0]), int(there[-1]) + 1) if len(there) else slice(0, 0))
    return tuple(box)
