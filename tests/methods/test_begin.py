"""Sampling that begins with distances that are nearly right already."""

from __future__ import annotations

import pytest
import torch

from diffatlas_pipeline.diffusion.levels import add_noise
from diffatlas_pipeline.methods.base import case_generator
from diffatlas_pipeline.methods.begin import BEGIN_LEVEL, begun
from diffatlas_pipeline.methods.icmd import MaskRecipe
from diffatlas_pipeline.methods.registry import create_method
from diffatlas_pipeline.planning.plan import DistancePlan
from diffatlas_pipeline.scratch import IN_MEMORY, Scratch
from tests.factories import make_plan, make_recipe
from tests.methods.plain import plain
from tests.methods.test_diffatlas import Watching, case


@pytest.mark.parametrize("scratch", [IN_MEMORY, Scratch(on_disk=True)])
def test_the_state_is_the_distances_made_noisy(scratch: Scratch) -> None:
    _, distances = case((6, 5, 4))
    noise = torch.randn(distances.shape, generator=torch.Generator().manual_seed(3))
    state = scratch.empty(noise.shape)
    state.copy_(noise)
    assert begun(state, distances, 0.5, scratch) == BEGIN_LEVEL
    assert torch.allclose(state, add_noise(0.5 * distances, noise, torch.tensor(BEGIN_LEVEL)))


@pytest.mark.parametrize("method", ["diffatlas", "icmd"])
@pytest.mark.parametrize(("steps", "asked"), [(1, 1), (2, 1), (4, 3), (16, 12)])
def test_steps_above_the_level_are_left_out(method: str, steps: int, asked: int) -> None:
    """The network is shown the given distances made noisy at first, and about three quarters as often as otherwise."""
    image, distances = case()
    plan = make_plan(distance=DistancePlan(tau_mm=3.0, scale=0.5))
    recipe, clean = make_recipe(steps=steps, equal_level=0.0), torch.cat([image, distances / 2])[None]
    if method == "icmd":
        recipe, clean = MaskRecipe(recipe.levels, recipe.objective, recipe.sampler), clean[:, 1:]
    network = Watching(clean)
    made = create_method(method, plan, recipe)
    found = made.segment(network, image, plain, seed=5, begin=-distances)
    assert torch.allclose(found.distances, distances, atol=1e-5), "whatever it begins with, a perfect network corrects it"
    levels = [level for _, _, level in network.seen]
    assert len(levels) == asked and levels[0] == pytest.approx(BEGIN_LEVEL) and levels == sorted(levels, reverse=True)
    shown = network.seen[0][0][0, -2:]
    noise = torch.randn((3, 8, 8, 8) if method == "diffatlas" else (2, 8, 8, 8), generator=case_generator(5, 0))[-2:]
    expected = add_noise(-distances / 2, noise, torch.tensor(BEGIN_LEVEL))
    scaling = shown.norm() / expected.norm()  # networks may be shown the state otherwise scaled
    assert torch.allclose(shown, expected * scaling, atol=1e-4)
