"""Probabilities of labels: how sharp they are by held-out cases, on a scan's own grid, and as a file.

Signed distances S (units of tau) stand for the logits -s S of labels and 0 of the background. Training takes s = 10.
What a trained network is worth is told by held-out cases: the s under which their true labels are most probable
(temperature scaling, Guo et al. 2017). One number cannot tell both how sure it is near a border and how sure far from
all of them, where it is hardly ever wrong, so the former counts: voxels within tau of a border that was found.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from diffatlas_pipeline.datasets.codes import Codes, codes_of
from diffatlas_pipeline.datasets.description import LabelClass, LabelSet
from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.methods.base import PlannedSegmentation
from diffatlas_pipeline.preprocessing.case import (
    distances_on_crop,
    labels_on_crop,
    restore_mean_probabilities,
    restore_probabilities,
)
from diffatlas_pipeline.preprocessing.spatial import SpatialRecord
from diffatlas_pipeline.volumes.grids import Grid, LabelVolume

SHARPEST, FLATTEST = 200.0, 0.5  # logits per tau
MOST_NUMBERS = 20_000_000  # distances that are kept of all held-out cases
MOST_VOXELS = 1_000_000


class SharpnessEvidence:
    """Distances (of labels that overlap, the scores of their codes) and true labels at voxels of ``cases`` held-out
    cases, taken at random.
    """

    def __init__(self, cases: int, known: LabelSet) -> None:
        self._codes, self._ignore = codes_of(known.labels), known.ignore
        self._each = max(1, min(MOST_VOXELS, MOST_NUMBERS // len(self._codes.values)) // max(1, cases))
        self._random = np.random.default_rng(0)
        self._distances: list[np.ndarray] = []
        self._truth: list[np.ndarray] = []

    def add(self, distances: np.ndarray, record: SpatialRecord, truth: LabelVolume) -> None:
        """One case: the ``distances`` (K, x, y, z) that were found on the planned grid, and its true labels."""
        borders = np.zeros(distances.shape[1:], dtype=bool)
        for one in distances:
            borders |= np.abs(one) < 1
        flat = np.flatnonzero(borders)
        if not len(flat):
            return
        if len(flat) > self._each:
            flat = flat[self._random.integers(0, len(flat), self._each)]
        voxels = np.stack(np.unravel_index(flat, borders.shape), axis=1)
        steps = np.array(record.crop_shape) / record.planned_shape
        places = tuple(np.minimum((voxels + 0.5) * steps, np.array(record.crop_shape) - 1).astype(int).T)
        near = np.stack([one[places].clip(-1, 1) for one in distances_on_crop(distances, record)])
        true = labels_on_crop(truth, record)[places]
        scores = self._codes.scores(near[..., None, None])[..., 0, 0]
        known = slice(None) if self._ignore is None else true != self._ignore
        self._distances.append(scores[:, known])
        self._truth.append(self._codes.number(true)[known].astype(int))

    def sharpness(self) -> float | None:
        """That under which the true labels are most probable; None if there is no voxel."""
        if not self._truth:
            return None
        distances, truth = np.concatenate(self._distances, axis=1), np.concatenate(self._truth)
        maps = np.concatenate([np.zeros_like(distances[:1]), distances])
        of_truth = maps[truth, np.arange(len(truth))]

        def surprise(log_sharpness: float) -> float:
            sharpness = np.exp(log_sharpness)
            return float((logsumexp(-sharpness * maps, axis=0) + sharpness * of_truth).mean())

        bounds = (np.log(FLATTEST), np.log(SHARPEST))
        return float(np.exp(minimize_scalar(surprise, bounds=bounds, method="bounded").x))


def native_probabilities(
    found: PlannedSegmentation, record: SpatialRecord, sharpness: float, labels: np.ndarray, codes: Codes
) -> np.ndarray:
    """Of the background and of each label, (1 + K, X, Y, Z) float16 on the scan's own grid: the mean over draws if
    there are several. The largest is that of ``labels`` (X, Y, Z). Where labels overlap, each of their ``codes`` has a
    probability instead, as the parts of a voxel's label map have.
    """
    if found.probabilities is None:
        parts = restore_probabilities(found.distances.numpy(), record, sharpness, codes)
    else:
        parts = restore_mean_probabilities(found.probabilities.numpy(), record)
    return agreeing(parts, labels, codes.values)


def agreeing(probabilities: np.ndarray, labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """``probabilities`` (1 + K, X, Y, Z) float16, changed so that the first largest is that of ``labels`` everywhere.

    Where another one is larger (the label was post-processed, or is that of the mean of several draws), the two are
    exchanged. Where two are equal, that of the label becomes the next larger number.
    """
    wanted = np.zeros(labels.shape, dtype=np.intp)
    for k, value in enumerate(values, 1):
        wanted[labels == value] = k
    found = probabilities.argmax(axis=0)
    place = np.nonzero(found != wanted)
    its, other = (wanted[place], *place), (found[place], *place)
    probabilities[its], probabilities[other] = probabilities[other], probabilities[its]
    largest = np.stack([one[place] for one in probabilities]).argmax(axis=0)
    place = tuple(axis[largest != wanted[place]] for axis in place)
    its = (wanted[place], *place)
    probabilities[its] = np.nextafter(probabilities[its], np.float16(2))
    return probabilities


def write_probabilities(path: Path, probabilities: np.ndarray, grid: Grid, labels: Sequence[LabelClass]) -> None:
    """Write ``probabilities`` (1 + K, X, Y, Z) as a compressed .npz that appears whole or not at all. ImageError if it
    cannot be written.

    Beside them stand ``values`` and ``names`` of background and labels, ``spacing_mm`` (3,) and the ``affine`` (4, 4).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez_compressed(
                file,
                probabilities=probabilities,
                values=np.array([0, *(label.value for label in labels)], dtype=np.int64),
                names=np.array(["background", *(label.name for label in labels)]),
                spacing_mm=np.array(grid.spacing_mm),
                affine=grid.matrix,
            )
        temporary.replace(path)
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be written ({error.strerror or error}). Check that the folder is writable and has space."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
