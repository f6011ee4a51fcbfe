"""How many diffusion steps a data set needs: variance lost by ancestral sampling, in closed form for Gaussian data.

A Fourier coefficient of variance lambda (in units where the noise has variance 1), Gaussian and independent of the
others, has the linear optimal denoiser E[z_0 | z_t] = sqrt(alpha_bar_t) lambda / (alpha_bar_t lambda + 1 - alpha_bar_t)
z_t. Ancestral sampling (Ho et al. 2020, Algorithm 2 and Eq. 7) is then a linear recursion, and so is the variance of
the sample. The noise added at each step has the posterior variance of Eq. 7, beta-tilde_t = (1 - alpha_bar_{t-1}) / (1
- alpha_bar_t) beta_t, as in this package's sampler; with it the sampled variance falls short of the data's, the more so
the fewer the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from diffatlas_pipeline.planning.fingerprint import PowerSpectrum

ALLOWED_LOSS = 0.04
FEWEST_STEPS, MOST_STEPS, STEP_UNIT = 50, 1000, 10

AlphaBar = Callable[[int], np.ndarray]


def sampled_variance(variance: np.ndarray, alpha_bar: np.ndarray) -> np.ndarray:
    """Variance of what ancestral sampling makes of Gaussian coefficients of variance ``variance`` (N,), starting from
    N(0, 1).

    ``alpha_bar`` (T,) is alpha_bar_1 .. alpha_bar_T, decreasing. Returns (N,).
    """
    data = np.asarray(variance, dtype=np.float64)
    before = np.concatenate([[1.0], alpha_bar[:-1]])
    sampled = np.ones_like(data)
    for now, previous in zip(alpha_bar[::-1], before[::-1], strict=True):
        beta = 1 - now / previous
        denoiser = np.sqrt(now) * data / (now * data + 1 - now)
        # Ho et al. 2020, Eq. 7: posterior mean as a combination of the clean estimate and the noisy state.
        gain = np.sqrt(previous) * beta / (1 - now) * denoiser + np.sqrt(now / previous) * (1 - previous) / (1 - now)
        sampled = gain**2 * sampled + (1 - previous) / (1 - now) * beta
    return sampled


def variance_loss(spectrum: PowerSpectrum, alpha_bar: np.ndarray) -> float:
    """Share of the data's variance that ancestral sampling with ``alpha_bar`` (T,) loses; negative where it gains."""
    power, weight = np.asarray(spectrum.power), np.asarray(spectrum.weight)
    total = float((weight * power).sum())
    if total <= 0:
        return 0.0
    return 1 - float((weight * sampled_variance(power, alpha_bar)).sum()) / total


def choose_diffusion_steps(spectra: Sequence[PowerSpectrum], alpha_bar: AlphaBar, loss: float = ALLOWED_LOSS) -> int:
    """Smallest T (a multiple of 10 in 50 .. 1000) at which every spectrum loses at most ``loss``; 1000 if none does.

    ``alpha_bar(T)`` gives alpha_bar_1 .. alpha_bar_T. The loss falls with T, so T is found by bisection.
    """

    def enough(units: int) -> bool:
        schedule = alpha_bar(units * STEP_UNIT)
        return all(variance_loss(spectrum, schedule) <= loss for spectrum in spectra)

    low, high = FEWEST_STEPS // STEP_UNIT, MOST_STEPS // STEP_UNIT
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return low * STEP_UNIT
