"""Random contrast: what it changes, and what it must not."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from diffatlas_pipeline.data.contrast import random_curve, randomise_contrast, through


@given(seed=st.integers(0, 10_000))
def test_curves_span_the_range(seed: int) -> None:
    curve = random_curve(torch.Generator().manual_seed(seed))
    assert 3 <= len(curve) <= 6
    assert float(curve.min()) == -1 and abs(float(curve.max()) - 1) < 1e-6


def test_straight_curves_are_known_in_closed_form() -> None:
    image = torch.linspace(-1, 1, 101)
    assert torch.allclose(through(image, torch.tensor([-1.0, 0.0, 1.0])), image, atol=1e-6)
    assert torch.allclose(through(image, torch.tensor([1.0, 0.0, -1.0])), -image, atol=1e-6)
    assert torch.allclose(through(image, torch.tensor([1.0, -1.0, 1.0])), image.abs() * 2 - 1, atol=1e-5)


@given(seed=st.integers(0, 1000))
def test_equal_intensities_stay_equal(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 5, (1, 1, 6, 6, 6), generator=generator) / 2 - 1
    changed = randomise_contrast(image, 1.0, generator)
    for value in image.unique():
        assert len(changed[image == value].unique()) == 1


def test_the_share_of_changed_samples_is_as_asked_and_repeats() -> None:
    image = torch.rand((400, 1, 2, 2, 2)) * 2 - 1
    changed = randomise_contrast(image, 0.25, torch.Generator().manual_seed(0))
    share = (changed != image).flatten(1).any(dim=1).float().mean()
    assert 0.17 < float(share) < 0.33
    assert torch.equal(changed, randomise_contrast(image, 0.25, torch.Generator().manual_seed(0)))
    assert torch.equal(image, randomise_contrast(image, 0.0, torch.Generator().manual_seed(0)))
