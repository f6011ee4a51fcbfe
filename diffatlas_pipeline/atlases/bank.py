"""Which training cases a model keeps as atlases, so that those most like a scan can be registered to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from diffatlas_pipeline.registration.atlas import Atlas, halved
from diffatlas_pipeline.registration.frame import in_common_frame

LARGEST_AXIS = 128  # voxels: with more, a model would hold few cases
MOST_BYTES = 256 * 2**20  # of all together; the first is kept whatever its size


def spread_evenly(cases: Sequence[str]) -> list[str]:
    """All of ``cases``, so ordered that the first few, however many, are spread over the sorted names (bit
    reversal).
    """
    names = sorted(cases)
    bits = len(names).bit_length()
    return [names[index] for index in sorted(range(len(names)), key=lambda index: f"{index:0{bits}b}"[::-1])]


def kept_atlases(cases: Iterable[Atlas], spacing_mm: Sequence[float]) -> tuple[Atlas, ...]:
    """The first of ``cases`` that there is room for, in half precision and aligned to each other.

    Large cases are cropped about their labels. ``spacing_mm`` is that of the planned grid, which all lie on.
    """
    kept: list[Atlas] = []
    total = 0
    for case in cases:
        inside = (slice(None), *_about_the_labels(case.distances))
        half = halved(Atlas(case.name, case.image[inside], case.distances[inside]))
        total += half.image.nbytes + half.distances.nbytes
        if kept and total > MOST_BYTES:
            break
        kept.append(half)
    return in_common_frame(kept, spacing_mm, quiet=False) if kept else ()


def _about_the_labels(distances: np.ndarray) -> tuple[slice, slice, slice]:
    """The box of at most ``LARGEST_AXIS`` voxels per axis about the centre of all labels (K, x, y, z)."""
    labelled = np.argwhere((distances < 0).any(axis=0))
    shape = distances.shape[1:]
    centre = labelled.mean(axis=0) if len(labelled) else np.asarray(shape) / 2
    box = []
    for middle, n in zip(centre, shape, strict=True):
        size = min(n, LARGEST_AXIS)
        start = int(np.clip(round(float(middle) - size / 2), 0, n - size))
        box.append(slice(start, start + size))
    return box[0], box[1], box[2]
