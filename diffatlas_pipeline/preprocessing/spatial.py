"""How a scan came to the planned grid, so that the way back is exact."""

from __future__ import annotations

from dataclasses import dataclass

from diffatlas_pipeline.volumes.grids import Grid, Triple, TripleMm


@dataclass(frozen=True)
class SpatialRecord:
    """How a native volume became the network's volume; enough to invert each step exactly.

    native grid → (orient, make axes perpendicular) → canonical → (crop) → ``crop`` box of the canonical grid →
    (resample) → ``planned_shape``.
    """

    native: Grid
    canonical: Grid
    crop_start: Triple
    crop_shape: Triple
    planned_shape: Triple
    planned_spacing_mm: TripleMm
