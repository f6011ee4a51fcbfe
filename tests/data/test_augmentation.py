from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffatlas_pipeline.data.augmentation import Augmentation, AugmentationParameters, _intensity_transforms
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.planning.plan import AugmentationPlan
from diffatlas_pipeline.preprocessing.distance_maps import STORED_LIMIT, encode_labels
from diffatlas_pipeline.volumes.grids import Triple, TripleMm

PLAN = AugmentationPlan(rotation_degrees=(20.0, 20.0, 30.0), zoom=(0.7, 1.4), mirror_axes=(0, 2), intensity=True)
PATCH = (24, 28, 20)
TAU_MM = 4.0

angles = st.tuples(*[st.floats(-45, 45)] * 3)
zooms = st.floats(1 / STORED_LIMIT, 1.5)
spatial = st.builds(AugmentationParameters, angles, zooms, st.sampled_from([(), (0,), (1, 2), (0, 1, 2)]))
spacings = st.sampled_from([(1.0, 1.0, 1.0), (0.7, 1.0, 3.0)])


def ball(shape: Triple, radius_mm: float, spacing_mm: TripleMm = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Distance map (1, X, Y, Z) of a voxelised ball about the centre."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    mask = x**2 + y**2 + z**2 < radius_mm**2
    return encode_labels(mask.astype(np.int16), [LabelClass("ball", 1)], spacing_mm, TAU_MM)


def random_maps(shape: Triple, seed: int = 0) -> np.ndarray:
    labels = np.random.default_rng(seed).integers(0, 3, size=[max(1, n // 4) for n in shape])
    for axis, n in enumerate(shape):
        labels = np.take(labels, np.arange(n) * labels.shape[axis] // n, axis=axis)
    return encode_labels(labels, [LabelClass("a", 1), LabelClass("b", 2)], (1.0, 1.0, 1.0), TAU_MM)


def test_no_parameters_change_nothing() -> None:
    maps = random_maps(PATCH)
    image = np.random.default_rng(0).uniform(-1, 1, (2, *PATCH)).astype(np.float32)
    augmentation, parameters = Augmentation(PLAN, PATCH), AugmentationParameters()
    assert augmentation.source_extent(parameters) == PATCH
    same_image, same_maps = augmentation.apply(image, maps, parameters)
    np.testing.assert_array_equal(same_image, image)
    np.testing.assert_array_equal(same_maps, np.clip(maps, -1, 1))


@settings(max_examples=25)
@given(parameters=spatial, spacing=spacings)
def test_image_and_distances_move_together(parameters: AugmentationParameters, spacing: TripleMm) -> None:
    """A case whose image is its own distance map stays one, but for the length scale."""
    augmentation = Augmentation(PLAN, PATCH, spacing)
    maps = random_maps(augmentation.source_extent(parameters))
    image, distances = augmentation.apply(maps / STORED_LIMIT, maps, parameters)
    assert image.shape == distances.shape == (2, *PATCH)
    np.testing.assert_allclose(distances, np.clip(image * STORED_LIMIT * parameters.zoom, -1, 1), atol=1e-5)


@settings(max_examples=25)
@given(zoom=zooms, angles_degrees=angles, spacing=st.sampled_from([(1.0, 1.0, 1.0), (0.8, 1.0, 1.6)]))
def test_zoomed_distances_are_those_of_the_zoomed_mask(zoom: float, angles_degrees: TripleMm, spacing: TripleMm) -> None:
    """A ball is a ball however it is turned; its radius grows with the zoom; distances are clipped at exactly tau."""
    patch = (30, 30, 24)
    augmentation = Augmentation(PLAN, patch, spacing)
    parameters = AugmentationParameters(angles_degrees, zoom)
    maps = ball(augmentation.source_extent(parameters), 6.0, spacing)
    _, distances = augmentation.apply(maps, maps, parameters)
    error_mm = np.abs(distances - np.clip(ball(patch, 6.0 * zoom, spacing), -1, 1)) * TAU_MM
    assert error_mm.mean() < 0.25 and error_mm.max() < 1.3 * max(spacing)  # of a voxelised ball's surface


def test_quarter_turn_has_the_right_direction() -> None:
    """About z by +90 degrees, x goes to y."""
    cube = (12, 12, 12)
    maps = random_maps(cube)
    augmentation = Augmentation(PLAN, cube)
    parameters = AugmentationParameters((0.0, 0.0, 90.0))
    assert augmentation.source_extent(parameters) == cube
    turned = augmentation.apply(maps, maps, parameters)[1]
    np.testing.assert_allclose(turned, np.clip(np.rot90(maps, 1, axes=(2, 1)), -1, 1), atol=1e-5)


@settings(max_examples=25)
@given(parameters=spatial, spacing=spacings)
def test_source_is_large_enough(parameters: AugmentationParameters, spacing: TripleMm) -> None:
    """A linear image stays linear up to the corners, so nothing was made up at the border of the source."""
    augmentation = Augmentation(PLAN, PATCH, spacing)
    extent = augmentation.source_extent(parameters)
    for axis in range(3):
        ramp = np.moveaxis(np.broadcast_to(np.linspace(-1, 1, extent[axis]), (1, *np.roll(extent, -1 - axis))), 3, axis + 1)
        image = augmentation.apply(ramp.astype(np.float32), ramp, parameters)[0][0]
        for along in range(3):
            assert np.abs(np.diff(image, n=2, axis=along)).max() < 1e-4


def test_mirroring_twice_is_the_identity() -> None:
    maps = random_maps(PATCH)
    augmentation, parameters = Augmentation(PLAN, PATCH), AugmentationParameters(mirror=(0, 2))
    once = augmentation.apply(maps / 2, maps, parameters)
    np.testing.assert_array_equal(once[1], np.clip(maps, -1, 1)[:, ::-1, :, ::-1])
    twice = augmentation.apply(*once, parameters)
    np.testing.assert_array_equal(twice[0], maps / 2)
    np.testing.assert_array_equal(twice[1], np.clip(maps, -1, 1))


def test_intensity_changes_the_image_only_and_is_repeatable() -> None:
    maps = random_maps(PATCH)
    image = np.random.default_rng(0).uniform(-1, 1, (2, *PATCH)).astype(np.float32)
    before, augmentation = image.copy(), Augmentation(PLAN, PATCH)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    changed = 0
    for seed in range(30):
        first = augmentation.apply(image, maps, AugmentationParameters(intensity_seed=seed))
        again = augmentation.apply(image, maps, AugmentationParameters(intensity_seed=seed))
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], np.clip(maps, -1, 1))
        assert first[0].min() >= -1 and first[0].max() <= 1 and first[0].shape == image.shape
        changed += bool(np.abs(first[0] - image).max() > 0.01)
    assert 10 < changed < 30
    np.testing.assert_array_equal(image, before)
    assert torch.equal(torch_state, torch.get_rng_state())  # the training's own draws are not disturbed
    np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])  # type: ignore[index]


def test_draws_stay_within_the_plan() -> None:
    augmentation = Augmentation(PLAN, PATCH)
    rng = np.random.default_rng(0)
    draws = [augmentation.draw(rng) for _ in range(300)]
    turned = np.abs([draw.angles_degrees for draw in draws])
    assert (turned <= PLAN.rotation_degrees).all() and (turned.max(axis=0) > 0.9 * np.array(PLAN.rotation_degrees)).all()
    zoom = [draw.zoom for draw in draws]
    assert 0.7 <= min(zoom) < 0.75 and 1.3 < max(zoom) <= 1.4 and zoom.count(1.0) > 100
    assert {axis for draw in draws for axis in draw.mirror} == {0, 2}
    assert len({draw.intensity_seed for draw in draws}) > 290


def test_plan_that_allows_nothing_changes_nothing() -> None:
    augmentation = Augmentation(AugmentationPlan((0.0, 0.0, 0.0), (1.0, 1.0), (), intensity=False), PATCH)
    rng = np.random.default_rng(0)
    assert {augmentation.draw(rng) for _ in range(50)} == {AugmentationParameters()}


def test_two_dimensional_patches_stay_in_their_plane() -> None:
    patch = (32, 40, 1)
    augmentation = Augmentation(PLAN, patch)
    rng = np.random.default_rng(0)
    for _ in range(40):
        parameters = augmentation.draw(rng)
        extent = augmentation.source_extent(parameters)
        assert extent[2] == 1 and parameters.angles_degrees[:2] == (0, 0)
        maps = random_maps(extent)
        image, distances = augmentation.apply(maps / STORED_LIMIT, maps, parameters)
        assert image.shape == distances.shape == (2, *patch) and np.isfinite(image).all()


def test_shrinking_beyond_the_stored_distances_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.667"):
        Augmentation(AugmentationPlan((0.0, 0.0, 0.0), (0.5, 1.5), (), intensity=False), PATCH)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), strength=st.floats(0.05, 0.22), mirror=st.sampled_from([(), (0, 2)]))
