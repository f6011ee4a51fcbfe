"""Labels to truncated signed distance maps, and back.

A distance map is in units of tau: S = d / tau with d in mm, negative inside, clipped to ±``STORED_LIMIT``. Training
clips it further to [-1, 1], as the joint state is defined; the margin lets augmentation shrink an anatomy by up to that
factor and still know every distance that ends up inside [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffatlas_pipeline.datasets.codes import Codes
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.planning.plan import STORED_LIMIT
from diffatlas_pipeline.volumes.distance import signed_distance_mm
from diffatlas_pipeline.volumes.grids import TripleMm

_SLAB_BYTES = 64 << 20


def encode_labels(labels: np.ndarray, classes: Sequence[LabelClass], spacing_mm: TripleMm, tau_mm: float) -> np.ndarray:
    """``labels`` (X, Y, Z) integers -> (K, X, Y, Z) float32 in units of tau, clipped to ±STORED_LIMIT.

    A label that is absent is +STORED_LIMIT everywhere.
    """
    maps = np.empty((len(classes), *labels.shape), dtype=np.float32)
    for k, label in enumerate(classes):
        maps[k] = encode_mask(label.mask(labels), spacing_mm, tau_mm)
    return maps


def encode_mask(mask: np.ndarray, spacing_mm: TripleMm, tau_mm: float) -> np.ndarray:
    """:func:`encode_labels` of one label's ``mask`` (X, Y, Z)."""
    distance_mm = signed_distance_mm(mask, spacing_mm, limit_mm=STORED_LIMIT * tau_mm)
    return np.clip(distance_mm / tau_mm, -STORED_LIMIT, STORED_LIMIT, dtype=np.float32)


def decode_labels(distances: np.ndarray, codes: Codes | Sequence[int]) -> np.ndarray:
    """``distances`` (K, X, Y, Z) -> (X, Y, Z) int32: the value of the code with the smallest score where that is inside
    (:meth:`~diffatlas_pipeline.datasets.codes.Codes.scores`): of labels that do not overlap, whose values ``codes`` may
    be instead, the one with the smallest distance.

    A voxel is inside where the score is negative, or zero for two codes at once: such a voxel lies on their common
    face, and calling it background would open a crack between them. Equal scores go to the code that comes first.
    """
    values = codes.values if isinstance(codes, Codes) else codes
    lookup = np.asarray(values, dtype=np.int32)
    labels = np.zeros(distances.shape[1:], dtype=np.int32)
    if len(lookup) == 0 or labels.size == 0:
        return labels
    planes = len(labels)
    step = max(1, planes * _SLAB_BYTES // max(1, distances.nbytes))
    for start in range(0, planes, step):
        slab = np.asarray(distances[:, start : start + step])
        if isinstance(codes, Codes):
            slab = codes.scores(slab)
        nearest = slab.argmin(axis=0)
        smallest = slab.min(axis=0)
        inside = (smallest < 0) | ((smallest == 0) & ((slab == 0).sum(axis=0) > 1))
        labels[start : start + step] = np.where(inside, lookup[nearest], 0)
    return labels
