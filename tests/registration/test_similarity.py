"""Likeness that is blind to contrast, and its derivative."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffatlas_pipeline.registration.similarity import (
    local_correlation,
    local_correlation_force,
    mutual_information,
    window_of,
)

RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(-1, 1, (9, 8, 7)).astype(np.float32)
OTHER = (0.6 * IMAGE + 0.4 * RNG.uniform(-1, 1, IMAGE.shape)).astype(np.float32)


@settings(max_examples=20)
@given(st.floats(-0.9, 0.9).filter(lambda v: abs(v) > 0.3), st.floats(-0.1, 0.1))
def test_a_linear_change_of_contrast_changes_nothing(slope: float, shift: float) -> None:
    same = local_correlation(IMAGE, np.float32(slope) * IMAGE + np.float32(shift), (3, 3, 3))
    assert same.min() > 0.9 and same.mean() > 0.97
    assert local_correlation(IMAGE, OTHER, (3, 3, 3)).mean() < 0.9


def test_a_flat_window_counts_nothing() -> None:
    flat = np.full_like(IMAGE, 0.3)
    assert np.allclose(local_correlation(IMAGE, flat, (3, 3, 3)), 0, atol=1e-4)


def test_the_force_is_the_derivative_by_each_voxel() -> None:
    window = (3, 3, 3)
    target, other = IMAGE.astype(np.float64), OTHER.astype(np.float64)
    value, force = local_correlation_force(target, other, window)
    # away from the border, where continued values would count twice
    for voxel in [(4, 4, 3), (3, 5, 3), (5, 3, 4)]:
        step = np.zeros_like(other)
        step[voxel] = 1e-4
        up, _ = local_correlation_force(target, other + step, window)
        down, _ = local_correlation_force(target, other - step, window)
        assert force[voxel] / other.size == pytest.approx((up - down) / 2e-4, rel=1e-3, abs=1e-6)
    assert value == pytest.approx(local_correlation(target, other, window).mean(), abs=1e-3)


def test_mutual_information_in_closed_form() -> None:
    halves = np.repeat([0.0, 1.0], 50)
    assert mutual_information(halves, halves, bins=2) == pytest.approx(np.log(2))
    assert mutual_information(halves, 1 - halves, bins=2) == pytest.approx(np.log(2))
    assert mutual_information(halves, np.tile([0.0, 1.0], 50), bins=2) == pytest.approx(0)


def test_windows_count_in_the_finest_voxels() -> None:
    assert window_of((20, 20, 20), (1.0, 1.0, 1.0), 2) == (5, 5, 5)
    assert window_of((20, 20, 20), (1.0, 1.0, 4.0), 2) == (5, 5, 3)
    assert window_of((20, 20, 1), (1.0, 1.0, 0.1), 2) == (5, 5, 1)
