"""A second plan, of low resolution, where a patch of the first sees little of a case.

It finds the structures in the whole scan; the other segments them where they are.
"""

from __future__ import annotations

import math

from diffatlas_pipeline.networks.memory import training_bytes
from diffatlas_pipeline.planning.coarser import STEP
from diffatlas_pipeline.planning.fingerprint import Fingerprint
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.planning.planner import make_plan
from diffatlas_pipeline.planning.rules import median_shape, rounded
from diffatlas_pipeline.planning.topology import TrainingBytes
from diffatlas_pipeline.volumes.grids import TripleMm

LEAST_SEEN = 0.25
"""Share of the median case that a patch sees; below it there are two plans (nnU-Net's rule for its cascade, Isensee et
al. 2021).
"""


def low_resolution_plan(plan: Plan, fingerprint: Fingerprint, training_bytes: TrainingBytes = training_bytes) -> Plan | None:
    """The plan of the same data and budget whose patch has as many voxels as the median case; None if a patch of
    ``plan`` sees enough of it.

    The finest axes become coarser first.
    """
    voxels = math.prod(plan.patch_size)
    seen = voxels / math.prod(median_shape(fingerprint.cases, plan.spacing_mm))
    if seen >= LEAST_SEEN:
        return None
    spacing_mm = _coarser(plan, fingerprint, voxels)
    why = f"so that a patch sees the median case, of which one at {_in_words(plan.spacing_mm)} sees {seen:.0%}"
    return make_plan(fingerprint, plan.budget, plan.recipes, training_bytes, (spacing_mm, why))


def _coarser(plan: Plan, fingerprint: Fingerprint, voxels: int) -> TripleMm:
    own, dimensions = plan.spacing_mm, plan.dimensions
    finest, planned = min(own[:dimensions]), own
    while math.prod(median_shape(fingerprint.cases, planned)) > voxels:
        finest *= STEP
        x, y, z = (max(edge, finest) if axis < dimensions else edge for axis, edge in enumerate(own))
        planned = (rounded(x, 5), rounded(y, 5), rounded(z, 5))
    return planned


def _in_words(spacing_mm: TripleMm) -> str:
    return " x ".join(f"{edge:g}" for edge in spacing_mm) + " mm"
