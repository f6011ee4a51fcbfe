"""Intervals of volumes: closed forms, and how often they hold the volumes that they should hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diffatlas_pipeline.files import from_json, to_json
from diffatlas_pipeline.inference.volume_intervals import FEWEST, VolumeErrors, estimates


def of_ratios(*ratios: float) -> VolumeErrors:
    """Cases with one label, whose true volume is ``ratios`` times the one found."""
    return VolumeErrors.of({f"case{index}": [(ratio, 1.0)] for index, ratio in enumerate(ratios)})


def test_the_interval_is_students_prediction_interval_of_the_logarithms() -> None:
    errors = of_ratios(*(math.exp(value) for value in (-1.0, 0.0, 1.0, 2.0, 3.0)))  # mean 1, standard deviation sqrt(2.5)
    half = 2.131847 * math.sqrt(2.5) * math.sqrt(1 + 1 / 5)  # t of 4 degrees of freedom, 95th percentile
    assert errors.interval(0, 10.0, 0.9) == pytest.approx((10 * math.exp(1 - half), 10 * math.exp(1 + half)), rel=1e-5)


@pytest.mark.parametrize("count", [FEWEST, 12])
@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_it_holds_the_true_volume_as_often_as_it_says(count: int, coverage: float) -> None:
    generator, held = np.random.default_rng(0), []
    for _ in range(2000):
        ratios = np.exp(generator.normal(-0.1, 0.2, size=count + 1))
        bounds = of_ratios(*ratios[:-1]).interval(0, 5.0, coverage)
        assert bounds is not None
        held.append(bounds[0] <= 5.0 * ratios[-1] <= bounds[1])
    assert np.mean(held) == pytest.approx(coverage, abs=0.035)


def test_it_is_in_the_volumes_unit_and_wider_the_surer_it_is() -> None:
    errors = of_ratios(0.8, 0.9, 1.0, 1.2, 1.3)
    narrow, wide, larger = errors.interval(0, 1.0, 0.5), errors.interval(0, 1.0, 0.9), errors.interval(0, 3.0, 0.9)
    assert narrow and wide and larger
    assert wide[0] < narrow[0] < narrow[1] < wide[1] and larger == pytest.approx([3 * wide[0], 3 * wide[1]])


def test_nothing_is_told_where_nothing_is_known() -> None:
    few = of_ratios(*[1.1] * (FEWEST - 1))
    assert few.interval(0, 1.0, 0.9) is None
    errors = VolumeErrors.of({f"case{i}": [(1 + 0.1 * i, 1.0), (0.0, 1.0), (1.0, 0.0)] for i in range(FEWEST)})
    assert errors.interval(0, 1.0, 0.9) and not errors.interval(0, 0.0, 0.9), "a label that was not found has no interval"
    assert errors.interval(1, 1.0, 0.9) is None and errors.interval(2, 1.0, 0.9) is None, "absent or missed in all known cases"
    found = estimates({"a": 2.0, "b": 1.0, "c": 0.0}, errors)
    assert set(found["a"].intervals_ml) == {"50%", "90%"} and not found["b"].intervals_ml and found["c"].volume_ml == 0
    assert not estimates({"a": 2.0}, None)["a"].intervals_ml


def test_folds_are_joined_and_files_come_back() -> None:
    one, two = of_ratios(0.9, 1.1), of_ratios(1.0, 1.3)
    joined = VolumeErrors.joined([one, two])
    assert joined.interval(0, 1.0, 0.9) == of_ratios(0.9, 1.1, 1.0, 1.3).interval(0, 1.0, 0.9)
    assert from_json(VolumeErrors, to_json(joined), "file") == joined
