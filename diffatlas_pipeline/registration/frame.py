"""A common frame of the atlases: where each lies to one of them.

Atlases have one contrast and are easily aligned to each other, a target of another modality much less so. Once one
atlas lies well on the target, the frame says about where the others belong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from diffatlas_pipeline import console
from diffatlas_pipeline.registration.affine import RegistrationFailed, align, compose, inverse
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.registration.threads import side_by_side


def in_common_frame(atlases: Sequence[Atlas], spacing_mm: Sequence[float], quiet: bool = True) -> tuple[Atlas, ...]:
    """``atlases`` with their ``frame``, the grid of the first by name; None for one that cannot be aligned to it."""
    if not atlases:
        return ()
    first = min(atlases, key=lambda one: one.name)
    base = first.image[0].astype(np.float32)

    def placed(one: Atlas) -> Atlas:
        if one is first:
            return replace(one, frame=np.eye(3, 4))
        try:
            return replace(one, frame=align(base, one.image[0].astype(np.float32), spacing_mm))
        except RegistrationFailed:
            return replace(one, frame=None)

    with side_by_side(len(atlases)) as threads:
        return tuple(console.each(threads.map(placed, atlases), "aligning", len(atlases), "cases", quiet))


def by_way_of(lead: Atlas, matrix: np.ndarray, other: Atlas) -> np.ndarray | None:
    """Where ``other`` belongs on a target that ``matrix`` (3, 4) maps to ``lead``; None if one of them has no frame."""
    if lead.frame is None or other.frame is None:
        return None
    return compose(other.frame, compose(inverse(lead.frame), matrix))
