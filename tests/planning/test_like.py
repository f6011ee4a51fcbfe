"""A plan of new data that keeps what another model's network was made for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.methods.registry import default_recipes
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.planning.describe import plan_table
from diffatlas_pipeline.planning.like import AS_LIKE, plan_like
from diffatlas_pipeline.planning.plan import Budget
from diffatlas_pipeline.planning.planner import make_plan
from diffatlas_pipeline.volumes.grids import Triple
from tests.planning.test_planner import make_fingerprint

CPU = Budget(8, "cpu", "cpu")
THICK = make_fingerprint((200, 180, 20), (0.8, 0.8, 8.0), radius_mm=12.0)
SIMILAR = make_fingerprint((150, 160, 24), (0.7, 0.7, 5.0), radius_mm=9.0)


def memory(network: NetworkPlan, channels: int, patch: Triple, batch: int) -> int:
    return 1500 * math.prod(patch) * batch


def test_what_the_network_was_made_for_is_kept_and_the_rest_is_planned() -> None:
    other, own = (make_plan(data, CPU, default_recipes(), memory) for data in (THICK, SIMILAR))
    assert own.network != other.network and own.distance != other.distance, "alike by itself: nothing is tested"
    like = plan_like(other, SIMILAR, CPU, default_recipes(), memory)
    for part in ("spacing_mm", "patch_size", "network", "distance", "diffusion"):
        assert getattr(like, part) == getattr(other, part) and like.why[part] == AS_LIKE
    assert (like.dataset, like.channels, like.recipes, like.budget) == (own.dataset, own.channels, own.recipes, own.budget)
    assert "patches" in like.why["training"] and like.why["channels"] == own.why["channels"]
    assert plan_table(like).count(AS_LIKE) >= 4
    itself = plan_like(other, THICK, CPU, default_recipes(), memory)
    assert replace(itself, why=other.why) == other, "a data set is planned like itself as it is planned alone"


def test_windows_of_channels_of_the_same_name_are_kept() -> None:
    learnt = make_plan(make_fingerprint((60, 60, 60), (1.0, 1.0, 1.0), channel="CT"), CPU, default_recipes(), memory)
    window = replace(learnt.channels[0], lower=-500.0, upper=900.0)
    data = make_fingerprint((60, 60, 60), (1.0, 1.0, 1.0), channel="CT")
    like = plan_like(replace(learnt, channels=(window,)), data, CPU, default_recipes(), memory)
    assert like.channels == (window,) and AS_LIKE in like.why["channels"]
    other = plan_like(replace(learnt, channels=(replace(window, name="MRI"),)), data, CPU, default_recipes(), memory)
    assert other.channels == learnt.channels


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (make_fingerprint((200, 180, 1), (0.8, 0.8, 1.0), dimensions=2), "that model is of 3-D scans, these are 2-D"),
        (make_fingerprint((200, 20, 180), (0.8, 8.0, 0.8)), r"voxels of .* x 8 mm, these scans need .*same axis"),
    ],
    ids=["2-D", "slices across another axis"],
)
def test_what_is_too_unlike_is_refused(data, told: str) -> None:
    other = make_plan(THICK, CPU, default_recipes(), memory)
    with pytest.raises(UserError, match=told):
        plan_like(other, data, CPU, default_recipes(), memory)


def test_a_network_that_the_budget_cannot_train_is_refused() -> None:
    other = make_plan(THICK, CPU, default_recipes(), memory)

    def much(network: NetworkPlan, channels: int, patch: Triple, batch: int) -> int:
        return 10**10 if patch == other.patch_size else memory(network, channels, patch, batch)

    with pytest.raises(UserError, match=r"needs 10\.0 GB, of 8 GB only 4\.0 GB .* `memory_gb`"):
        plan_like(other, SIMILAR, CPU, default_recipes(), much)
