"""Signed distances are exact distances to the mask's voxels, taken as boxes with rounded edges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from diffatlas_pipeline.volumes.distance import inscribed_radius_mm, signed_distance_mm


def distance_to_voxels(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distance from each voxel centre to the nearest voxel of ``mask`` as a rounded box, by comparing all with all."""
    centres = np.argwhere(np.ones_like(mask))
    boxes = np.argwhere(mask)
    if len(boxes) == 0:
        return np.full(mask.shape, np.inf)
    edge = min((s for n, s in zip(mask.shape, spacing, strict=True) if n > 1), default=min(spacing))
    offset = np.abs(centres[:, None] - boxes[None]) * np.asarray(spacing)
    gap = np.maximum(offset - np.maximum(np.asarray(spacing) - edge, 0.0) / 2, 0.0)
    to_box = np.sqrt((gap**2).sum(axis=-1)).min(axis=1).reshape(mask.shape)
    return np.maximum(to_box - edge / 2, 0.0)


def reference(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    return np.where(mask, -distance_to_voxels(~mask, spacing), distance_to_voxels(mask, spacing))


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8)),
    spacing=st.tuples(*[st.sampled_from([0.3, 0.7, 1.0, 5.0])] * 3),
    density=st.sampled_from([0.02, 0.1, 0.5, 0.95]),
    limit=st.sampled_from([None, 0.4, 2.0, 6.0]),
    seed=st.integers(0, 10_000),
)
def test_equals_brute_force(shape, spacing, density, limit, seed):
    mask = np.random.default_rng(seed).random(shape) < density
    got = signed_distance_mm(mask, spacing, limit)
    expected = reference(mask, spacing)
    if limit is not None:
        expected = np.clip(expected, -limit, limit)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    radius = 0.0 if not mask.any() else -reference(mask, spacing).min()
    assert inscribed_radius_mm(mask, spacing) == pytest.approx(radius, rel=1e-5)


def test_zero_lies_on_the_face_between_voxels():
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[3:6] = True
    distance = signed_distance_mm(mask, (2.0, 1.0, 1.0))
    np.testing.assert_allclose(distance[:, 4, 4], [5, 3, 1, -1, -3, -1, 1, 3, 5])


def test_thick_slices_are_not_measured_through_the_plane_only():
    """The face of the next slice may be nearer than the nearest voxel centre in the plane."""
    mask = np.zeros((21, 21, 3), dtype=bool)
    mask[:, :, 0] = True
    mask[18:, :, 1] = True
    assert signed_distance_mm(mask, (0.7, 0.7, 5.0))[10, 10, 1] == pytest.approx(2.5)


def test_cubic_voxels_give_the_euclidean_distance_transform_less_half_a_voxel():
    mask = np.random.default_rng(0).random((30, 25, 20)) < 0.02
    mask[8:15, 8:15, 8:15] = True
    outside = ndimage.distance_transform_edt(~mask, sampling=(1.5, 1.5, 1.5))
    inside = ndimage.distance_transform_edt(mask, sampling=(1.5, 1.5, 1.5))
    expected = np.where(mask, 0.75 - inside, outside - 0.75)
    np.testing.assert_allclose(signed_distance_mm(mask, (1.5, 1.5, 1.5)), expected, rtol=1e-5)


def test_ball_is_measured_to_about_half_a_voxel():
    x, y, z = np.ogrid[-20:21, -20:21, -20:21]
    radial = np.sqrt(x**2 + y**2 + z**2)
    distance = signed_distance_mm(radial < 12.3, (1.0, 1.0, 1.0))
    error = distance - (radial - 12.3)
    assert np.abs(error).max() < 0.6 and abs(error.mean()) < 0.3
    assert abs(error[np.abs(radial - 12.3) < 3.0].mean()) < 0.06  # no bias near the surface
    assert inscribed_radius_mm(radial < 12.3, (1.0, 1.0, 1.0)) == pytest.approx(12.3, abs=0.6)


def test_empty_and_full_masks():
    empty = np.zeros((3, 4, 5), dtype=bool)
    assert np.all(signed_distance_mm(empty, (1, 1, 1)) == np.inf)
    assert np.all(signed_distance_mm(~empty, (1, 1, 1)) == -np.inf)
    assert np.all(signed_distance_mm(empty, (1, 1, 1), 4.0) == 4.0)
    assert np.all(signed_distance_mm(~empty, (1, 1, 1), 4.0) == -4.0)
    assert inscribed_radius_mm(empty, (1, 1, 1)) == 0.0
    assert inscribed_radius_mm(~empty, (1, 1, 1)) == np.inf


def test_limit_changes_nothing_but_the_clipping():
    mask = np.zeros((60, 50, 40), dtype=bool)
    mask[20:30, 15:30, 5:38] = np.random.default_rng(0).random((10, 15, 33)) < 0.8
    spacing = (0.8, 0.9, 2.0)
    full = signed_distance_mm(mask, spacing)
    np.testing.assert_allclose(signed_distance_mm(mask, spacing, 5.0), np.clip(full, -5.0, 5.0), rtol=1e-6)


def test_flat_image_is_measured_in_its_plane():
    mask = np.zeros((9, 9, 1), dtype=bool)
    mask[2:7, 2:7] = True
    distance = signed_distance_mm(mask, (1.0, 1.0, 1.0))
    assert distance[4, 4, 0] == pytest.approx(-2.5) and distance[0, 4, 0] == pytest.approx(1.5)


def test_a_mask_without_three_axes_is_refused():
    with pytest.raises(ValueError, match="X, Y, Z"):
        signed_distance_mm(np.zeros((3, 3), dtype=bool), (1, 1, 1))
