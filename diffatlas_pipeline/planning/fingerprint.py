"""The fingerprint: everything that the planner may know of a data set."""

from __future__ import annotations

from dataclasses import dataclass

from diffatlas_pipeline.datasets.description import DatasetDescription
from diffatlas_pipeline.volumes.grids import Triple, TripleMm

FINGERPRINT_VERSION = 1


@dataclass(frozen=True)
class IntensityStatistics:
    """Intensities of one channel over the labelled foreground of the whole data set; ``lowest`` and ``highest`` over
    all of its voxels, None in fingerprints of earlier releases.
    """

    mean: float
    std: float
    median: float
    minimum: float
    maximum: float
    percentile_00_5: float
    percentile_99_5: float
    lowest: float | None = None
    highest: float | None = None


@dataclass(frozen=True)
class PowerSpectrum:
    """Radially averaged power per wave number.

    ``frequency`` in cycles/voxel at the median spacing (bin centres), ``power`` the mean power of one coefficient of
    the normalised quantity, scaled so that sum(power * weight) is its variance; ``weight`` the share of coefficients in
    the bin (sums to 1).
    """

    frequency: tuple[float, ...]
    power: tuple[float, ...]
    weight: tuple[float, ...]


@dataclass(frozen=True)
class LabelStatistics:
    """One foreground label over the data set."""

    name: str
    value: int
    cases: int
    median_volume_mm3: float
    inscribed_radius_mm: float  # median over cases of the largest inside distance
    mirror_twin_axis: dict[str, str]  # axis "0"/"1"/"2" -> the label that is its mirror image across it (own name: symmetric)


@dataclass(frozen=True)
class CaseShape:
    """Geometry of one training case after orientation and crop to content."""

    case: str
    shape: Triple
    spacing_mm: TripleMm
    cropped_shape: Triple


@dataclass(frozen=True)
class Fingerprint:
    """Everything the planner may know of a data set."""

    description: DatasetDescription
    cases: tuple[CaseShape, ...]
    intensities: tuple[IntensityStatistics, ...]  # per channel
    labels: tuple[LabelStatistics, ...]
    image_spectrum: PowerSpectrum
    distance_spectrum: PowerSpectrum
    dimensions: int = 3
    version: int = FINGERPRINT_VERSION
