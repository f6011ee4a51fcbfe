"""Every solver passes one suite: on Gaussian data the best denoiser is known, so what must come out is known."""

import math

import numpy as np
import pytest
import torch

from diffatlas_pipeline.diffusion.guidance import Guidance, guided
from diffatlas_pipeline.diffusion.levels import cosine_alpha_bar, sampling_levels, schedule_levels
from diffatlas_pipeline.diffusion.plan import DiffusionPlan
from diffatlas_pipeline.diffusion.solvers import SOLVERS, Sampler, sample, whole

MEAN, STD = 0.7, 0.4


def gaussian_denoiser(state: torch.Tensor, level: float) -> torch.Tensor:
    """E[z0 | z] for z0 ~ N(MEAN, STD^2): linear in z."""
    a, b = math.cos(level * math.pi / 2), math.sin(level * math.pi / 2)
    gain = a * STD**2 / (a**2 * STD**2 + b**2)
    return MEAN + gain * (state - a * MEAN)


def walk(name: str, steps: int, count: int = 20_000, denoise=gaussian_denoiser, eta: float | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(count, generator=generator, dtype=torch.float64)
    eta = {"ddpm": 1.0}.get(name, 0.0) if eta is None else eta
    return sample(whole(denoise), start, sampling_levels("cosine", 1000, steps), SOLVERS[name], eta, generator)


@pytest.mark.parametrize(("name", "steps", "tolerance"), [("ddpm", 400, 0.02), ("ddim", 200, 0.02), ("dpmpp_2m", 30, 0.02)])
def test_samples_have_the_data_s_mean_and_spread(name: str, steps: int, tolerance: float) -> None:
    result = walk(name, steps)
    assert result.mean().item() == pytest.approx(MEAN, abs=tolerance)
    assert result.std().item() == pytest.approx(STD, rel=0.03)


@pytest.mark.parametrize("name", SOLVERS)
def test_error_falls_with_steps(name: str) -> None:
    errors = [abs(walk(name, steps).std().item() - STD) for steps in (5, 20, 100)]
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize("name", SOLVERS)
def test_a_denoiser_that_knows_the_answer_is_believed(name: str) -> None:
    answer = torch.linspace(-1, 1, 50, dtype=torch.float64)
    result = walk(name, 7, count=50, denoise=lambda state, level: answer)
    assert torch.allclose(result, answer, atol=1e-8)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_single_step_is_the_denoiser_s_answer(name: str) -> None:
    result = walk(name, 1, count=1000)
    assert result.std().item() < 0.02  # from pure noise the best guess is the mean
    assert result.mean().item() == pytest.approx(MEAN, abs=0.01)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_mean_of_all_predictions_is_nearer_to_the_mean_than_a_sample(name: str) -> None:
    """On average they are the data's mean alike, whatever the number of steps."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(20_000, generator=generator, dtype=torch.float64)
    for steps in (1, 4, 50):
        levels = sampling_levels("cosine", 1000, steps)
        sampled, mean = (
            sample(whole(gaussian_denoiser), start.clone(), levels, SOLVERS[name], 1.0, generator, answer=answer)
            for answer in ("last", "mean")
        )
        assert mean.mean().item() == pytest.approx(MEAN, abs=0.01)
        assert mean.std() <= sampled.std() + 1e-6 and (steps == 1 or mean.std() < 0.9 * sampled.std())


def test_ddim_with_full_noise_is_ancestral_sampling() -> None:
    assert torch.equal(walk("ddim", 25, count=200, eta=1.0), walk("ddpm", 25, count=200))


def test_second_order_beats_first_order_at_equal_steps() -> None:
    first, second = (abs(walk(name, 15).std().item() - STD) for name in ("ddim", "dpmpp_2m"))
    assert second < first


def test_ancestral_step_matches_the_textbook_posterior() -> None:
    """Mean and variance of q(z_{t-1} | z_t, z_0), Ho et al. 2020, Eq. 6 and 7, at one step of the schedule."""
    alpha_bar, levels = cosine_alpha_bar(50), schedule_levels("cosine", 50)
    now, before = 30, 29
    alpha = alpha_bar[now] / alpha_bar[before]
    clean, state = torch.tensor(0.3, dtype=torch.float64), torch.full((200_000,), -0.8, dtype=torch.float64)
    mean = (math.sqrt(alpha_bar[before]) * (1 - alpha) * 0.3 + math.sqrt(alpha) * (1 - alpha_bar[before]) * -0.8) / (
        1 - alpha_bar[now]
    )
    variance = (1 - alpha_bar[before]) / (1 - alpha_bar[now]) * (1 - alpha)
    generator = torch.Generator().manual_seed(0)
    step = SOLVERS["ddpm"](1.0)
    result = step(
        state, clean, levels[now], levels[before], lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype)
    )
    assert result.mean().item() == pytest.approx(mean, abs=5e-3)
    assert result.var().item() == pytest.approx(variance, rel=0.02)


@pytest.mark.parametrize("kind", ["fresh", "fixed"])
@pytest.mark.parametrize("name", SOLVERS)
def test_guidance_samples_the_conditional_distribution(name: str, kind: str) -> None:
    """Image i ~ N(0, 1), mask m = i / 2 + noise: with a clean image given, the closed-form conditional must come
    out.
    """
    deviation, given = 0.3, 0.8
    count = 8_000

    def denoise(state: torch.Tensor, image_level: float, mask_level: float) -> torch.Tensor:
        """E[i, m | noisy i, noisy m] of the joint Gaussian."""
        covariance = torch.tensor([[1.0, 0.5], [0.5, 0.25 + deviation**2]], dtype=torch.float64)
        a = torch.tensor([math.cos(level * math.pi / 2) for level in (image_level, mask_level)], dtype=torch.float64)
        b = torch.tensor([math.sin(level * math.pi / 2) for level in (image_level, mask_level)], dtype=torch.float64)
        observed = torch.diag(a) @ covariance @ torch.diag(a) + torch.diag(b**2)
        gain = covariance @ torch.diag(a) @ torch.linalg.pinv(observed)
        return (gain @ state.reshape(2, -1)).reshape(state.shape)

    generator = torch.Generator().manual_seed(0)
    image = torch.full((1, count, 1, 1), given, dtype=torch.float64)
    start = torch.randn((2, count, 1, 1), generator=generator, dtype=torch.float64)
    levels = sampling_levels("cosine", 1000, 150)
    denoiser = guided(whole(denoise), image, Guidance(0.0, kind), generator)
    result = sample(denoiser, start, levels, SOLVERS[name], {"ddpm": 1.0}.get(name, 0.0), generator)
    assert torch.allclose(result[0], image[0])
    assert result[1].mean().item() == pytest.approx(given / 2, abs=0.01)
    assert result[1].std().item() == pytest.approx(deviation, rel=0.04)


def test_guidance_gives_the_image_at_most_as_noisy_as_it_says() -> None:
    seen: list[tuple[float, float]] = []

    def denoise(state: torch.Tensor, image_level: float, mask_level: float) -> torch.Tensor:
        seen.append((image_level, mask_level))
        return torch.zeros_like(state)

    image = torch.ones((1, 2, 2, 2))
    told = guided(whole(denoise), image, Guidance(0.2, "fixed"), torch.Generator().manual_seed(0))
    for level in (0.9, 0.1):
        ((_, clean),) = told(torch.zeros((2, 2, 2, 2)), level)
        assert torch.equal(clean[:1], image) and not clean[1:].any()
    assert seen == [(0.2, 0.9), (0.1, 0.1)]


@pytest.mark.parametrize("kind", ["fresh", "fixed"])
@pytest.mark.parametrize(("level", "degrees"), [(0.9, 60), (0.5, 45), (0.0, 0)])
def test_the_image_is_given_with_noise_of_its_level(kind: str, level: float, degrees: float) -> None:
    """Eq. 5: cos x image + sin x noise, at the mask's level but at most 2/3, beside the mask as it is."""
    image = torch.full((2, 3, 3, 3), 0.7)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    state = torch.rand((5, 3, 3, 3))
    seen: list[torch.Tensor] = []

    def denoise(noisy: torch.Tensor, image_level: float, mask_level: float) -> torch.Tensor:
        seen.append(noisy.clone())
        return 2 * noisy

    ((_, clean),) = guided(whole(denoise), image, Guidance(2 / 3, kind), torch.Generator().manual_seed(0))(state, level)
    angle = math.radians(degrees)
    assert torch.allclose(seen[0], torch.cat([math.cos(angle) * image + math.sin(angle) * noise, state[2:]]), atol=1e-6)
    assert torch.equal(clean, torch.cat([image, 2 * state[2:]]))


@pytest.mark.parametrize("kind", ["fresh", "fixed"])
def test_noise_on_the_image_is_drawn_once_or_at_each_step(kind: str) -> None:
    seen: list[torch.Tensor] = []

    def denoise(state: torch.Tensor, image_level: float, mask_level: float) -> torch.Tensor:
        seen.append(state[:1].clone())
        return state

    told = guided(whole(denoise), torch.zeros((1, 3, 3, 3)), Guidance(1.0, kind), torch.Generator().manual_seed(0))
    for _ in range(2):
        list(told(torch.zeros((2, 3, 3, 3)), 0.5))
    assert torch.equal(seen[0], seen[1]) == (kind == "fixed") and seen[0].any()


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="cosine"):
        schedule_levels("linear", 10)


def test_a_sampler_takes_its_steps_of_the_plan_and_tells_of_them() -> None:
    plan, told = DiffusionPlan("cosine", 6), []
    for steps, expected in ((0, 6), (4, 4)):
        sampler, levels = Sampler("ddim", steps), []

        def denoise(state: torch.Tensor, level: float) -> torch.Tensor:
            levels.append(level)  # noqa: B023
            return state / 2

        told.clear()
        generator = torch.Generator().manual_seed(0)
        sampler.walk(whole(denoise), torch.ones(3), plan, generator, lambda done, total: told.append((done, total)))
        assert levels == sampling_levels("cosine", 6, steps)[:-1] and len(levels) == expected == sampler.steps_of(plan)
        assert told == [(step + 1, expected) for step in range(expected)]


def test_sampling_levels_start_noisiest_and_end_clean() -> None:
    known = schedule_levels("cosine", 300)
    for steps in (0, 1, 4, 20, 300):
        levels = sampling_levels("cosine", 300, steps)
        assert len(levels) == (steps or 300) + 1
        assert levels[0] == known[-1] and levels[-1] == 0
        assert np.all(np.diff(levels) < 0)
