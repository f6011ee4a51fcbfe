"""Coarse to fine: structures are found at low resolution in the whole scan, and sampled at full resolution only there.

Sampling begins with the distances that were found, made noisy, in place of noise alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffatlas_pipeline.datasets.codes import Codes
from diffatlas_pipeline.inference.familiarity import Familiarity
from diffatlas_pipeline.inference.memory import Need
from diffatlas_pipeline.inference.predictor import Predictor, Prepared
from diffatlas_pipeline.inference.volume_intervals import VolumeErrors
from diffatlas_pipeline.methods.base import DiffusionRecipe, PlannedSegmentation, Progress
from diffatlas_pipeline.methods.segmentation_loss import label_probabilities
from diffatlas_pipeline.scratch import Scratch
from diffatlas_pipeline.volumes.channels import missing_channels
from diffatlas_pipeline.volumes.grids import Box, LabelVolume, Triple, Volume
from diffatlas_pipeline.volumes.resample import resample_part

AROUND = 8  # a patch's edge over the margin that is left around what was found, on each side
ROUGH_SHARE = 0.2  # of a bar of progress


class CoarseToFine(Predictor):
    """A :class:`Predictor` that asks ``rough``, one of the same labels at low resolution, where to look.

    A scan in which that finds nothing, that lacks channels, whose contrast is adapted, or of which something is drawn,
    is segmented as a whole.
    """

    looks_first = True

    def __init__(self, rough: Predictor, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.rough = rough
        self.weights += rough.weights
        self.volume_errors = VolumeErrors.joined(())  # held-out cases were segmented as a whole

    def prepare(self, volume: Volume, modality: str | None = None, drawing: LabelVolume | None = None) -> Prepared:
        prepared = super().prepare(volume, modality, drawing)
        if drawing is not None or missing_channels(prepared.image):
            return prepared
        return replace(prepared, rough=self.rough.prepare(volume, modality))

    def segment(self, prepared: Prepared, progress: Progress | None = None) -> PlannedSegmentation:
        if prepared.rough is None:
            return super().segment(prepared, progress)
        rough = self.rough.segment(prepared.rough, _share(progress, 0, ROUGH_SHARE))
        report = _share(progress, ROUGH_SHARE, 1)
        x, y, z = prepared.image.shape[1:]
        box = box_around(rough.distances.numpy(), (x, y, z), self.plan.patch_size)
        if box is None:
            return replace(super().segment(prepared, report), rough=rough)
        grown, step = box, 1 / AROUND
        while True:
            box, found = grown, self._within(grown, rough, prepared, report)
            grown = wider(box, found.distances.numpy(), (x, y, z), self.plan.patch_size, step)
            if grown == box:
                break
            step *= 2  # so that a network which finds labels everywhere does not sample many boxes
        return replace(
            _pasted(found, box, (x, y, z), self.stitch.scratch, self.method.sharpness, self.method.codes), rough=rough
        )

    def _need(self, prepared: Prepared) -> Need:
        """Of a part, with the distances of the whole scan, which it is put into."""
        need, shape = super()._need(prepared), prepared.record.planned_shape
        if prepared.image.shape[1:] == shape:
            return need
        beside = 4 * len(self.plan.dataset.labels) * math.prod(shape)
        return replace(need, in_memory=need.in_memory + beside, disk=need.disk + beside)

    def _within(
        self, box: Box, rough: PlannedSegmentation, prepared: Prepared, progress: Progress | None
    ) -> PlannedSegmentation:
        """The segmentation of a ``box`` of the image. One of several draws begins with noise: it has to be another."""
        begin = None
        if isinstance(self.recipe, DiffusionRecipe) and self.recipe.sampler.draws == 1:
            x, y, z = prepared.image.shape[1:]
            times = self.rough.plan.distance.tau_mm / self.plan.distance.tau_mm
            begin = torch.from_numpy(refined(rough.distances.numpy(), (x, y, z), box, times))
        return self._sampled(replace(prepared, image=prepared.image[(slice(None), *box)]), progress, begin)

    def familiarity(self, prepared: Prepared, found: PlannedSegmentation, other_contrast: bool = False) -> Familiarity | None:
        """What low resolution says of the whole scan: the other has seen a part."""
        if prepared.rough is None or found.rough is None or self.rough.known is None:
            return super().familiarity(prepared, found, other_contrast)
        return self.rough.familiarity(prepared.rough, found.rough, other_contrast)


def box_around(distances: np.ndarray, shape: Triple, patch: Triple) -> Box | None:
    """Where in a volume of ``shape`` the labels lie whose ``distances`` (K, x, y, z) were found on a coarser grid of
    the same field of view, with a margin around them, and at least a patch; None if there are none.
    """
    inside = np.any(distances < 0, axis=0)
    if not inside.any():
        return None
    edges = []
    for axis, (size, window) in enumerate(zip(shape, patch, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        where = np.flatnonzero(np.any(inside, axis=others))
        scale = size / inside.shape[axis]
        margin = max(math.ceil(window / AROUND), math.ceil(scale))
        first, last = math.floor(where[0] * scale) - margin, math.ceil((where[-1] + 1) * scale) + margin
        edges.append(_at_least(first, last, size, window))
    return edges[0], edges[1], edges[2]


def wider(box: Box, distances: np.ndarray, shape: Triple, patch: Triple, share: float = 1 / AROUND) -> Box:
    """``box``, moved out by a ``share`` of the patch wherever a label of the ``distances`` (K, x, y, z) found in it
    reaches its face, but for the faces of the volume of ``shape``.
    """
    inside, edges = np.any(distances < 0, axis=0), []
    for axis, (one, size, window) in enumerate(zip(box, shape, patch, strict=True)):
        low, high = inside.take(0, axis=axis).any(), inside.take(-1, axis=axis).any()
        step = math.ceil(window * share)
        first = max(0, one.start - step) if low else one.start
        edges.append(slice(first, min(size, one.stop + step) if high else one.stop))
    return edges[0], edges[1], edges[2]


def refined(distances: np.ndarray, shape: Triple, box: Box, times: float) -> np.ndarray:
    """``distances`` (K, x, y, z) of a coarser grid, ``times`` so large and cut off at +-1, in a ``box`` of the grid of
    ``shape`` with the same field of view.
    """
    return (resample_part(distances, shape, box) * np.float32(times)).clip(-1, 1)


def _at_least(first: int, last: int, size: int, window: int) -> slice:
    """``first`` to ``last``, made as long as the ``window`` about its middle, within ``size``."""
    lacking = max(0, window - (last - first))
    first, last = first - lacking // 2, last + lacking - lacking // 2
    first, last = first - max(0, last - size), last - min(0, first)  # moved back in from beyond either end
    return slice(max(0, first), min(size, last))


def _pasted(
    found: PlannedSegmentation, box: Box, shape: Triple, scratch: Scratch, sharpness: float, codes: Codes
) -> PlannedSegmentation:
    """What was ``found`` in a ``box``, in a volume of ``shape`` without labels elsewhere."""

    def within(part: Tensor, elsewhere: Sequence[float]) -> Tensor:
        whole = scratch.empty((len(part), *shape))
        for channel, inside, outside in zip(whole, part, elsewhere, strict=True):
            channel.fill_(outside)
            channel[box] = inside
        return whole

    far = torch.ones((len(found.distances), 1, 1, 1))
    probabilities = found.probabilities
    if probabilities is not None:
        probabilities = within(probabilities, label_probabilities(far, sharpness, codes).flatten().tolist())
    return replace(found, distances=within(found.distances, far.flatten().tolist()), probabilities=probabilities)


def _share(progress: Progress | None, begin: float, end: float) -> Progress | None:
    """``progress`` that is told of a part of the work: from ``begin`` to ``end`` of it."""
    return None if progress is None else lambda done, total: progress(begin * total + done * (end - begin), total)
