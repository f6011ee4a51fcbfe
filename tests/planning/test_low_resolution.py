"""The second plan, of low resolution, where a patch sees little of a case."""

from __future__ import annotations

import math

import pytest

from diffatlas_pipeline.methods.registry import default_recipes
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.planning.describe import plan_table
from diffatlas_pipeline.planning.low_resolution import LEAST_SEEN, low_resolution_plan
from diffatlas_pipeline.planning.plan import Budget
from diffatlas_pipeline.planning.planner import make_plan
from diffatlas_pipeline.planning.rules import median_shape
from diffatlas_pipeline.volumes.grids import Triple
from tests.planning.test_planner import GEOMETRIES, make_fingerprint

GPU, CPU = Budget(8, "cuda", "gpu8"), Budget(8, "cpu", "cpu")
LARGE = {
    "ct": (GEOMETRIES["ct"], GPU),
    "thick slices": (make_fingerprint((640, 640, 60), (0.5, 0.5, 5.0)), GPU),
    "two-dimensional": (make_fingerprint((4000, 3000, 1), (0.1, 0.1, 1.0), dimensions=2, radius_mm=0.3), CPU),
    "thin structures": (make_fingerprint((200, 200, 160), (1.0, 1.0, 1.0), radius_mm=2.0), CPU),
}


def memory(network: NetworkPlan, channels: int, patch: Triple, batch: int) -> int:
    """About as much as a step takes, counted in no time."""
    return 1500 * math.prod(patch) * batch


@pytest.mark.parametrize("name", LARGE)
def test_its_patch_sees_the_median_case(name: str) -> None:
    fingerprint, budget = LARGE[name]
    plan = make_plan(fingerprint, budget, default_recipes(), memory)
    rough = low_resolution_plan(plan, fingerprint, memory)
    assert rough is not None
    seen = math.prod(plan.patch_size) / math.prod(median_shape(fingerprint.cases, plan.spacing_mm))
    assert seen < LEAST_SEEN and f"{seen:.0%}" in rough.why["spacing_mm"]
    whole = median_shape(fingerprint.cases, rough.spacing_mm)
    assert 0.8 * math.prod(plan.patch_size) < math.prod(whole) <= math.prod(plan.patch_size)
    assert all(size >= 0.8 * edge for size, edge in zip(rough.patch_size, whole, strict=True))
    finest = min(rough.spacing_mm[: plan.dimensions])
    assert all(
        new == pytest.approx(max(old, finest), rel=1e-3) for old, new in zip(plan.spacing_mm, rough.spacing_mm, strict=True)
    )
    assert (rough.dataset, rough.recipes, rough.budget) == (plan.dataset, plan.recipes, plan.budget)
    assert rough == low_resolution_plan(plan, fingerprint, memory)
    table = plan_table(rough, plan)
    assert "sees the median case" in table and "normalisation" not in table


@pytest.mark.parametrize("name", ["hippocampus", "one case"])
def test_there_is_none_where_a_patch_sees_enough(name: str) -> None:
    plan = make_plan(GEOMETRIES[name], CPU, default_recipes())
    assert low_resolution_plan(plan, GEOMETRIES[name]) is None
