"""Joint sampling from noise: what is generated follows the data's joint distribution, and depends on its seed alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffatlas_pipeline.diffusion.levels import cosine_alpha_bar, noise, signal
from diffatlas_pipeline.diffusion.plan import DiffusionPlan
from diffatlas_pipeline.diffusion.solvers import Sampler, whole
from diffatlas_pipeline.inference.stitched import Stitcher
from diffatlas_pipeline.methods.base import GeneratedPair, GeneratingMethod, case_generator
from diffatlas_pipeline.methods.diffatlas import DiffAtlas
from diffatlas_pipeline.methods.field_of_view import around, within
from diffatlas_pipeline.methods.joint_recipe import DEFAULT, PAPER
from diffatlas_pipeline.methods.registry import METHODS, create_method
from diffatlas_pipeline.planning.diffusion_steps import sampled_variance
from tests.model_files import plan, recipe

CPU = torch.device("cpu")
VARIANCE = 0.04


class OneValuePerVoxel(nn.Module):
    """The posterior mean where all channels of a voxel have one value, drawn from N(0, VARIANCE) for each voxel.

    With c channels at one level: E[x | z] = a v (z_1 + ... + z_c) / (c a^2 v + b^2).
    """

    def forward(self, windows: Tensor, image_level: Tensor, mask_level: Tensor) -> Tensor:
        assert torch.equal(image_level, mask_level), "both halves are equally noisy"
        a, b = (part(image_level)[:, None, None, None, None] for part in (signal, noise))
        channels = windows.shape[1]
        mean = a * VARIANCE * windows.sum(dim=1, keepdim=True) / (channels * a**2 * VARIANCE + b**2)
        return mean.expand_as(windows)


def generated(shape: tuple[int, int, int], seed: int = 0, index: int = 0, sampler: Sampler | None = None) -> GeneratedPair:
    method = create_method("diffatlas", plan(), recipe(prediction="x0", input_scaling="none"))
    sampler = sampler or Sampler("ddpm", steps=0, eta=1.0)
    stitch = Stitcher(plan().patch_size)
    return method.generate(OneValuePerVoxel(), shape, stitch, sampler, case_generator(seed, index), CPU)


@pytest.mark.parametrize("shape", [(16, 16, 16), (24, 16, 20), (10, 24, 16)])
@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpmpp_2m"])
def test_both_halves_follow_their_joint_distribution(shape: tuple[int, int, int], solver: str) -> None:
    pair = generated(shape, sampler=Sampler(solver, steps=0, eta=1.0 if solver == "ddpm" else 0.0))
    assert pair.image.shape == (1, *shape) and pair.distances.shape == (2, *shape)
    both = torch.corrcoef(torch.stack([pair.image[0].ravel(), pair.distances[1].ravel()]))[0, 1]
    assert both > 0.99  # the image tells the mask, though neither was given
    # The three channels vary together, 3 * VARIANCE in the direction (1, 1, 1); twenty ancestral steps lose some of it.
    lost = 1.0
    if solver == "ddpm":
        lost = float(sampled_variance(np.array([3 * VARIANCE]), cosine_alpha_bar(20))[0]) / (3 * VARIANCE)
    assert pair.image.var() == pytest.approx(VARIANCE * lost, rel=0.06 if solver == "ddpm" else 0.3)


def test_a_pair_depends_on_its_seed_and_number_alone() -> None:
    first, again, other, seed = (generated((12, 16, 16), *choice) for choice in ((3, 0), (3, 0), (3, 1), (4, 0)))
    assert torch.equal(first.image, again.image) and torch.equal(first.distances, again.distances)
    assert not torch.allclose(first.image, other.image, atol=0.05)
    assert not torch.allclose(first.image, seed.image, atol=0.05)


def test_what_lies_around_a_small_field_is_known_at_every_step() -> None:
    seen = []

    def denoise(state: Tensor, image_level: float, mask_level: float) -> Tensor:
        seen.append((state.clone(), image_level))
        return torch.full_like(state, 3.0)

    size, field = around((4, 6, 8), (8, 8, 8))
    assert (size, field) == ((8, 8, 8), (slice(2, 6), slice(1, 7), slice(0, 8)))
    told = within(whole(denoise), (4, 6, 8), (8, 8, 8), channels=1, scale=0.5)
    start = torch.randn(3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    clean = Sampler("ddim", steps=4).walk(told, start.clone(), plan().diffusion, torch.Generator())
    outside = torch.ones(8, 8, 8, dtype=torch.bool)
    outside[field] = False
    assert (clean[0][outside] == -1).all() and (clean[1:, outside] == 0.5).all()
    assert (clean[0][field] == 1).all() and (clean[1:][(slice(None), *field)] == 0.5).all()  # the data's range
    for state, level in seen[1:]:  # the known values with the noise that they began with
        a, b = signal(torch.tensor(level)), noise(torch.tensor(level))
        torch.testing.assert_close(state[0][outside], a * -1 + b * start[0][outside], atol=0.02, rtol=0)


def test_which_methods_generate_and_how_much_they_learnt_of_it() -> None:
    assert {name for name, method in METHODS.items() if issubclass(method, GeneratingMethod)} == {"diffatlas"}
    assert DiffAtlas(plan(), PAPER).share_for_generation == 1
    assert DiffAtlas(plan(), DEFAULT).share_for_generation == pytest.approx(0.15 * 0.4)


def test_the_share_is_that_of_the_levels_drawn() -> None:
    drawn = DEFAULT.levels.draw(plan().diffusion, 20000, torch.Generator().manual_seed(0))
    assert (drawn.image == drawn.mask).float().mean() == pytest.approx(DEFAULT.levels.equal_share, abs=0.01)


@pytest.mark.parametrize("variance", [0.01, 0.1, 1.0, 10.0])
def test_fifty_steps_of_second_order_keep_as_much_variance_as_all_ancestral_ones(variance: float) -> None:
    """With a perfect denoiser of Gaussian data, as the guide to generation says."""

    def denoise(state: Tensor, level: float) -> Tensor:
        a, b = (float(part(torch.tensor(level))) for part in (signal, noise))
        return a * variance * state / (a**2 * variance + b**2)

    start = torch.randn(20000, generator=torch.Generator().manual_seed(0))
    kept = []
    for sampler in (Sampler("dpmpp_2m", steps=50), Sampler("ddpm", steps=0, eta=1.0)):
        made = sampler.walk(whole(denoise), start.clone(), DiffusionPlan("cosine", 270), torch.Generator().manual_seed(1))
        kept.append(float(made.var() / variance))
    assert abs(kept[0] - 1) <= abs(kept[1] - 1) + 0.03, kept
