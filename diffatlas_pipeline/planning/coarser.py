"""Coarser voxels than the scans', where the budget is small: a patch sees a whole case instead of a part of it.

On a processor, a patch of fine voxels shows little of the body, and a step on a large one takes seconds. Structures
many voxels thick are found as well on coarser ones; segmentations return to the scan's own grid by their distance maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from diffatlas_pipeline.planning.fingerprint import CaseShape, LabelStatistics
from diffatlas_pipeline.planning.rules import median_shape, rounded
from diffatlas_pipeline.planning.topology import Preset, network_for
from diffatlas_pipeline.volumes.grids import TripleMm

STEP = 1.05  # factor by which voxels grow until the case fits


def coarser_spacing(
    preset: Preset,
    cases: Sequence[CaseShape],
    labels: Sequence[LabelStatistics],
    spacing_mm: TripleMm,
    dimensions: int = 3,
) -> tuple[TripleMm, str]:
    """``spacing_mm``, or the finest one at which the median case is no more work than the preset's largest patch, and
    the reason, empty where nothing is changed.

    The finest axes become coarser first. The inscribed radius of the thinnest label keeps ``preset.fewest_in_radius``
    voxels; 0 of them: the preset never makes voxels coarser.
    """
    radii = {label.name: label.inscribed_radius_mm for label in labels if label.cases}
    if not preset.fewest_in_radius or not radii:
        return spacing_mm, ""
    thinnest = min(radii, key=lambda name: radii[name])
    coarsest = radii[thinnest] / preset.fewest_in_radius
    allowed = preset.most_patch_voxels / preset.stem_stride**dimensions
    finest = min(spacing_mm[:dimensions])
    planned = spacing_mm
    while _blocks(preset, cases, planned, dimensions) > allowed and finest < coarsest:
        finest = min(finest * STEP, coarsest)
        x, y, z = (max(own, finest) if axis < dimensions else own for axis, own in enumerate(spacing_mm))
        planned = (rounded(x, 5), rounded(y, 5), rounded(z, 5))
    if planned == spacing_mm:
        return spacing_mm, ""
    voxels = radii[thinnest] / min(planned[:dimensions])
    return planned, (
        f"; made coarser for speed, so that a patch sees {'a whole case' if finest < coarsest else 'more of a case'}; the "
        f"inscribed radius of the thinnest label, {thinnest}, is {voxels:.1f} voxels"
    )


def _blocks(preset: Preset, cases: Sequence[CaseShape], spacing_mm: TripleMm, dimensions: int) -> float:
    """How many blocks of the network's stem the median case is at ``spacing_mm``: the work of a step is proportional
    to it.
    """
    shape = median_shape(cases, spacing_mm)
    stem = network_for(preset, shape, spacing_mm, dimensions).strides[0]
    return math.prod(shape) / math.prod(stem)
