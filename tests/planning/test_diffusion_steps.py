from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from diffatlas_pipeline.diffusion.levels import cosine_alpha_bar, sampling_levels
from diffatlas_pipeline.diffusion.solvers import SOLVERS
from diffatlas_pipeline.planning.diffusion_steps import choose_diffusion_steps, sampled_variance, variance_loss
from diffatlas_pipeline.planning.fingerprint import PowerSpectrum
from tests.planning.raw_data import power_law


def simulate(variance: np.ndarray, steps: int, samples: int) -> np.ndarray:
    """Sample variance of ancestral sampling (Ho et al. 2020, Algorithm 2), written out from beta, alpha and epsilon."""
    rng = np.random.default_rng(0)
    alpha_bar = np.concatenate([[1.0], cosine_alpha_bar(steps)])
    z = rng.standard_normal((samples, len(variance)))
    for t in range(steps, 0, -1):
        alpha = alpha_bar[t] / alpha_bar[t - 1]
        beta = 1 - alpha
        clean = np.sqrt(alpha_bar[t]) * variance / (alpha_bar[t] * variance + 1 - alpha_bar[t]) * z
        epsilon = (z - np.sqrt(alpha_bar[t]) * clean) / np.sqrt(1 - alpha_bar[t])
        z = (z - beta / np.sqrt(1 - alpha_bar[t]) * epsilon) / np.sqrt(alpha)
        if t > 1:
            z += np.sqrt((1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * beta) * rng.standard_normal(z.shape)
    return z.var(axis=0)


@pytest.mark.parametrize("steps", [5, 50, 200])
def test_closed_form_agrees_with_a_simulation_of_the_sampler(steps: int) -> None:
    variance = np.array([0.001, 0.05, 1.0, 20.0, 300.0])
    samples = 20_000
    measured = simulate(variance, steps, samples)
    # The standard error of a variance of n Gaussian samples is sqrt(2 / n) of it.
    np.testing.assert_allclose(measured, sampled_variance(variance, cosine_alpha_bar(steps)), rtol=5 * np.sqrt(2 / samples))


def test_closed_form_agrees_with_the_package_s_own_ancestral_solver() -> None:
    variance, steps = torch.tensor([0.05, 1.0, 50.0], dtype=torch.float64), 40
    torch.manual_seed(0)
    z, rule = torch.randn(20_000, 3, dtype=torch.float64), SOLVERS["ddpm"](1.0)
    for now, following in itertools.pairwise(sampling_levels("cosine", steps, steps)):
        signal_now = math.cos(now * math.pi / 2)
        clean = signal_now * variance / (signal_now**2 * variance + 1 - signal_now**2) * z
        z = rule(z, clean, now, following, torch.randn_like)
    expected = sampled_variance(variance.numpy(), cosine_alpha_bar(steps))
    np.testing.assert_allclose(z.var(dim=0).numpy(), expected, rtol=0.05)


def test_many_steps_give_the_data_s_variance() -> None:
    variance = np.array([0.01, 1.0, 100.0])
    np.testing.assert_allclose(sampled_variance(variance, cosine_alpha_bar(20_000)), variance, rtol=5e-3)


def test_smallest_enough_number_is_chosen() -> None:
    spectra = [power_law(0.25, 3.0), power_law(0.3, 4.0)]
    steps = choose_diffusion_steps(spectra, cosine_alpha_bar)
    assert steps % 10 == 0 and 50 < steps < 1000

    def worst(count: int) -> float:
        return max(variance_loss(spectrum, cosine_alpha_bar(count)) for spectrum in spectra)

    assert worst(steps) <= 0.04 < worst(steps - 10)


def test_the_harder_spectrum_decides() -> None:
    easy, hard = power_law(0.1, 2.0), power_law(0.5, 5.0)
    alone = [choose_diffusion_steps([spectrum], cosine_alpha_bar) for spectrum in (easy, hard)]
    assert choose_diffusion_steps([easy, hard], cosine_alpha_bar) == max(alone) > min(alone)


def test_range_ends() -> None:
    white = PowerSpectrum((0.5,), (1.0,), (1.0,))
    assert choose_diffusion_steps([white], cosine_alpha_bar, loss=1.0) == 50
    assert choose_diffusion_steps([white], cosine_alpha_bar, loss=-1.0) == 1000


def test_constant_data_lose_nothing() -> None:
    assert variance_loss(PowerSpectrum((0.5,), (0.0,), (1.0,)), cosine_alpha_bar(50)) == 0.0
