"""Two populations of labelled images, side by side: volumes, surfaces, intensities and power spectra of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffatlas_pipeline.datasets.codes import codes_of
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.evaluation.metrics import surface_mm2, volume_mm3
from diffatlas_pipeline.planning.spectrum import RadialPower, no_power, power_spectrum, radial_power
from diffatlas_pipeline.volumes.grids import TripleMm
from diffatlas_pipeline.volumes.size_unit import size_unit

BINS = 40  # of a histogram of intensities
EDGES = np.linspace(-1, 1, BINS + 1)
BACKGROUND = "background"


@dataclass(frozen=True)
class LabelledImage:
    """``image`` (C, x, y, z) in [-1, 1] and ``labels`` (x, y, z) as :meth:`Codes.number` has them: the number of a
    label from 1 on, 0 for background.
    """

    case: str
    image: np.ndarray
    labels: np.ndarray


@dataclass
class Population:
    """What is measured of many labelled images on one planned grid, one after the other.

    ``sizes`` and ``surfaces`` hold a number per label and case: volume in ml and surface in cm²; of images of two
    ``dimensions`` area in mm² and length of the contour in mm. ``intensities`` (C, K + 1, BINS) counts voxels of the
    background and of each label; ``power`` is one sum per channel.
    """

    labels: Sequence[LabelClass]
    channels: Sequence[str]
    spacing_mm: TripleMm
    dimensions: int = 3
    cases: list[str] = field(default_factory=list)
    sizes: list[list[float]] = field(default_factory=list)
    surfaces: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._codes = codes_of(self.labels)
        self.intensities = np.zeros((len(self.channels), len(self.labels) + 1, BINS))
        self.power: list[RadialPower] = [no_power() for _ in self.channels]

    def add(self, one: LabelledImage) -> None:
        """Measure one more."""
        masks = [one.labels == 0, *(self._codes.mask(one.labels, number) for number in range(len(self.labels)))]
        self.cases.append(one.case)
        per_ml, per_cm2 = size_unit(self.dimensions).per_ml, 100 if self.dimensions == 3 else 1
        self.sizes.append([volume_mm3(mask, self.spacing_mm) / 1000 * per_ml for mask in masks[1:]])
        self.surfaces.append([surface_mm2(mask, self.spacing_mm) / per_cm2 if mask.any() else 0.0 for mask in masks[1:]])
        for c, channel in enumerate(one.image):
            self.power[c] += radial_power(channel)
            for number, mask in enumerate(masks):
                self.intensities[c, number] += np.histogram(np.clip(channel[mask], -1, 1), EDGES)[0]


def compared(generated: Population, real: Population) -> dict[str, Any]:
    """Plain data that set the two side by side, for a JSON file and a page."""
    names = [label.name for label in real.labels]
    size, surface = ("volume_ml", "surface_cm2") if real.dimensions == 3 else ("area_mm2", "contour_mm")
    return {
        "generated_cases": len(generated.cases),
        "real_cases": len(real.cases),
        size: _per_label(names, generated.sizes, real.sizes),
        surface: _per_label(names, generated.surfaces, real.surfaces),
        "intensities": {
            channel: {
                name: _histograms(generated.intensities[c, number], real.intensities[c, number])
                for number, name in enumerate([BACKGROUND, *names])
            }
            for c, channel in enumerate(real.channels)
        },
        "power": {channel: _spectra(generated.power[c], real.power[c]) for c, channel in enumerate(real.channels)},
    }


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of two histograms of intensities (BINS,): by how much, on average, one has to be moved to be the other.

    In units of intensity, of which black to white are 2 (the area between the two cumulative histograms). NaN if one is
    empty.
    """
    if not a.sum() or not b.sum():
        return math.nan
    return float(np.abs(np.cumsum(a / a.sum()) - np.cumsum(b / b.sum())).sum() * (EDGES[1] - EDGES[0]))


def _per_label(names: Sequence[str], generated: list[list[float]], real: list[list[float]]) -> dict[str, Any]:
    made, found = (np.asarray(values).reshape(-1, len(names)) for values in (generated, real))
    return {name: {"generated": _spread(made[:, k]), "real": _spread(found[:, k])} for k, name in enumerate(names)}


def _spread(values: np.ndarray) -> dict[str, Any]:
    """Over the cases that have the label; ``missing`` are without. ``values`` are those of all cases."""
    there = values[values > 0]
    numbers = {"mean": there.mean(), "std": there.std(), "min": there.min(), "max": there.max()} if len(there) else {}
    shown = {name: round(float(value), 4) for name, value in numbers.items()}
    return {**shown, "missing": int(len(values) - len(there)), "values": [round(float(value), 4) for value in values]}


def _histograms(generated: np.ndarray, real: np.ndarray) -> dict[str, Any]:
    shares = {
        name: [round(float(share), 6) for share in counts / max(1.0, counts.sum())]
        for name, counts in (("generated", generated), ("real", real))
    }
    distance = wasserstein(generated, real)
    return {"edges": [round(float(edge), 4) for edge in EDGES], **shares, "distance": _plain(distance)}


def _spectra(generated: RadialPower, real: RadialPower) -> dict[str, Any]:
    """Mean power of a coefficient by wave number in cycles per voxel."""
    found = {name: power_spectrum([power]) for name, power in (("generated", generated), ("real", real))}
    return {name: {"frequency": one.frequency, "power": one.power} for name, one in found.items()}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
