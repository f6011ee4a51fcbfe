from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.planning.plan import ChannelPlan
from diffatlas_pipeline.preprocessing.normalisation import beyond_bounds, is_out_of_domain, normalise
from diffatlas_pipeline.volumes.padding import padding_value

CT = ChannelPlan("CT", "ct", -200.0, 300.0)
MRI = ChannelPlan("MRI", "percentile", 0.5, 99.5)


def scan(seed: int = 0, shape: tuple[int, ...] = (12, 11, 10)) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 30, (1, *shape)).astype(np.float32)


def test_ct_maps_its_bounds_to_the_ends_and_clips_beyond() -> None:
    values = np.array([-1000, -200, 50, 300, 3000], dtype=np.float32).reshape(1, 5, 1, 1)
    np.testing.assert_allclose(normalise(values, [CT]).ravel(), [-1, -1, 0, 1, 1], atol=1e-6)


@given(scale=st.floats(0.01, 1000), shift=st.floats(-1000, 1000))
def test_percentiles_forget_scale_and_shift(scale: float, shift: float) -> None:
    image = scan()
    np.testing.assert_allclose(normalise(image * scale + shift, [MRI]), normalise(image, [MRI]), atol=0.02)


def test_percentiles_are_those_of_all_voxels() -> None:
    image = np.random.default_rng(0).permutation(1000).astype(np.float32).reshape(1, 10, 10, 10)
    found = normalise(image, [ChannelPlan("MRI", "percentile", 10.0, 80.0)])
    low, high = 99.9, 799.2  # of the numbers 0 to 999
    np.testing.assert_allclose(found, np.clip(2 * (image - low) / (high - low) - 1, -1, 1), atol=1e-5)


def test_one_channel_does_not_see_the_other() -> None:
    a, b = scan(1), scan(2) * 50
    both = normalise(np.concatenate([a, b]), [MRI, CT])
    np.testing.assert_array_equal(both[:1], normalise(a, [MRI]))
    np.testing.assert_array_equal(both[1:], normalise(b, [CT]))


def test_constant_image_is_minus_one() -> None:
    assert (normalise(np.full((1, 3, 3, 3), 7.0, dtype=np.float32), [MRI]) == -1).all()


def test_modality_replaces_hounsfield_bounds_by_percentiles() -> None:
    image = scan() * 20
    np.testing.assert_array_equal(normalise(image, [CT], "mri"), normalise(image, [MRI]))
    np.testing.assert_array_equal(normalise(image, [CT], "CT"), normalise(image, [CT]))
    np.testing.assert_array_equal(normalise(image, [MRI], "CT"), normalise(image, [MRI]))


def test_beyond_the_hounsfield_bounds_tissues_keep_their_order() -> None:
    values = np.array([-1000, -850, -210, -200, 50, 300, 310, 3000], dtype=np.float32).reshape(1, -1, 1, 1)
    excess = beyond_bounds(values, [CT])
    assert excess is not None and excess.dtype == np.float32
    together = (normalise(values, [CT]) + excess).ravel()
    assert (np.diff(together) > 0).all()
    np.testing.assert_array_equal(excess.ravel()[3:6], 0)
    assert together[0] == pytest.approx(-1 - np.log(4.2)) and together[-1] == pytest.approx(1 + np.log(11.8))


def test_nothing_is_beyond_where_no_bounds_are_planned() -> None:
    assert beyond_bounds(scan(), [MRI]) is None
    assert beyond_bounds(scan() * 20, [CT], "MRI") is None
    both = beyond_bounds(np.concatenate([scan() * 20, scan() * 20]), [MRI, CT])
    assert both is not None and not both[0].any() and both[1].any()


def test_foreign_is_what_the_plan_would_scale_otherwise() -> None:
    assert is_out_of_domain("MRI", [CT]) and is_out_of_domain("mri", [CT]) and is_out_of_domain("CT", [MRI])
    assert not is_out_of_domain("ct", [CT]) and not is_out_of_domain("MRI", [MRI])
    assert not is_out_of_domain(None, [CT]) and not is_out_of_domain(None, [MRI])


def test_subsampled_percentiles_are_close(monkeypatch: pytest.MonkeyPatch) -> None:
    image = scan(shape=(40, 40, 40))
    exact = normalise(image, [MRI])
    monkeypatch.setattr("diffatlas_pipeline.volumes.padding._SAMPLED_VOXELS", 4000)
    sampled = normalise(image, [MRI])
    assert 0 < np.abs(sampled - exact).max() < 0.1


def test_unknown_modality_is_named_with_what_is_allowed() -> None:
    with pytest.raises(UserError, match=r"'xray'.*CT, MRI"):
        normalise(scan(), [CT], "xray")


@pytest.mark.parametrize("value", [-9999.0, -3.4e38, 1e6])
def test_what_pads_a_scan_does_not_count(value: float) -> None:
    image = scan(shape=(20, 21, 22))
    inside = normalise(image[:, 4:, :, :], [MRI])
    padded = image.copy()
    padded[:, :4] = value
    assert padding_value(padded[0]) == np.float32(value) and padding_value(image[0]) is None
    found = normalise(padded, [MRI])
    np.testing.assert_array_equal(found[:, 4:], inside)
    assert (found[:, :4] == (-1 if value < 0 else 1)).all()


def test_a_dark_background_or_two_values_are_no_padding() -> None:
    image = np.clip(scan(shape=(20, 21, 22)), 0, None)
    image[:, :8] = 0
    two = np.zeros((8, 8, 8), dtype=np.float32)
    two[4:] = 1
    assert padding_value(image[0]) is None and padding_value(two) is None and padding_value(two * 0) is None
