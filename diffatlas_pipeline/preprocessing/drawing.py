"""What a reader has drawn of a scan's labels: from the scan's grid to the planned one, and kept in the result."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diffatlas_pipeline.datasets.codes import codes_of
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.preprocessing.spatial import SpatialRecord
from diffatlas_pipeline.volumes.crop import crop
from diffatlas_pipeline.volumes.grids import LabelVolume, grid_difference
from diffatlas_pipeline.volumes.upright import to_upright

UNKNOWN = 255  # the value of a voxel that nobody has looked at
ENOUGH = 0.5  # of a planned voxel that has to be drawn
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Drawing:
    """``native`` (X, Y, Z) int32 on the scan's grid: 0, the labels' values, or UNKNOWN. ``planned`` (K, x, y, z)
    float32: the same on the planned grid, -1 where a label was drawn, +1 where something else was, 0 where unknown.
    """

    native: np.ndarray
    planned: np.ndarray
    labels: tuple[LabelClass, ...]

    @property
    def is_complete(self) -> bool:
        """Whether no voxel is unknown."""
        return not (self.native == UNKNOWN).any()

    @property
    def whole_slices(self) -> dict[int, np.ndarray]:
        """By axis, the planned slices across it of which every voxel is known, in rising order; axes without are left
        out.
        """
        known, found = (self.planned != 0).all(axis=0), {}
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            slices = np.flatnonzero(known.all(axis=others))
            if len(slices) and known.shape[axis] > 1:
                found[axis] = slices
        return found

    def keep_in(self, labels: np.ndarray, distances: np.ndarray | None, uncertainty: np.ndarray | None) -> None:
        """Write what was drawn into ``labels`` (X, Y, Z), and make the maps agree with it: the sign of ``distances``
        (K, X, Y, Z), and an ``uncertainty`` (X, Y, Z) of 0.
        """
        known = self.native != UNKNOWN
        labels[known] = self.native[known]
        if distances is not None:
            least = np.finfo(np.float32).tiny  # not 0: a voxel that was drawn as a label lies inside of it
            for one, label in zip(distances, self.labels, strict=True):
                sign = np.where(label.mask(self.native[known]), np.float32(-1), np.float32(1))
                one[known] = sign * np.maximum(np.abs(one[known]), least)
        if uncertainty is not None:
            uncertainty[known] = 0

    def keep_in_probabilities(self, probabilities: np.ndarray) -> None:
        """Make what was drawn certain in ``probabilities`` (1 + K, X, Y, Z), background first; of labels that overlap,
        of their codes.
        """
        known = self.native != UNKNOWN
        drawn = codes_of(self.labels).number(self.native[known])
        for number, one in enumerate(probabilities):
            one[known] = drawn == number


def prepare_drawing(drawing: LabelVolume, record: SpatialRecord, plan: Plan) -> Drawing:
    """``drawing`` for the scan that ``record`` belongs to.

    A planned voxel is known where at least half of it is, or, if planned voxels are larger than the scan's, where it
    holds at least half of a drawn slice: a slice is never lost. It is what most of it was drawn as. UserError if the
    drawing lies on another grid, holds other values than labels, 0 and UNKNOWN, or is unknown everywhere.
    """
    labels = plan.dataset.labels
    if plan.dataset.ignore is not None:  # the data set's own word for it
        drawing = replace(drawing, array=np.where(drawing.array == plan.dataset.ignore, UNKNOWN, drawing.array))
    codes = codes_of(labels)
    _check(drawing, record, plan.dataset.label_values[1:])
    upright, _ = to_upright(drawing.array[None].astype(np.int32), drawing.grid, is_label=True, outside=UNKNOWN)
    cropped = crop(upright, record.crop_start, record.crop_shape)[0]
    covers = [_overlaps(n_in, n_out) for n_in, n_out in zip(record.crop_shape, record.planned_shape, strict=True)]
    shares = np.stack([_covered(np.isin(cropped, spellings), covers) for spellings in ((0,), *codes.spellings)])
    coarser = max(n_in / n_out for n_in, n_out in zip(record.crop_shape, record.planned_shape, strict=True))
    known = shares.sum(axis=0) >= ENOUGH / max(1.0, coarser) - _ROUNDING
    drawn = shares.argmax(axis=0)
    planned = np.stack([np.where(codes.mask(drawn, k), -1, 1) * known for k in range(len(labels))]).astype(np.float32)
    return Drawing(drawing.array.astype(np.int32), planned, labels)


def _check(drawing: LabelVolume, record: SpatialRecord, values: tuple[int, ...]) -> None:
    name = drawing.source or "`given_labels`"
    if UNKNOWN in values:
        raise UserError(f"{name}: {UNKNOWN} is a label of this model, so it cannot stand for what is unknown.")
    if difference := grid_difference(record.native, drawing.grid):
        raise UserError(f"{name}: does not lie on the scan's grid ({difference}). Draw on the scan itself.")
    wrong = sorted(set(np.unique(drawing.array).tolist()) - {0, UNKNOWN, *values})
    if wrong:
        raise UserError(
            f"{name}: holds {', '.join(map(str, wrong[:5]))}, which is no label. Allowed are 0 (background), "
            f"{', '.join(map(str, values))}, and {UNKNOWN} where nobody has looked."
        )
    if (drawing.array == UNKNOWN).all():
        raise UserError(f"{name}: every voxel is {UNKNOWN}, so nothing is given. Leave the file out.")


def _overlaps(n_in: int, n_out: int) -> np.ndarray:
    """What share of each of ``n_out`` voxels each of ``n_in`` covers along an axis with common outer edges: (n_out,
    n_in), rows sum to 1.
    """
    edges_out = np.arange(n_out + 1) * (n_in / n_out)
    low = np.maximum(edges_out[:-1, None], np.arange(n_in)[None])
    high = np.minimum(edges_out[1:, None], np.arange(1, n_in + 1)[None])
    shares: np.ndarray = np.clip(high - low, 0, None) * (n_out / n_in)
    return shares


def _covered(mask: np.ndarray, covers: list[np.ndarray]) -> np.ndarray:
    """The share of each planned voxel (x, y, z) that ``mask`` (X, Y, Z) covers."""
    share = mask.astype(np.float64)
    for axis, cover in enumerate(covers):
        share = np.moveaxis(np.tensordot(cover, share, axes=(1, axis)), 0, axis)
    return share
