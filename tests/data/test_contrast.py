"""Synthetic contrasts: what they change, what they leave, and what they are given that is hard."""

from __future__ import annotations

import numpy as np
import pytest

from diffatlas_pipeline.data.augmentation import Augmentation, AugmentationParameters
from diffatlas_pipeline.data.contrast import _in_thick_slices, synthesise_contrast
from diffatlas_pipeline.planning.plan import AugmentationPlan
from diffatlas_pipeline.volumes.grids import Triple

PLAN = AugmentationPlan(rotation_degrees=(0.0, 0.0, 0.0), zoom=(1.0, 1.0), mirror_axes=(), intensity=False)
SHAPE = (20, 22, 18)


def two_balls(shape: Triple = SHAPE, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """An image (C, *shape) of two bright balls on a dark ground that brightens along X, and their distances in
    voxels.
    """
    x, y, z = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    radius = min(n for n in shape if n > 1) / 4
    distances = np.stack([np.sqrt((x - sign * radius * 1.1) ** 2 + y**2 + z**2) - radius for sign in (-1, 1)]) / 5
    image = np.where(distances.min(axis=0) < 0, 0.6, -0.8 + 0.2 * x / shape[0])
    noise = np.random.default_rng(0).normal(0, 0.05, (channels, *shape))
    return np.clip(image + noise, -1, 1).astype(np.float32), distances.clip(-1, 1).astype(np.float32)


def drawn(image: np.ndarray, distances: np.ndarray, count: int = 40) -> list[np.ndarray]:
    return [synthesise_contrast(image, distances, np.random.default_rng(seed)) for seed in range(count)]


def test_the_same_seed_gives_the_same_contrast_and_the_image_stays_as_it_was() -> None:
    image, distances = two_balls()
    before = image.copy()
    first, again = (synthesise_contrast(image, distances, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(image, before)
    assert first.shape == image.shape and first.dtype == np.float32
    assert first.min() == -1 and first.max() == 1


def test_labels_that_look_alike_come_to_differ_and_bright_may_become_dark() -> None:
    image, distances = two_balls()
    left, right, ground = (distances[0] < -0.1, distances[1] < -0.1, distances.min(axis=0) > 0.3)
    made = drawn(image, distances)
    apart = [abs(one[0][left].mean() - one[0][right].mean()) for one in made]
    brighter = [one[0][left].mean() > one[0][ground].mean() for one in made]
    assert np.median(apart) > 0.2
    assert 0.2 < np.mean(brighter) < 0.95


def test_shapes_stay_where_they_are() -> None:
    """Across a label's surface the image changes more than it does inside: that is what there is to be learnt."""
    image, distances = two_balls()
    inside, outside = np.abs(distances[0] + 0.25) < 0.1, np.abs(distances[0] - 0.25) < 0.1
    outside &= distances[1] > 0.3
    steps = [abs(np.median(one[0][inside]) - np.median(one[0][outside])) for one in drawn(image, distances)]
    assert np.median(steps) > 0.3


def test_each_channel_has_a_contrast_of_its_own() -> None:
    image, distances = two_balls(channels=2)
    pairs = [np.corrcoef(one[0].ravel(), one[1].ravel())[0, 1] for one in drawn(image, distances)]
    assert np.min(pairs) < -0.3 and np.max(pairs) > 0.3


@pytest.mark.parametrize("ground", [-1.0, 0.25])
def test_hard_input_gives_an_image(ground: float) -> None:
    """No labels, unknown labels, a single voxel of one, a constant channel, a plane."""
    image, distances = two_balls(channels=2)
    constant = np.full_like(image, ground)
    speck = np.ones_like(distances)
    speck[1, 3, 4, 5] = -0.1
    plane = two_balls((24, 28, 1))
    flat_maps = np.ones((2, 24, 28, 1), np.float32)
    hard = [(image, np.ones_like(distances)), (image, np.full_like(distances, np.nan)), (image, speck), (constant, distances)]
    hard += [(constant, np.ones_like(distances)), plane, (np.full((1, 24, 28, 1), ground, np.float32), flat_maps)]
    for given, maps in hard:
        for one in drawn(given, maps, 10):
            assert one.shape == given.shape and np.isfinite(one).all() and np.abs(one).max() <= 1


def test_labels_that_fill_the_patch() -> None:
    image, _ = two_balls()
    full = np.stack([np.full(SHAPE, -1.0), np.full(SHAPE, 1.0)]).astype(np.float32)
    assert all(np.isfinite(one).all() for one in drawn(image, full, 10))


def test_what_is_empty_around_a_scan_often_stays_so() -> None:
    image, distances = two_balls()
    image[:, :5] = -1
    darkest = [(one[:, 1:4] == -1).mean() > 0.9 for one in drawn(image, distances, 100)]
    assert 0.3 < np.mean(darkest) < 0.75


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_are_means_and_what_is_straight_stays_so(axis: int) -> None:
    ramp = np.moveaxis(np.broadcast_to(np.linspace(-1, 1, 40, dtype=np.float32), (8, 9, 40)), 2, axis)
    slices = _in_thick_slices(ramp, axis, 4.0, 2.0)
    inner = [slice(None)] * 3
    inner[axis] = slice(6, 34)
    np.testing.assert_allclose(slices[tuple(inner)], ramp[tuple(inner)], atol=0.06)  # half a voxel, where a mean lies between
    noise = np.random.default_rng(0).normal(size=(8, 9, 40)).astype(np.float32)
    noise = np.moveaxis(noise, 2, axis)
    thick = _in_thick_slices(noise, axis, 4.0, 2.0)
    assert thick.std() < 0.6 * noise.std()
    assert np.abs(np.diff(thick, n=2, axis=axis)).std() < 0.3 * np.abs(np.diff(noise, n=2, axis=axis)).std()


def test_a_share_of_the_samples_is_drawn_and_distances_are_left() -> None:
    image, distances = two_balls()
    augmentation = Augmentation(PLAN, SHAPE, any_contrast=0.4)
    rng = np.random.default_rng(0)
    parameters = [augmentation.draw(rng) for _ in range(400)]
    synthetic = [one for one in parameters if one.contrast_seed is not None]
    assert 0.3 < len(synthetic) / len(parameters) < 0.5
    changed, maps = augmentation.apply(image, distances, synthetic[0])
    np.testing.assert_array_equal(maps, distances)
    assert np.abs(changed - image).mean() > 0.05
    same, _ = augmentation.apply(image, distances, AugmentationParameters())
    np.testing.assert_array_equal(same, image)


def test_without_it_the_draws_are_those_of_before() -> None:
    plain, none = Augmentation(PLAN, SHAPE), Augmentation(PLAN, SHAPE, any_contrast=0.0)
    rng, other = np.random.default_rng(1), np.random.default_rng(1)
    assert [plain.draw(rng) for _ in range(20)] == [none.draw(other) for _ in range(20)]
    assert rng.random() == other.random()
