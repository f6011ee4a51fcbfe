"""What held-out cases tell of a model's errors: how often it errs where it is so sure, how far volumes are off, and
how sharp its probabilities are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from diffatlas_pipeline.errors import ModelError
from diffatlas_pipeline.files import from_json
from diffatlas_pipeline.inference.volume_intervals import VolumeErrors

EDGES = np.arange(-12.0, 4.01, 0.25)  # of the bins, in logits of what is said: probabilities of 6e-6 to 0.98
PRIOR = 0.5  # errors, and correct voxels, that each bin begins with (Jeffreys)


@dataclass(frozen=True)
class Curve:
    """How often a model errs (``found``) where it says so (``said``): probabilities, both increasing."""

    said: tuple[float, ...] = ()
    found: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        points = np.array([self.said, self.found]) if len(self.said) == len(self.found) else np.full((2, 1), np.nan)
        if not ((points >= 0) & (points <= 1)).all() or (np.diff(points, axis=1) < 0).any():
            raise ValueError("errors: expected as many probabilities found as said, both increasing")

    def calibrated(self, probability: np.ndarray) -> np.ndarray:
        """The ``probability`` of an error, of any shape, as it was found where the model said so: float32, linear in
        logits between the points. Without points, nothing is changed.
        """
        if not self.said:
            return np.asarray(probability, dtype=np.float32)
        logits = np.interp(_logit(probability), _logit(np.array(self.said)), _logit(np.array(self.found)))
        return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32)


@dataclass(frozen=True)
class Calibration:
    """``errors`` of labels, voxel by voxel, ``volumes``, how far these are off, and ``sharpness``, the scale of the
    labels' probabilities in logits per tau (None: nothing tells it, as in earlier releases).
    """

    errors: Curve
    volumes: VolumeErrors
    sharpness: float | None = None
    version: int = 1

    def __post_init__(self) -> None:
        if self.sharpness is not None and not 0 < self.sharpness < math.inf:
            raise ValueError(f"sharpness: expected a number above 0, found {self.sharpness}")


def read_calibration(text: str, fold: str, labels: int) -> Calibration:
    """The calibration of ``fold`` for a model of so many ``labels``. UserError if it is damaged, or not of such one."""
    found = from_json(Calibration, text, f"calibration of {fold}")
    if any(len(row) != labels for row in found.volumes.log_ratios):
        raise ModelError(f"calibration of {fold}: it is not of the {labels} labels of the plan. Restore the model folder.")
    return found


def fitted_curve(cases: Iterable[tuple[np.ndarray, np.ndarray]]) -> Curve:
    """The curve of ``cases``: of each the probability of an error at each voxel, as the model says it, and whether
    there is one, two arrays of one shape.

    The share of errors in bins of what is said, made monotone by isotonic regression (Zadrozny & Elkan 2002).
    """
    bins = len(EDGES) + 1
    voxels, errors, said = np.zeros(bins), np.zeros(bins), np.zeros(bins)
    for probability, wrong in cases:
        logits = _logit(probability)
        place = np.digitize(logits, EDGES)
        voxels += np.bincount(place.ravel(), minlength=bins)
        errors += np.bincount(place.ravel(), wrong.ravel(), minlength=bins)
        said += np.bincount(place.ravel(), logits.ravel(), minlength=bins)
    there = voxels > 0
    if not there.any():
        return Curve()
    count = voxels[there]
    share = isotonic_regression((errors[there] + PRIOR) / (count + 2 * PRIOR), weights=count).x
    middles = 1 / (1 + np.exp(-said[there] / count))
    return Curve(tuple(map(float, middles)), tuple(map(float, share)))


def mean_calibrated(probability: np.ndarray, curves: Sequence[Curve]) -> np.ndarray:
    """The mean over the ``curves`` of several folds; ``probability`` itself without any."""
    return np.asarray(np.mean([curve.calibrated(probability) for curve in curves or [Curve()]], axis=0), dtype=np.float32)


def mean_sharpness(calibrations: Sequence[Calibration]) -> float | None:
    """The geometric mean of what the folds tell; None if none does."""
    known = [math.log(one.sharpness) for one in calibrations if one.sharpness is not None]
    return math.exp(sum(known) / len(known)) if known else None


def _logit(probability: np.ndarray) -> np.ndarray:
    inside = np.clip(np.asarray(probability, dtype=np.float64), 1e-9, 1 - 1e-9)
    return np.asarray(np.log(inside) - np.log1p(-inside))
