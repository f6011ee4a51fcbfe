"""Probabilities of errors agree with errors, once held-out cases have told how often a model errs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from diffatlas_pipeline.errors import ModelError
from diffatlas_pipeline.files import from_json, to_json
from diffatlas_pipeline.inference.calibration import Calibration, Curve, fitted_curve, mean_calibrated, read_calibration
from diffatlas_pipeline.inference.volume_intervals import VolumeErrors


def told(temperature: float, seed: int, voxels: int = 100_000) -> tuple[np.ndarray, np.ndarray]:
    """What a model says that is too sure by ``temperature``, and where it errs: it errs as often as its logits divided
    by that say.
    """
    generator = np.random.default_rng(seed)
    logits = generator.uniform(-1, 6, voxels)
    wrong = generator.random(voxels) < 1 / (1 + np.exp(logits / temperature))
    return (1 / (1 + np.exp(logits))).astype(np.float32).reshape(-1, 10, 10), wrong.reshape(-1, 10, 10)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 3.0])
def test_calibrated_probabilities_are_how_often_the_model_errs(temperature: float) -> None:
    curve = fitted_curve(told(temperature, seed) for seed in range(3))
    probability, wrong = told(temperature, seed=7)
    said = curve.calibrated(probability)
    assert said.shape == probability.shape and said.dtype == np.float32
    for low in np.arange(0, 0.7, 0.1):
        asked = (said >= low) & (said < low + 0.1)
        if asked.sum() > 2000:
            assert said[asked].mean() == pytest.approx(wrong[asked].mean(), abs=0.02)
    assert said.mean() == pytest.approx(wrong.mean(), abs=0.01)
    if temperature > 1:
        assert probability.mean() < 0.8 * wrong.mean(), "before, it was too sure"


def test_where_it_said_more_there_is_more() -> None:
    generator = np.random.default_rng(0)
    probability = generator.random(500).astype(np.float32)
    curve = fitted_curve([(probability, generator.random(500) < 0.3)])  # what it says tells nothing
    assert (np.diff(curve.found) >= 0).all() and (np.diff(curve.said) > 0).all()
    assert curve.calibrated(np.array([1e-9, 1.0])) == pytest.approx([curve.found[0], curve.found[-1]])


def test_far_from_all_borders_it_stays_sure() -> None:
    """Few errors there make a small probability, whatever the errors near the borders are."""
    near, far = told(4.0, 0), (np.full(1_000_000, 1e-5, np.float32), np.zeros(1_000_000, bool))
    curve = fitted_curve([near, far])
    assert curve.calibrated(np.array([1e-5]))[0] < 1e-5 and curve.calibrated(np.array([0.05]))[0] > 0.2


def test_without_cases_nothing_is_changed_and_folds_are_averaged() -> None:
    probability = np.array([0.0, 0.01, 0.3], dtype=np.float32)
    for unchanged in (fitted_curve([]).calibrated(probability), mean_calibrated(probability, [])):
        np.testing.assert_array_equal(unchanged, probability)
    curves = [fitted_curve([told(temperature, 0)]) for temperature in (1.0, 3.0)]
    both = np.mean([curve.calibrated(probability) for curve in curves], axis=0)
    np.testing.assert_allclose(mean_calibrated(probability, curves), both, rtol=1e-6)


def test_it_comes_back_from_its_file() -> None:
    kept = Calibration(Curve((0.1, 0.2), (0.2, 0.5)), VolumeErrors.of({"a": [(1.0, 2.0), (0.0, 1.0)]}))
    assert from_json(Calibration, to_json(kept), "file") == kept


@pytest.mark.parametrize(
    "make",
    [
        lambda: Curve((0.1, 0.2), (0.1,)),
        lambda: Curve((0.2, 0.1), (0.1, 0.2)),
        lambda: Curve((0.1, 0.2), (0.1, 1.2)),
        lambda: Curve((0.1, math.nan), (0.1, 0.2)),
        lambda: VolumeErrors(("a", "b"), ((0.1,),)),
        lambda: VolumeErrors(("a", "b"), ((0.1,), (0.1, 0.2))),
        lambda: VolumeErrors(("a",), ((1e300,),)),
        lambda: VolumeErrors(("a",), ((math.nan,),)),
    ],
)
def test_what_was_never_fitted_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()


def test_a_calibration_of_other_labels_is_refused() -> None:
    text = to_json(Calibration(Curve(), VolumeErrors(("a",), ((0.1, 0.2, 0.3),))))
    assert read_calibration(text, "fold0", 3).volumes.cases == ("a",)
    with pytest.raises(ModelError, match=r"calibration of fold0: it is not of the 2 labels"):
        read_calibration(text, "fold0", 2)
