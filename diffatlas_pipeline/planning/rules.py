"""Planning rules that the fingerprint needs too: spacing, normalisation, truncation distance. Each returns its
reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from diffatlas_pipeline.planning.fingerprint import CaseShape, IntensityStatistics, LabelStatistics
from diffatlas_pipeline.planning.plan import ChannelPlan, DistancePlan
from diffatlas_pipeline.volumes.grids import Triple, TripleMm
from diffatlas_pipeline.volumes.resample import resampled_shape

ANISOTROPY = 3.0  # an axis this much coarser and this much shorter than the others is strongly anisotropic
LOWER_PERCENTILE, UPPER_PERCENTILE = 0.5, 99.5
FEWEST_TAU_VOXELS = 3


def rounded(value: float, decimals: int) -> float:
    """``value`` with so many decimals, or so many significant digits where it is below 1: no length becomes 0."""
    smaller = 0 if not 0 < value < 1 else -math.floor(math.log10(value)) - 1
    return round(value, decimals + smaller)


def plan_spacing(cases: Sequence[CaseShape], dimensions: int = 3) -> tuple[TripleMm, str]:
    """Planned spacing in mm: the median, but the lowest decile on a strongly anisotropic axis (nnU-Net's rule)."""
    spacings = np.array([case.spacing_mm for case in cases])
    target = np.median(spacings, axis=0)
    why = f"median over {len(cases)} cases"
    if dimensions == 3:
        shape = np.median(np.array([case.cropped_shape for case in cases]), axis=0)
        coarse = int(np.argmax(target))
        others = [axis for axis in range(3) if axis != coarse]
        if target[coarse] > ANISOTROPY * target[others].max() and shape[coarse] * ANISOTROPY < shape[others].min():
            target[coarse] = max(float(np.percentile(spacings[:, coarse], 10)), float(target[others].max()))
            why += (
                f"; axis {'XYZ'[coarse]} is over {ANISOTROPY:g} times coarser and shorter than the others, so it takes the "
                "lowest decile of its spacings, lest thin slices are thrown away"
            )
    x, y, z = (rounded(float(value), 5) for value in target)
    return (x, y, z), why


def in_plane_axes(spacing_mm: TripleMm, dimensions: int = 3) -> tuple[int, ...]:
    """Axes that are not strongly coarser than the finest one (X and Y of two-dimensional data)."""
    axes = range(dimensions)
    finest = min(spacing_mm[axis] for axis in axes)
    return tuple(axis for axis in axes if spacing_mm[axis] <= ANISOTROPY * finest)


def plan_channels(names: Sequence[str], intensities: Sequence[IntensityStatistics]) -> tuple[tuple[ChannelPlan, ...], str]:
    """Normalisation of each channel: 'CT' by the data set's foreground percentiles, anything else by each image's own.

    Names that stand for a normalisation in nnU-Net are followed as far as intensities in [-1, 1] allow.
    """
    channels, reasons = [], []
    for name, statistics in zip(names, intensities, strict=True):
        lower, upper = round(statistics.percentile_00_5, 4), round(statistics.percentile_99_5, 4)
        lowest, highest = statistics.lowest, statistics.highest
        if name.lower() == "ct" and lower < upper:
            channels.append(ChannelPlan(name, "ct", lower, upper))
            reasons.append(f"{name}: calibrated intensities, so the data set's foreground 0.5 to 99.5 percentiles")
        elif name.lower() == "nonorm" and lowest is not None and highest is not None and lowest < highest:
            channels.append(ChannelPlan(name, "fixed", lowest, highest))
            reasons.append(f"{name}: by its name not to be normalised, so only the data set's own range becomes -1 to 1")
        elif name.lower() == "rgb_to_0_1":
            channels.append(ChannelPlan(name, "fixed", 0.0, 255.0))
            reasons.append(f"{name}: by its name a colour of 8 bits, so 0 to 255 become -1 to 1")
        elif name.lower() in ("rescale_to_0_1", "rescale_0_1"):
            channels.append(ChannelPlan(name, "percentile", 0.0, 100.0))
            reasons.append(f"{name}: by its name to be rescaled, so each image's own range becomes -1 to 1")
        else:
            channels.append(ChannelPlan(name, "percentile", LOWER_PERCENTILE, UPPER_PERCENTILE))
            reasons.append(f"{name}: uncalibrated intensities, so each image's own 0.5 to 99.5 percentiles")
    return tuple(channels), "; ".join(reasons)


def plan_distance(labels: Sequence[LabelStatistics], spacing_mm: TripleMm, dimensions: int = 3) -> tuple[DistancePlan, str]:
    """Truncation distance tau: the median inscribed radius of the labels, at least three voxels (coarsest in-plane
    axis).
    """
    radii = [label.inscribed_radius_mm for label in labels if label.cases]
    radius = float(np.median(radii)) if radii else 0.0
    voxel = max(spacing_mm[axis] for axis in in_plane_axes(spacing_mm, dimensions))
    least = FEWEST_TAU_VOXELS * voxel
    tau = rounded(max(radius, least), 2)
    rule = (
        f"{FEWEST_TAU_VOXELS} voxels of {voxel:g} mm at least"
        if radius < least
        else "so that the whole inside of a typical label varies"
    )
    return DistancePlan(tau, 1.0), f"median inscribed radius of the labels is {radius:.1f} mm; {rule}"


def median_shape(cases: Sequence[CaseShape], spacing_mm: TripleMm) -> Triple:
    """Shape of the median cropped case at ``spacing_mm``, rounded up."""
    x, y, z = (int(n) for n in np.ceil(np.median([planned_shape(case, spacing_mm) for case in cases], axis=0)))
    return x, y, z


def planned_shape(case: CaseShape, spacing_mm: TripleMm) -> Triple:
    """Shape of a cropped case once resampled to ``spacing_mm``."""
    return resampled_shape(case.cropped_shape, case.spacing_mm, spacing_mm)