def test_deformed_distances_are_nearly_those_of_the_deformed_mask(seed: int, strength: float, mirror: tuple[int, ...]) -> None:
    """The deformed surface is the zero of the deformed map; around it, distances change by a few per cent of tau
    only.
    """
    patch = (30, 30, 24)
    augmentation = Augmentation(PLAN, patch)
    parameters = AugmentationParameters(mirror=mirror, elastic_strength=strength, elastic_seed=seed)
    maps = ball(augmentation.source_extent(parameters), 8.0)
    image, distances = augmentation.apply(maps / STORED_LIMIT, maps, parameters)
    np.testing.assert_array_equal(distances < 0, image < 0)  # image and labels move together
    redone = encode_labels((distances[0] < 0).astype(np.int16), [LabelClass("ball", 1)], (1.0, 1.0, 1.0), TAU_MM).clip(-1, 1)
    near = np.abs(redone) < 0.99
    assert near.any() and np.abs(distances - redone)[near].mean() * TAU_MM < 0.6


def test_deformation_in_a_plane_stays_in_it_and_is_off_by_default() -> None:
    patch = (24, 24, 1)
    augmentation = Augmentation(PLAN, patch)
    assert all(augmentation.draw(np.random.default_rng(i)).elastic_strength == 0 for i in range(20))
    parameters = AugmentationParameters(elastic_strength=0.2, elastic_seed=1)
    maps = random_maps(augmentation.source_extent(parameters))
    image, distances = augmentation.apply(maps / STORED_LIMIT, maps, parameters)
    assert image.shape == distances.shape == (2, *patch)
    assert not np.array_equal(image, maps[:, : patch[0], : patch[1]])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("n", range(1, 9))
