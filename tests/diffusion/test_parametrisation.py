import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffatlas_pipeline.diffusion.levels import add_noise, cosine_alpha_bar, noise, schedule_levels, signal
from diffatlas_pipeline.diffusion.parametrisation import PREDICTIONS, clean_of, target_of


@given(level=st.floats(0.01, 0.99), prediction=st.sampled_from(PREDICTIONS), seed=st.integers(0, 1000))
def test_a_perfect_output_gives_back_the_clean_data(level: float, prediction: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean, eps = torch.randn(2, 20, generator=generator, dtype=torch.float64)
    at = torch.tensor(level, dtype=torch.float64)
    noisy = add_noise(clean, eps, at)
    output = target_of(prediction, clean, eps, at)
    assert torch.allclose(clean_of(prediction, output, noisy, at), clean, atol=1e-9)


@given(level=st.floats(0, 1))
def test_signal_and_noise_keep_the_variance(level: float) -> None:
    at = torch.tensor(level, dtype=torch.float64)
    assert (signal(at) ** 2 + noise(at) ** 2).item() == pytest.approx(1)


def test_schedule_levels_hold_alpha_bar() -> None:
    levels = torch.from_numpy(schedule_levels("cosine", 300))
    assert torch.allclose(signal(levels) ** 2, torch.from_numpy(cosine_alpha_bar(300)), atol=1e-12)
    assert torch.all(levels.diff() > 0)


def test_unknown_prediction_is_refused() -> None:
    with pytest.raises(ValueError, match="epsilon, v, x0"):
        target_of("score", torch.zeros(1), torch.zeros(1), torch.zeros(1))
