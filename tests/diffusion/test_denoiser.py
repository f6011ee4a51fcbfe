"""What a denoiser shows its network, makes of its output, and compares that with."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffatlas_pipeline.diffusion.denoiser import INPUT_SCALINGS, PREDICTIONS, Denoiser, JointObjective, Objective
from diffatlas_pipeline.diffusion.levels import add_noise, cosine_alpha_bar, noise, schedule_levels, signal
from diffatlas_pipeline.fields import problems_of


@given(level=st.floats(0.01, 0.99), prediction=st.sampled_from(PREDICTIONS), seed=st.integers(0, 1000))
def test_a_perfect_output_gives_back_the_clean_data(level: float, prediction: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean, eps = torch.randn(2, 20, generator=generator, dtype=torch.float64)
    at = torch.tensor(level, dtype=torch.float64)
    denoiser = Denoiser(Objective(prediction))
    output = denoiser.target(clean, eps, at)
    assert torch.allclose(denoiser.clean(output, add_noise(clean, eps, at), at), clean, atol=1e-9)


def test_targets_are_those_of_the_papers() -> None:
    """At level 1/3 the signal is cos 30 degrees and the noise sin 30 degrees."""
    clean, eps, at = torch.tensor(2.0), torch.tensor(-1.0), torch.tensor(1 / 3)
    expected = {"epsilon": -1.0, "x0": 2.0, "v": -math.sqrt(3) / 2 - 0.5 * 2}
    for prediction, value in expected.items():
        assert float(Denoiser(Objective(prediction)).target(clean, eps, at)) == pytest.approx(value)


def test_the_division_by_a_vanishing_signal_is_bounded() -> None:
    denoiser = Denoiser(Objective("epsilon"))
    noisy, output = torch.tensor(2.0), torch.tensor(1.0)
    assert float(denoiser.clean(output, noisy, torch.tensor(1.0))) == pytest.approx(1000)
    small = 2 / math.pi * math.acos(2e-3)
    assert float(denoiser.clean(output, noisy, torch.tensor(small))) == pytest.approx(500, rel=1e-3)


@pytest.mark.parametrize("scaling", INPUT_SCALINGS)
def test_scaled_input_hides_pure_noise_and_shows_clean_data(scaling: str) -> None:
    noisy = torch.randn((1, 2, 3, 3, 3))
    level = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1, 1)
    seen = Denoiser(Objective(input_scaling=scaling)).seen(noisy, level)
    assert torch.equal(seen[:, 0], noisy[:, 0])
    if scaling == "signal":
        assert float(seen[:, 1].abs().max()) < 1e-6
        half = Denoiser(Objective(input_scaling=scaling)).seen(noisy, torch.tensor(2 / 3))
        assert torch.allclose(half, noisy / 2)  # cos 60 degrees
    else:
        assert torch.equal(seen, noisy)


@given(
    level=st.floats(0.3, 0.7),
    prediction=st.sampled_from(PREDICTIONS),
    measured=st.sampled_from(PREDICTIONS),
    seed=st.integers(0, 1000),
)
def test_an_error_may_be_that_of_what_the_output_tells(level: float, prediction: str, measured: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean, eps, output = torch.randn((3, 2, 3, 2, 2, 2), generator=generator, dtype=torch.float64)
    at = torch.full((2, 3, 1, 1, 1), level, dtype=torch.float64)
    noisy = add_noise(clean, eps, at)
    denoiser = Denoiser(Objective(prediction, error=measured))
    told = denoiser.clean(output, noisy, at)
    guess = Denoiser(Objective(measured)).target(told, (noisy - signal(at) * told) / noise(at), at)
    expected = Denoiser(Objective(measured)).error(guess, clean, eps, at)
    torch.testing.assert_close(denoiser.error(output, clean, eps, at), expected)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("measured", PREDICTIONS)
def test_weights_of_errors_are_bounded_at_either_end(prediction: str, measured: str) -> None:
    clean, output = torch.zeros((2, 1, 1, 1, 1)), torch.ones((2, 1, 1, 1, 1))
    at = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1)
    error = Denoiser(Objective(prediction, error=measured)).error(output, clean, clean, at)
    assert torch.isfinite(error).all() and error.min() >= 0 and error.max() <= 5


def test_errors_are_means_over_voxels_of_each_sample_and_channel() -> None:
    clean = torch.zeros((2, 3, 1, 1, 2))
    output = torch.arange(12.0).reshape(2, 3, 1, 1, 2)
    error = Denoiser(Objective("x0")).error(output, clean, clean, torch.zeros(2, 3, 1, 1, 1))
    assert error.tolist() == [[0.5, 6.5, 20.5], [42.5, 72.5, 110.5]]


@given(level=st.floats(0, 1))
def test_signal_and_noise_keep_the_variance(level: float) -> None:
    at = torch.tensor(level, dtype=torch.float64)
    assert (signal(at) ** 2 + noise(at) ** 2).item() == pytest.approx(1)


def test_schedule_levels_hold_alpha_bar() -> None:
    levels = torch.from_numpy(schedule_levels("cosine", 300))
    assert torch.allclose(signal(levels) ** 2, torch.from_numpy(cosine_alpha_bar(300)), atol=1e-12)
    assert torch.all(levels.diff() > 0)


def test_what_an_objective_may_hold() -> None:
    wrong = JointObjective("score", "loud", -1.0, float("nan"))
    assert list(problems_of(wrong)) == [
        "prediction 'score'; must be one of epsilon, v, x0",
        "input_scaling 'loud'; must be one of none, signal",
        "segmentation_weight -1; must be at least 0",
        "image_weight nan; must be at least 0",
    ]