def test_volumes_of_few_voxels_can_be_changed_in_every_way(axis: int, n: int) -> None:
    """All changes at once, again and again; patches of one to eight voxels along each axis."""
    patch: Triple = tuple(n if a == axis else 12 for a in range(3))  # type: ignore[assignment]
    plan = replace(PLAN, elastic=1.0)
    augmentation = Augmentation(plan, patch, (1.0, 1.2, 2.0), any_contrast=1.0)
    rng = np.random.default_rng(n)
    for _ in range(6):
        drawn = replace(augmentation.draw(rng), zoom=1.2, angles_degrees=(5.0, 0.0, 8.0), elastic_strength=0.1)
        extent = augmentation.source_extent(drawn)
        image = rng.uniform(-1, 1, (1, *extent)).astype(np.float32)
        changed, maps = augmentation.apply(image, random_maps(extent), drawn)
        assert changed.shape[1:] == maps.shape[1:] == patch
        assert np.isfinite(changed).all() and np.isfinite(maps).all()


@pytest.mark.parametrize("shape", [(1, 12, 12), (12, 2, 12), (12, 12, 3), (1, 1, 12), (2, 3, 1)])
def test_every_change_of_intensity_takes_short_axes(shape: Triple) -> None:
    chain = _intensity_transforms(tuple(a for a, n in enumerate(shape) if n <= 3))
    for random in chain.transforms:
        image = torch.rand((2, *shape))
        for seed in range(3):
            torch.manual_seed(seed)
            np.random.seed(seed)
            found = random.transform(image=image.clone())["image"]
            assert found.shape == image.shape and torch.isfinite(found).all()
