"""Guidance: what is given is replaced exactly, what is missing is generated. For Gaussian data the answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from diffatlas_pipeline.diffusion.guidance import Guidance, guided, missing
from diffatlas_pipeline.diffusion.levels import sampling_levels
from diffatlas_pipeline.diffusion.solvers import SOLVERS, sample, whole

SHAPE = (16, 16, 16)  # every voxel is a sample of its own
MEAN = np.array([0.2, -0.3, 0.1])  # of two channels and a mask
COVARIANCE = np.array([[1.0, 0.7, -0.5], [0.7, 1.5, 0.2], [-0.5, 0.2, 0.8]])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scan(lacking: int | None = None) -> Tensor:
    """Two channels; one of them may be missing."""
    drawn = torch.from_numpy(np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, SHAPE).T).float()
    image = drawn[:2].clone()
    if lacking is not None:
        image[lacking] = torch.nan
    return image


def expected(state: Tensor, levels: list[float]) -> Tensor:
    """The mean of Gaussian data, given ``state`` (3, X, Y, Z) whose channels are at ``levels``."""
    a, b = np.diag(np.cos(np.array(levels) * math.pi / 2)), np.diag(np.sin(np.array(levels) * math.pi / 2))
    gain = COVARIANCE @ a @ np.linalg.inv(a @ COVARIANCE @ a + b @ b + 1e-9 * np.eye(3))
    off = state.reshape(3, -1).double() - torch.from_numpy(a @ MEAN)[:, None]
    return (torch.from_numpy(MEAN)[:, None] + torch.from_numpy(gain) @ off).reshape(state.shape).float()


def denoiser(image: Tensor) -> Callable[..., Tensor]:
    """The exact denoiser, and what it was shown."""
    seen: list[tuple[Tensor, float, float]] = []

    def denoise(state: Tensor, image_level: float, mask_level: float) -> Tensor:
        seen.append((state.clone(), image_level, mask_level))
        return expected(state, [mask_level if lacks else image_level for lacks in missing(image)] + [mask_level])

    denoise.seen = seen  # type: ignore[attr-defined]
    return denoise


def conditional(given: int, image: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean (2, X, Y, Z) and covariance (2, 2) of the other channel and the mask, given the channel ``given``."""
    rest = [index for index in range(3) if index != given]
    gain = COVARIANCE[rest, given] / COVARIANCE[given, given]
    mean = MEAN[rest][:, None] + gain[:, None] * (image[given].numpy().ravel() - MEAN[given])
    return mean.reshape(2, *SHAPE), COVARIANCE[np.ix_(rest, rest)] - np.outer(gain, COVARIANCE[given, rest])


@pytest.mark.parametrize("lacking", [0, 1])
def test_one_step_gives_the_mean_of_what_is_missing(lacking: int) -> None:
    image = scan(lacking)
    told = guided(whole(denoiser(image)), image, Guidance(), generator())
    ((_, clean),) = told(torch.randn((3, *SHAPE), generator=generator(1)), 1.0)
    assert torch.equal(clean[1 - lacking], image[1 - lacking])
    mean, _ = conditional(1 - lacking, image)
    np.testing.assert_allclose(clean[[lacking, 2]].numpy(), mean, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("lacking", [0, 1])
def test_samples_of_what_is_missing_have_the_conditional_distribution(lacking: int, solver: str) -> None:
    image = scan(lacking)
    told = guided(whole(denoiser(image)), image, Guidance(), generator())
    levels = sampling_levels("cosine", 300, 300)
    drawn = sample(told, torch.randn((3, *SHAPE), generator=generator(1)), levels, SOLVERS[solver], 0.0, generator(2))
    assert torch.allclose(drawn[1 - lacking], image[1 - lacking], atol=1e-4)
    mean, covariance = conditional(1 - lacking, image)
    off = (drawn[[lacking, 2]].numpy() - mean).reshape(2, -1)
    np.testing.assert_allclose(off.mean(axis=1), 0, atol=0.06)
    np.testing.assert_allclose(np.cov(off), covariance, atol=0.06)


@pytest.mark.parametrize("guidance", [Guidance(), Guidance(0.3), Guidance(1.0, "fresh")], ids=str)
def test_given_channels_are_shown_as_noisy_as_guidance_says_and_missing_ones_are_the_state_s(guidance: Guidance) -> None:
    image, state = scan(lacking=0), torch.randn((3, *SHAPE), generator=generator(1))
    denoise = denoiser(image)
    ((_, clean),) = guided(whole(denoise), image, guidance, generator())(state.clone(), 0.8)
    ((shown, image_level, mask_level),) = denoise.seen  # type: ignore[attr-defined]
    assert (image_level, mask_level) == (min(0.8, guidance.level), 0.8)
    assert torch.equal(shown[[0, 2]], state[[0, 2]])
    eps = torch.randn(image.shape, generator=generator())[1]
    noised = math.cos(image_level * math.pi / 2) * image[1] + math.sin(image_level * math.pi / 2) * eps
    assert torch.allclose(shown[1], noised, atol=1e-6)
    assert torch.equal(clean[1], image[1]) and not clean.isnan().any()


def test_a_padded_channel_of_nan_is_missing_all_the_same() -> None:
    image = scan(lacking=1)
    image[:, :2] = -1.0
    assert missing(image).tolist() == [False, True] and not missing(scan()).any()
