"""Noise levels of training: how often which."""

import pytest
import torch

from diffatlas_pipeline.diffusion.levels import MaskLevels, NoiseLevels, schedule_levels
from diffatlas_pipeline.diffusion.plan import DiffusionPlan
from diffatlas_pipeline.fields import problems_of

PLAN = DiffusionPlan("cosine", 300)
COUNT = 20_000


def share(where: torch.Tensor) -> float:
    return float(where.float().mean())


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_scheduled_levels_are_those_of_the_schedule_and_high_ones_1_minus_u_squared() -> None:
    scheduled = MaskLevels("schedule").draw_mask(PLAN, COUNT, generator())
    known = torch.from_numpy(schedule_levels("cosine", 300)).float()
    assert set(scheduled.tolist()) <= set(known.tolist()) and len(set(scheduled.tolist())) == 300
    high = MaskLevels("high").draw_mask(PLAN, COUNT, generator())
    assert share(high > 0.75) == pytest.approx(0.5, abs=0.02)  # u < 1/2
    assert float(high.mean()) == pytest.approx(2 / 3, abs=0.01)


def test_a_share_of_masks_lies_at_the_first_step() -> None:
    drawn = MaskLevels("high", start=0.6).draw_mask(PLAN, COUNT, generator())
    assert share(drawn == 1) == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize("mask", ["schedule", "high"])
def test_levels_come_from_the_generator_alone(mask: str) -> None:
    ways = [
        MaskLevels(mask, start=0.5).draw_mask,
        lambda *given: NoiseLevels(mask, 0.2, "mixed", 0.3, 0.3, 0.2).draw(*given).image,
        lambda *given: NoiseLevels(mask, 0.2, "mixed", 0.3, 0.3, 0.2).draw(*given).mask,
    ]
    for draw in ways:
        assert torch.equal(draw(PLAN, 100, generator()), draw(PLAN, 100, generator()))


def test_images_are_as_noisy_as_their_masks_or_less() -> None:
    equal = NoiseLevels("schedule").draw(PLAN, 1000, generator())
    assert torch.equal(equal.mask, equal.image) and not equal.own.any()
    mixed = NoiseLevels(image="mixed", clean_image=0.4, equal_level=0.2).draw(PLAN, COUNT, generator())
    assert torch.all(mixed.image <= mixed.mask)
    assert share(mixed.image == 0) == pytest.approx(0.4, abs=0.02)
    assert share(mixed.image == mixed.mask) == pytest.approx(0.2, abs=0.02)
    between = (mixed.image > 0) & (mixed.image < mixed.mask)
    assert float((mixed.image / mixed.mask)[between].mean()) == pytest.approx(0.5, abs=0.02)


def test_samples_at_the_start_have_a_clean_image_and_a_mask_of_pure_noise() -> None:
    drawn = NoiseLevels(image="mixed", start=0.3, equal_level=0.5).draw(PLAN, COUNT, generator())
    start = (drawn.mask == 1) & (drawn.image == 0)
    assert share(start) == pytest.approx(0.3, abs=0.02)
    assert torch.all(drawn.image[~start] > 0) and not drawn.own.any()
    assert share(drawn.image == drawn.mask) == pytest.approx(0.35, abs=0.02)  # half of the rest


def test_shares_of_start_and_self_conditioning() -> None:
    drawn = NoiseLevels(image="mixed", start=0.5, self_conditioning=0.3).draw(PLAN, COUNT, generator())
    start = (drawn.mask == 1) & (drawn.image == 0)
    assert share(start) == pytest.approx(0.5, abs=0.02) and share(drawn.own) == pytest.approx(0.3, abs=0.02)
    assert not (drawn.own & start).any()
    assert torch.all(drawn.image[drawn.own] == 0) and torch.all(drawn.image[~drawn.own & ~start] > 0)
    assert float(drawn.mask[drawn.own].mean()) == pytest.approx(0.5, abs=0.02)  # at any level alike


def test_what_levels_may_hold() -> None:
    assert not list(problems_of(NoiseLevels("high", 0.75, "mixed", 0.5, 0.5, 0.25)))
    wrong = NoiseLevels("low", 0.8, "less", 0.9, 0.25, 0.3)
    assert list(problems_of(wrong, "levels")) == [
        "levels.mask 'low'; must be one of schedule, high",
        "levels.image 'less'; must be one of equal, mixed",
        "levels: clean_image and equal_level are 1.15 together; at most 1",
        "levels: start and self_conditioning are 1.1 together; at most 1",
    ]


def test_some_channels_of_a_share_of_the_samples_are_hidden() -> None:
    levels = NoiseLevels(missing_channel=0.4)
    for channels in (2, 3):
        hidden = levels.draw_hidden(COUNT, channels, generator())
        number = hidden.sum(dim=1)
        assert share(number > 0) == pytest.approx(0.4, abs=0.02) and int(number.max()) == channels - 1
        for index in range(channels):
            assert share(hidden[:, index]) == pytest.approx(0.2, abs=0.02)  # half of the channels, on average
    assert share(number == 1) == pytest.approx(0.2, abs=0.02)  # of three, one as often as two


@pytest.mark.parametrize(("amount", "channels"), [(0.4, 1), (0.0, 3)])
def test_where_nothing_can_be_hidden_nothing_is_drawn(amount: float, channels: int) -> None:
    """So the noise of a training on one channel stays what it was."""
    drawing = generator()
    assert not NoiseLevels(missing_channel=amount).draw_hidden(5, channels, drawing).any()
    assert torch.equal(drawing.get_state(), generator().get_state())
