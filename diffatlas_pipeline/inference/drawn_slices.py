"""Slices that a reader has drawn tell where a segmentation errs: what it lacks there is carried to the slices between.

Errors of a network are smooth: where it sees a border too far out in one slice, it does so in the next. So the
difference of two signed distances in the plane, that of the drawing and that of the segmentation, is interpolated
linearly between drawn slices, as shape-based interpolation does with the distances themselves (Raya and Udupa 1990,
IEEE Transactions on Medical Imaging 9), and added to the segmentation's distances.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from diffatlas_pipeline.datasets.codes import Codes
from diffatlas_pipeline.methods.base import PlannedSegmentation
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.preprocessing.distance_maps import decode_labels, encode_mask
from diffatlas_pipeline.preprocessing.drawing import Drawing
from diffatlas_pipeline.volumes.grids import TripleMm

REACH = 1.0  # tau: beyond the outermost slice a difference fades as a Gaussian of this standard deviation
FARTHEST = 1.5  # times the difference: no voxel farther from a border that was found changes its label


def followed(found: PlannedSegmentation, drawing: Drawing, plan: Plan, codes: Codes) -> PlannedSegmentation:
    """``found``, whose distances are changed so that they follow the slices drawn whole; as it is if there is none.

    Probabilities of several draws are left out: those of the distances take their place.
    """
    planes = drawing.whole_slices
    if not planes:
        return found
    distances, reach_mm = found.distances.numpy(), REACH * plan.distance.tau_mm
    numbers = codes.number(decode_labels(distances, codes))
    shares = _shares(planes, numbers.shape, plan.spacing_mm)
    spread = {axis: weights(slices, numbers.shape[axis], plan.spacing_mm[axis] / reach_mm) for axis, slices in planes.items()}
    for label, distance in enumerate(distances):
        mask, change = codes.mask(numbers, label), np.zeros(numbers.shape, dtype=np.float32)
        for axis, slices in planes.items():
            lacking = _lacking(mask, drawing.planned[label] < 0, axis, slices, plan)
            change += shares[axis] * np.moveaxis(np.tensordot(spread[axis], lacking, axes=1), 0, axis)
        changed = distance + change
        moved = (changed < 0) != (distance < 0)
        moved &= np.abs(_distances(mask, plan)) > FARTHEST * np.abs(change)
        distance[...] = np.where(moved, distance, changed)
    return replace(found, probabilities=None)


def weights(slices: np.ndarray, count: int, size: float) -> np.ndarray:
    """How much each of ``count`` places along an axis takes over from each of the ``slices`` (P,), in rising order:
    (count, P) float32.

    Linear between two slices; beyond the outermost ones a Gaussian of the distance, of which a step has ``size``
    standard deviations.
    """
    place = np.arange(count)
    taken = np.stack([np.interp(place, slices, row) for row in np.eye(len(slices))], axis=1)
    beyond = np.maximum(0, np.maximum(slices[0] - place, place - slices[-1])) * size
    made: np.ndarray = (taken * np.exp(-0.5 * beyond**2)[:, None]).astype(np.float32)
    return made


def _lacking(found: np.ndarray, true: np.ndarray, axis: int, slices: np.ndarray, plan: Plan) -> np.ndarray:
    """In each of the ``slices`` across ``axis``, signed distances in the plane of the ``true`` mask (X, Y, Z) less
    those of the one ``found``, in tau: (P, A, B).
    """
    both = ([_distances(np.take(mask, [place], axis), plan) for place in slices] for mask in (true, found))
    return np.stack([np.squeeze(wanted - had, axis) for wanted, had in zip(*both, strict=True)])


def _distances(mask: np.ndarray, plan: Plan) -> np.ndarray:
    return encode_mask(mask, plan.spacing_mm, plan.distance.tau_mm).clip(-1, 1)  # as those of a network


def _shares(planes: dict[int, np.ndarray], shape: tuple[int, ...], spacing_mm: TripleMm) -> dict[int, np.ndarray]:
    """How much slices across each axis tell of a place where there are slices across several: the more, the nearer they
    are. They sum to 1; broadcast to (X, Y, Z).
    """
    near = {}
    for axis, slices in planes.items():
        steps = np.abs(np.arange(shape[axis])[:, None] - slices).min(axis=1)
        view = [-1 if one == axis else 1 for one in range(3)]
        near[axis] = (1 / np.square((steps + 0.5) * spacing_mm[axis])).astype(np.float32).reshape(view)
    total = sum(near.values())
    return {axis: one / total for axis, one in near.items()}
