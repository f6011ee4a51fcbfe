"""How much alike two labelled images are, and which of many is most like one: whether a generated case is a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffatlas_pipeline import console
from diffatlas_pipeline.evaluation.populations import LabelledImage
from diffatlas_pipeline.volumes.crop import mask_box

MARGIN = 4  # voxels around the structures that are compared, too


@dataclass(frozen=True)
class Probe:
    """The surroundings of a case's structures, small enough to keep many: ``image`` (C, x, y, z) float16, ``labels``
    (x, y, z), the voxels of each label, and the structures' centroid in voxels.
    """

    case: str
    image: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    centre: tuple[float, ...]


@dataclass(frozen=True)
class Nearest:
    """The case most like ``case`` by its segmentation: ``dice`` is the mean over labels, ``correlation`` that of the
    images.

    ``most_correlated`` is the case whose image correlates most with it, by ``highest_correlation``.
    """

    case: str
    like: str
    dice: float
    correlation: float
    most_correlated: str
    highest_correlation: float


def probe_of(one: LabelledImage, codes: int) -> Probe:
    """What is compared of ``one``, whose labels are 0 to ``codes``; all of it if it has no structure."""
    inside = one.labels > 0
    box = mask_box(inside, (MARGIN,) * 3)
    cut = one.labels[box]
    where = np.argwhere(cut > 0) if inside.any() else np.argwhere(np.ones_like(cut, dtype=bool))
    centre = tuple(float(value) for value in where.mean(axis=0))
    counts = np.bincount(cut.ravel(), minlength=codes + 1)
    return Probe(one.case, one.image[(slice(None), *box)].astype(np.float16), cut.astype(np.uint16), counts, centre)


def likeness(a: Probe, b: Probe) -> tuple[float, float]:
    """Mean Dice over labels, and correlation of the images, once the structures' centroids lie on each other.

    Labels that both lack do not count; 0 if there is none. Images are compared where both are known.
    """
    shift = [round(one - other) for one, other in zip(a.centre, b.centre, strict=True)]
    here, there = _overlap(a.labels.shape, b.labels.shape, shift)
    in_a, in_b = a.labels[here], b.labels[there]
    both = np.bincount(in_a[in_a == in_b].ravel(), minlength=len(a.counts))[1:]
    total = (a.counts + b.counts)[1:]
    known = total > 0
    dice = float((2 * both[known] / total[known]).mean()) if known.any() else 0.0
    first = a.image[(slice(None), *here)].astype(np.float32).ravel()
    second = b.image[(slice(None), *there)].astype(np.float32).ravel()
    return dice, _correlation(first, second)


def nearest(probes: Sequence[Probe], others: Sequence[Probe], title: str = "", quiet: bool = False) -> list[Nearest]:
    """For each of ``probes`` the most alike of ``others``, never itself; a probe without any other is left out.

    ``title`` says beside the progress what is compared.
    """
    found = []
    for probe in console.each(probes, title or "Comparing cases", len(probes), "cases", quiet):
        alike = [(*likeness(probe, other), other.case) for other in others if other is not probe]
        if alike:
            dice, correlation, like = max(alike, key=lambda one: one[:2])
            _, highest, most = max(alike, key=lambda one: one[1])
            found.append(Nearest(probe.case, like, round(dice, 4), round(correlation, 4), most, round(highest, 4)))
    return found


def _overlap(
    a: Sequence[int], b: Sequence[int], shift: Sequence[int]
) -> tuple[tuple[slice, slice, slice], tuple[slice, slice, slice]]:
    """Where an array of shape ``a`` and one of shape ``b``, whose voxel 0 is voxel ``shift`` of the first, lie on each
    other.
    """
    low = [max(0, s) for s in shift]
    high = [max(lo, min(n, m + s)) for lo, n, m, s in zip(low, a, b, shift, strict=True)]
    x, y, z = (slice(lo, hi) for lo, hi in zip(low, high, strict=True))
    u, v, w = (slice(lo - s, hi - s) for lo, hi, s in zip(low, high, shift, strict=True))
    return (x, y, z), (u, v, w)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; 0 where one is constant."""
    if a.size < 2:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0
