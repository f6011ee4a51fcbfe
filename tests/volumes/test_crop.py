"""Crop to content and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffatlas_pipeline.volumes.crop import content_box, crop, mask_box, uncrop


def test_box_of_content_over_zero_background():
    array = np.zeros((1, 10, 12, 14), dtype=np.float32)
    array[0, 2:5, 3:9, 4:14] = 7.0
    assert content_box(array) == ((2, 3, 4), (3, 6, 10))


def test_padding_value_may_be_any_constant_and_differ_between_channels():
    array = np.stack([np.full((8, 8, 8), -1024.0), np.full((8, 8, 8), 5.0)]).astype(np.float32)
    array[0, 2, 3, 4] = 0.0
    array[1, 5, 3, 6] = 0.0
    assert content_box(array) == ((2, 3, 4), (4, 1, 3))


def test_constant_image_keeps_its_extent():
    assert content_box(np.full((1, 4, 5, 6), 3.0)) == ((0, 0, 0), (4, 5, 6))


def test_noise_up_to_the_border_keeps_its_extent():
    noise = np.random.default_rng(0).normal(size=(1, 6, 7, 8))
    assert content_box(noise) == ((0, 0, 0), (6, 7, 8))


def test_padding_on_one_side_only_is_removed():
    array = np.random.default_rng(0).normal(size=(1, 6, 7, 8))
    array[:, 4:] = 0.0
    assert content_box(array) == ((0, 0, 0), (4, 7, 8))


@settings(max_examples=50)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_box_is_tight_and_uncrop_inverts_crop(data, seed):
    shape = tuple(data.draw(st.integers(2, 9)) for _ in range(3))
    array = np.zeros((2, *shape), dtype=np.float32)
    low = [data.draw(st.integers(0, n - 1)) for n in shape]
    high = [data.draw(st.integers(first + 1, n)) for first, n in zip(low, shape, strict=True)]
    inside = np.random.default_rng(seed).uniform(1.0, 2.0, size=(2, *(b - a for a, b in zip(low, high, strict=True))))
    array[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]] = inside
    start, box = content_box(array)
    if np.isin(array[:, [0, -1]][:, :, [0, -1]][..., [0, -1]], 0.0).all():  # corners are background
        assert start == tuple(low) and box == tuple(b - a for a, b in zip(low, high, strict=True))
    cropped = crop(array, start, box)
    outside = array[0, 0, 0, 0] if start != (0, 0, 0) else array[0, -1, -1, -1]
    restored = uncrop(cropped, start, shape, fill=float(outside))
    np.testing.assert_array_equal(restored, array)
    assert restored.dtype == array.dtype


def test_crop_outside_the_volume_is_refused():
    for start, shape in (((-1, 0, 0), (2, 2, 2)), ((3, 0, 0), (2, 2, 2)), ((0, 0, 0), (0, 1, 1))):
        with pytest.raises(ValueError, match="does not lie inside"):
            crop(np.zeros((1, 4, 4, 4)), start, shape)


def test_uncrop_fills_with_the_given_value_and_keeps_the_type():
    restored = uncrop(np.ones((1, 2, 2, 2), dtype=np.int16), (1, 1, 1), (4, 4, 4), fill=-7)
    assert restored.dtype == np.int16 and restored.sum() == 8 - 7 * 56


def test_mask_box_margin_stays_within_the_volume():
    mask = np.zeros((5, 6, 7), dtype=bool)
    mask[1, 2, 6] = True
    assert mask_box(mask, (2, 1, 3)) == (slice(0, 4), slice(1, 4), slice(3, 7))
