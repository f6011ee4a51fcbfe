"""Evidence on whether a mirrored case could belong to the data set.

Each case is sampled on one coarse grid around the centre of its foreground: its labels (N, N, N) and its first channel.
Across an axis,

- a label is *symmetric* when reflection leaves it, and the image, as they are: either each case by itself, or, given
  enough cases, the data set as a whole. For the latter let a_i be the antisymmetric half of case i: were mirrored cases
  as likely as the cases themselves, then n |mean a_i|^2 would be about mean |a_i|^2; it grows with n otherwise.
- two labels are *twins* when they lie side by side along that axis, are of about the same volume, and one's mean shape
  is the other's mirror image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from diffatlas_pipeline.datasets.codes import Codes
from diffatlas_pipeline.volumes.grids import TripleMm

GRID = 24  # samples per axis
LARGEST_SELF_ASYMMETRY = 0.05  # |a|^2 / |v|^2 of a single case; 0.05 is a Dice of 0.9 with its own mirror image
LARGEST_EVIDENCE = 2.0  # n |mean a|^2 / mean |a|^2; 1 is expected of a mirror-symmetric population
FEWEST_CASES = 20  # below, a population's symmetry cannot be told from chance
TWIN_VOLUME_RATIO, TWIN_DIRECTION, TWIN_OVERLAP = 1.5, 0.8, 0.75
X_AXIS = "0"  # left-right, in the canonical orientation


@dataclass(frozen=True)
class CoarseCase:
    """``labels`` (N, N, N) uint16 as :meth:`Codes.number` has them; ``image`` (N, N, N) float32."""

    labels: np.ndarray
    image: np.ndarray


def sample_coarsely(
    labels: np.ndarray, image: np.ndarray, centre: np.ndarray, half_extent_mm: TripleMm, spacing_mm: TripleMm
) -> CoarseCase:
    """``labels`` and ``image`` (X, Y, Z) on GRID^3 points within ``half_extent_mm`` of ``centre`` (voxels)."""
    steps = (np.arange(GRID) + 0.5) / GRID * 2 - 1
    axes = [c + steps * h / s for c, h, s in zip(centre, half_extent_mm, spacing_mm, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"))
    coarse = ndimage.map_coordinates(labels.astype(np.uint16), points, order=0, mode="constant", cval=0)
    grey = ndimage.map_coordinates(image.astype(np.float32), points, order=1, mode="nearest")
    return CoarseCase(coarse, grey)


def mirror_axes_of_labels(
    cases: Sequence[CoarseCase], names: Sequence[str], dimensions: int = 3, codes: Codes | None = None
) -> tuple[dict[str, str], ...]:
    """For each label: axis "0"/"1"/"2" -> the label that is its mirror image across that axis (its own name:
    symmetric).

    ``codes`` tells labels that overlap; None: none do.
    """

    def masks(index: int) -> list[np.ndarray]:
        return [case.labels == index + 1 if codes is None else codes.mask(case.labels, index) for case in cases]

    found: list[dict[str, str]] = [{} for _ in names]
    if cases:
        for axis in range(dimensions):
            if not _is_symmetric([case.image - case.image.mean() for case in cases], axis):
                continue
            for index, name in enumerate(names):
                if _is_symmetric([mask.astype(np.float32) for mask in masks(index)], axis):
                    found[index][str(axis)] = name
        maps = [np.mean(masks(index), axis=0) for index in range(len(names))]
        for first in range(len(names)):
            for second in range(first):
                twin_axis = _twin_axis(maps[first], maps[second], dimensions)
                if twin_axis is not None:
                    found[first].setdefault(str(twin_axis), names[second])
                    found[second].setdefault(str(twin_axis), names[first])
    for name, other in twins_by_name(names).items():
        found[names.index(name)][X_AXIS] = other
    return tuple(found)


def names_a_side(name: str) -> bool:
    """Whether a label's name has the word left, right, l or r (words end at spaces, punctuation, and lower-to-upper
    case).
    """
    return any(word in ("left", "right", "l", "r") for word in _words(name))


def twins_by_name(names: Sequence[str]) -> Mapping[str, str]:
    """Labels whose names differ only by left/right, l/r as a word, or l/r as the first letter of an abbreviation (LV,
    RV).
    """
    keys = {tuple(_words(name)): name for name in names}
    plain = {name.lower(): name for name in names}
    twins: dict[str, str] = {}
    for words, name in keys.items():
        other = keys.get(tuple(_SWAP.get(word, word) for word in words))
        if (other is None or other == name) and name.isupper() and 1 < len(name) <= 4 and name[0] in "LR":
            other = plain.get((_SWAP[name[0].lower()] + name[1:]).lower())
        if other is not None and other != name:
            twins[name] = other
    return twins


_SWAP = {"left": "right", "right": "left", "l": "r", "r": "l"}


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()) if word]


def _is_symmetric(values: Sequence[np.ndarray], axis: int) -> bool:
    """Whether reflection across ``axis`` leaves the arrays (N, N, N), or their population, as they are; no signal:
    True.
    """
    odd = [(value - np.flip(value, axis)) / 2 for value in values]
    energy = float(np.mean([np.square(value, dtype=np.float64).sum() for value in values]))
    odd_energy = float(np.mean([np.square(value, dtype=np.float64).sum() for value in odd]))
    if odd_energy <= LARGEST_SELF_ASYMMETRY * energy:
        return True
    evidence = len(values) * float(np.square(np.mean(odd, axis=0, dtype=np.float64)).sum()) / odd_energy
    return len(values) >= FEWEST_CASES and evidence <= LARGEST_EVIDENCE


def _twin_axis(first: np.ndarray, second: np.ndarray, dimensions: int) -> int | None:
    """The axis across which the mean maps (N, N, N) of two labels are mirror images of each other, if any."""
    volumes = first.sum(), second.sum()
    if min(volumes) <= 0 or max(volumes) > TWIN_VOLUME_RATIO * min(volumes):
        return None
    offset = np.subtract(ndimage.center_of_mass(first), ndimage.center_of_mass(second))[:dimensions]
    axis = int(np.argmax(np.abs(offset)))
    if abs(offset[axis]) <= max(1.0, TWIN_DIRECTION * float(np.linalg.norm(offset))):
        return None
    a, b = _centred(first), np.flip(_centred(second), axis)
    overlap = 2 * np.minimum(a, b).sum() / (a.sum() + b.sum())
    return axis if overlap >= TWIN_OVERLAP else None


def _centred(occupancy: np.ndarray) -> np.ndarray:
    middle = (np.array(occupancy.shape) - 1) / 2
    return ndimage.shift(occupancy.astype(np.float64), middle - ndimage.center_of_mass(occupancy), order=1)
