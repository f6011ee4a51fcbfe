from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffatlas_pipeline.planning.spectrum import power_spectrum, radial_power


@settings(max_examples=25)
@given(shape=st.tuples(*[st.integers(2, 12)] * 2, st.integers(1, 12)), seed=st.integers(0, 1000))
def test_power_sums_to_the_variance(shape: tuple[int, int, int], seed: int) -> None:
    array = np.random.default_rng(seed).normal(3, 2, shape).astype(np.float32)
    spectrum = power_spectrum([radial_power(array)])
    coefficients = array.size - 1  # all but the mean
    assert sum(spectrum.weight) == pytest.approx(1)
    total = np.dot(spectrum.power, spectrum.weight) * coefficients / array.size
    assert total == pytest.approx(array.var(dtype=np.float64), rel=1e-4)


def test_white_noise_has_power_one_everywhere() -> None:
    array = np.random.default_rng(0).standard_normal((48, 48, 48)).astype(np.float32)
    spectrum = power_spectrum([radial_power(array)])
    busy = np.array(spectrum.weight) > 0.005
    np.testing.assert_allclose(np.array(spectrum.power)[busy], 1, atol=0.2)


@pytest.mark.parametrize("shape", [(64, 8, 8), (64, 64, 1)])
def test_a_wave_lies_at_its_frequency(shape: tuple[int, int, int]) -> None:
    wave = np.sin(2 * np.pi * np.arange(shape[0]) * 16 / 64)
    spectrum = power_spectrum([radial_power(np.broadcast_to(wave[:, None, None], shape))])
    assert spectrum.frequency[int(np.argmax(spectrum.power))] == pytest.approx(0.25, abs=0.01)


def test_cases_of_several_sizes_are_averaged_by_coefficient() -> None:
    rng = np.random.default_rng(0)
    parts = [radial_power(rng.standard_normal(shape) * 2) for shape in ((10, 12, 14), (30, 20, 16))]
    spectrum = power_spectrum(parts)
    assert np.dot(spectrum.power, spectrum.weight) == pytest.approx(4, rel=0.05)


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(ValueError, match="no Fourier coefficient"):
        power_spectrum([radial_power(np.ones((1, 1, 1)))])
