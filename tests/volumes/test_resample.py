"""Resampling keeps the field of view and equals the reference spline implementation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import resize

from diffatlas_pipeline.volumes.resample import resample, resample_part, resampled_shape

SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))


@settings(max_examples=60)
@given(SIZES, SIZES, st.sampled_from([0, 1, 3]), st.integers(0, 1000))
def test_equals_scipy_zoom(shape, new_shape, order, seed):
    array = np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)
    result = resample(array, new_shape, order)
    assert result.shape == (2, *new_shape) and result.dtype == np.float32
    if order == 0:
        return  # ties between two equally near voxels may fall either way in floating point; tested exactly below
    zoom = [new / old for new, old in zip(new_shape, shape, strict=True)]
    for channel, got in zip(array, result, strict=True):
        expected = ndimage.zoom(channel.astype(np.float64), zoom, order=order, mode="nearest", grid_mode=True)
        np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("new_shape", [(301, 4, 5), (83, 4, 5), (200, 3, 9)])
def test_long_axes_worked_in_blocks_equal_skimage(new_shape, order):
    array = np.random.default_rng(0).normal(size=(1, 187, 4, 5)).astype(np.float32)
    expected = resize(array[0].astype(np.float64), new_shape, order=order, mode="edge", anti_aliasing=False, clip=False)
    np.testing.assert_allclose(resample(array, new_shape, order)[0], expected, atol=2e-5)


def test_nearest_keeps_values_and_repeats_each_voxel():
    array = np.arange(6, dtype=np.float32).reshape(1, 6, 1, 1)
    np.testing.assert_array_equal(resample(array, (18, 1, 1), 0)[0, :, 0, 0], np.repeat(np.arange(6), 3))
    np.testing.assert_array_equal(resample(array, (2, 1, 1), 0)[0, :, 0, 0], [1, 4])


@pytest.mark.parametrize("order", [0, 1, 3])
def test_constant_stays_constant_and_equal_shape_is_identity(order):
    np.testing.assert_allclose(resample(np.full((1, 7, 8, 9), 3.5), (11, 5, 9), order), 3.5, rtol=1e-6)
    array = np.random.default_rng(0).normal(size=(1, 7, 8, 9)).astype(np.float32)
    same = resample(array, (7, 8, 9), order)
    np.testing.assert_array_equal(same, array)
    assert not np.shares_memory(same, array)


def test_ramp_stays_at_its_place():
    """Sample i of the result lies at (i + 1/2) n_in / n_out - 1/2: no half-voxel shift."""
    ramp = np.broadcast_to(np.arange(32, dtype=np.float32)[None, :, None, None], (1, 32, 3, 3))
    for order in (1, 3):
        got = resample(ramp, (48, 3, 3), order)[0, 6:-6, 1, 1]
        np.testing.assert_allclose(got, ((np.arange(48) + 0.5) * 32 / 48 - 0.5)[6:-6], atol=2e-3)


def test_order_per_axis():
    array = np.random.default_rng(0).normal(size=(1, 16, 16, 5)).astype(np.float32)
    mixed = resample(array, (20, 20, 15), (3, 3, 0))
    np.testing.assert_array_equal(mixed[..., 0], mixed[..., 2])
    np.testing.assert_allclose(mixed[..., ::3], resample(array, (20, 20, 5), 3), atol=1e-6)


def test_smooth_image_survives_the_way_down_and_up():
    x = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    smooth = (np.sin(x)[:, None, None] + np.cos(x)[None, :, None] * np.sin(x)[None, None, :]).astype(np.float32)[None]
    back = resample(resample(smooth, (33, 30, 36), 3), (40, 40, 40), 3)
    assert np.abs(back - smooth)[:, 5:-5, 5:-5, 5:-5].max() < 2e-3


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="order must be 0, 1 or 3"):
        resample(np.zeros((1, 2, 2, 2)), (3, 3, 3), 2)
    with pytest.raises(ValueError, match="C, X, Y, Z"):
        resample(np.zeros((2, 2, 2)), (3, 3, 3), 1)


def test_resampled_shape_keeps_the_field_of_view():
    assert resampled_shape((512, 512, 60), (0.7, 0.7, 5.0), (1.4, 0.7, 1.0)) == (256, 512, 300)
    assert resampled_shape((3, 3, 1), (1.0, 1.0, 1.0), (10.0, 10.0, 10.0)) == (1, 1, 1)
    assert resampled_shape((35, 51, 35), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)) == (35, 51, 35)


@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.integers(1, 20)] * 3),
    st.tuples(*[st.tuples(st.integers(0, 19), st.integers(1, 20))] * 3),
)
@settings(max_examples=50)
def test_a_part_is_that_of_the_whole(shape, new_shape, edges):
    array = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    part = tuple(
        slice(min(first, n - 1), max(min(last, n), min(first, n - 1) + 1))
        for (first, last), n in zip(edges, new_shape, strict=True)
    )
    whole = resample(array, new_shape, 1)[(slice(None), *part)]
    np.testing.assert_allclose(resample_part(array, new_shape, part), whole, atol=1e-6)
