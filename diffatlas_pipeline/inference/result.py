"""What prediction brings back to a scan's own grid, and which of it is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Maps:
    """Which volumes are asked for beside the labels; each is a part of :class:`Result`."""

    distances: bool = False
    uncertainty: bool = False
    generated: bool = False
    reconstruction: bool = False
    probabilities: bool = False


@dataclass(frozen=True)
class Result:
    """A segmentation on the scan's own grid.

    ``labels`` (X, Y, Z) int32 in the data set's values. ``distances_mm`` (K, X, Y, Z) float32, negative inside, cut off
    at the plan's tau. ``error_probability`` (X, Y, Z) float32: how probable it is that the label of a voxel is wrong.
    By number of the channel, (X, Y, Z) float32 in the units of
    :func:`~diffatlas_pipeline.preprocessing.normalisation.denormalise`: ``generated``, channels that were missing;
    ``reconstruction``, what the model makes of those that were not; ``residual``, these less their reconstruction.
    ``probabilities`` (1 + K, X, Y, Z) float16: those of the background and of each label; the largest is that of
    ``labels``.
    """

    labels: np.ndarray
    distances_mm: np.ndarray | None = None
    error_probability: np.ndarray | None = None
    warnings: tuple[str, ...] = ()
    generated: dict[int, np.ndarray] | None = None
    reconstruction: dict[int, np.ndarray] | None = None
    residual: dict[int, np.ndarray] | None = None
    probabilities: np.ndarray | None = None
