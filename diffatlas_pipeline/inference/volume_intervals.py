"""How large a structure is, and how sure that is: intervals of its volume, by the errors of held-out cases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # quantiles of Student's t; scipy.stats takes half a second to import

from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.size_unit import AREA

COVERAGES = (0.5, 0.9)  # of the intervals that are written
FEWEST = 4  # cases, below which an interval would be a guess
MOST = 50.0  # of a logarithm: no label is so far off


@dataclass(frozen=True)
class VolumeErrors:
    """Of ``cases`` held out of a model's training: logarithms of true volume over volume found, one row a case and one
    column a label; None where the label is absent or was not found.
    """

    cases: tuple[str, ...]
    log_ratios: tuple[tuple[float | None, ...], ...]
    version: int = 1

    def __post_init__(self) -> None:
        numbers = [number for row in self.log_ratios for number in row if number is not None]
        if len(self.cases) != len(self.log_ratios) or len({len(row) for row in self.log_ratios}) > 1:
            raise ValueError("volumes: expected a row for each case, and as many labels in each")
        if any(not abs(number) <= MOST for number in numbers):
            raise ValueError(f"volumes: expected logarithms of ratios, from -{MOST:g} to {MOST:g}")

    @staticmethod
    def of(volumes: Mapping[str, Sequence[tuple[float, float]]]) -> VolumeErrors:
        """By case, the pairs (true volume, volume found) of each label, in any unit."""
        rows = (
            tuple(math.log(true / found) if true > 0 and found > 0 else None for true, found in pairs)
            for pairs in volumes.values()
        )
        return VolumeErrors(tuple(volumes), tuple(rows))

    @staticmethod
    def joined(parts: Iterable[VolumeErrors]) -> VolumeErrors:
        """Those of several folds together: each one's held-out cases are as new to it as a scan."""
        found = tuple(parts)
        return VolumeErrors(
            tuple(case for part in found for case in part.cases), tuple(row for part in found for row in part.log_ratios)
        )

    def interval(self, label: int, volume: float, coverage: float) -> tuple[float, float] | None:
        """Where the true volume of label number ``label`` (from 0) lies with probability ``coverage`` if ``volume`` was
        found, in the same unit.

        The logarithms of the known cases are taken as n normal values, a scan's as one more: mean ± t s sqrt(1 + 1 / n)
        with Student's t of n - 1 degrees of freedom. None for a label that was not found, or of too few cases.
        """
        known = np.array([row[label] for row in self.log_ratios if row[label] is not None], dtype=float)
        if len(known) < FEWEST or volume <= 0:
            return None
        half = float(stdtrit(len(known) - 1, (1 + coverage) / 2)) * float(known.std(ddof=1)) * math.sqrt(1 + 1 / len(known))
        middle = float(known.mean())
        return volume * math.exp(middle - half), volume * math.exp(middle + half)


@dataclass(frozen=True)
class VolumeEstimate:
    """The volume found of one label, and by coverage, as "90%", the interval in which the true one lies; empty where
    nothing is known of that.
    """

    volume_ml: float
    intervals_ml: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class AreaEstimate:
    """:class:`VolumeEstimate` of a label in a two-dimensional image."""

    area_mm2: float
    intervals_mm2: dict[str, tuple[float, float]]


def volumes_ml(labels: np.ndarray, classes: Sequence[LabelClass], grid: Grid) -> dict[str, float]:
    """Millilitres of each of ``classes`` in ``labels`` (X, Y, Z) on ``grid``, by name."""
    voxel_ml = grid.voxel_mm3 / 1000
    return {one.name: float(np.count_nonzero(one.mask(labels)) * voxel_ml) for one in classes}


def estimates(
    found_ml: Mapping[str, float], errors: VolumeErrors | None, flat: bool = False
) -> dict[str, VolumeEstimate | AreaEstimate]:
    """The volumes ``found_ml`` of all labels, in the data set's order, with their intervals by ``errors``; areas where
    the image is ``flat``.
    """
    estimated: dict[str, VolumeEstimate | AreaEstimate] = {}
    for index, (name, volume) in enumerate(found_ml.items()):
        known = {} if errors is None else {f"{one:.0%}": errors.interval(index, volume, one) for one in COVERAGES}
        bounds = {coverage: found for coverage, found in known.items() if found is not None}
        if flat:
            in_mm2 = {coverage: (low * AREA.per_ml, high * AREA.per_ml) for coverage, (low, high) in bounds.items()}
            estimated[name] = AreaEstimate(volume * AREA.per_ml, in_mm2)
        else:
            estimated[name] = VolumeEstimate(volume, bounds)
    return estimated
