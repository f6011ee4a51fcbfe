"""Several draws: their mean, noise and progress."""

import pytest
import torch

from diffatlas_pipeline.methods.base import Progress, case_generator
from diffatlas_pipeline.methods.draws import averaged


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_mean_is_of_clipped_draws(count: int) -> None:
    given = [torch.tensor([-3.0, 0.0, 0.5]), torch.tensor([0.0, 0.0, 3.0]), torch.tensor([1.0, 0.0, 0.0])][:count]
    draws = iter(given)
    found = averaged(lambda *_: next(draws).double(), count, 0, None)
    clipped = torch.stack(given).clamp(-1, 1)
    assert found.distances.dtype == torch.float32 and torch.allclose(found.distances, clipped.mean(dim=0))


def test_several_draws_have_the_mean_of_their_probabilities() -> None:
    """Of the labels; the channels of an image before them have none."""
    given = [torch.tensor([[0.3], [-0.5], [0.2]]), torch.tensor([[0.1], [0.4], [-0.1]])]
    draws = iter(given)
    found = averaged(lambda *_: next(draws).clone(), 2, 0, None, sharpness=4.0, images=1)
    logits = torch.stack([torch.cat([torch.zeros(1, 1), -4 * one[1:]]) for one in given])
    assert found.probabilities is not None
    torch.testing.assert_close(found.probabilities, logits.softmax(dim=1).mean(dim=0)[1:])
    assert averaged(lambda *_: given[0], 1, 0, None).probabilities is None


def test_each_draw_has_noise_of_its_own_which_belongs_to_the_seed() -> None:
    def noise(seed: int) -> list[float]:
        seen: list[float] = []

        def draw(generator: torch.Generator, report: Progress | None) -> torch.Tensor:
            seen.append(float(torch.rand((), generator=generator)))
            return torch.zeros(1)

        averaged(draw, 3, seed, None)
        return seen

    assert noise(5) == noise(5) and len({*noise(5), *noise(6), *noise(51)}) == 9
    assert noise(5) == [float(torch.rand((), generator=case_generator(5, draw))) for draw in range(3)]


@pytest.mark.parametrize("draws", [1, 3])
def test_progress_counts_the_steps_of_all_draws(draws: int) -> None:
    told: list[tuple[int, int]] = []

    def draw(generator: torch.Generator, report: Progress | None) -> torch.Tensor:
        assert report is not None
        for step in (1, 2):
            report(step, 2)
        return torch.zeros(1)

    averaged(draw, draws, 0, lambda done, total: told.append((done, total)))
    assert told == [(done, 2 * draws) for done in range(1, 2 * draws + 1)]
