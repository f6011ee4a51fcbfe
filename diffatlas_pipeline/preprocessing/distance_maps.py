"""Labels to truncated signed distance maps, and back.

A distance map is in units of tau: S = d / tau with d in mm, negative inside, clipped to ±``STORED_LIMIT``. Training
clips it further to [-1, 1], as the joint state is defined; the margin lets augmentation shrink an anatomy by up to that
factor and still know every distance that ends up inside [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
        distance_mm = signed_distance_mm(labels == label.value, spacing_mm, limit_mm=STORED_LIMIT * tau_mm)
        np.clip(distance_mm / tau_mm, -STORED_LIMIT, STORED_LIMIT, out=maps[k])
    return maps


def decode_labels(distances: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """``distances`` (K, X, Y, Z) -> (X, Y, Z) int32: the value of the label with the smallest distance where it is
    inside.

    A voxel is inside where the distance is negative, or zero for two labels at once: such a voxel lies on their common
    face, and calling it background would open a crack between them. Equal distances go to the label that comes first.
    """
    lookup = np.asarray(values, dtype=np.int32)
    labels = np.zeros(distances.shape[1:], dtype=np.int32)
    if len(lookup) == 0 or labels.size == 0:
        return labels
    planes = len(labels)
    step = max(1, planes * _SLAB_BYTES // max(1, distances.nbytes))
    for start in range(0, planes, step):
        slab = np.asarray(distances[:, start : start + step])
        nearest = slab.argmin(axis=0)
        smallest = slab.min(axis=0)
        inside = (smallest < 0) | ((smallest == 0) & ((slab == 0).sum(axis=0) > 1))
        labels[start : start + step] = np.where(inside, lookup[nearest], 0)
    return labels
