"""Spacing, normalisation and truncation distance, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from diffatlas_pipeline.datasets.checks import FIXED_BOUNDS
from diffatlas_pipeline.planning.fingerprint import CaseShape, IntensityStatistics, LabelStatistics
from diffatlas_pipeline.planning.rules import (
    in_plane_axes,
    plan_channels,
    plan_distance,
    plan_spacing,
    planned_shape,
    rounded,
)
from diffatlas_pipeline.volumes.grids import Triple, TripleMm


def cases(spacings_mm: Sequence[TripleMm], shape: Triple) -> list[CaseShape]:
    """Cases whose content is a third of the whole on each axis."""
    whole = (shape[0] * 3, shape[1] * 3, shape[2] * 3)
    return [CaseShape(f"case{i}", whole, spacing_mm, shape) for i, spacing_mm in enumerate(spacings_mm)]


def label(radius_mm: float, count: int = 5) -> LabelStatistics:
    return LabelStatistics("a", 1, count, 100.0, radius_mm, {})


def intensities(low: float, high: float) -> IntensityStatistics:
    return IntensityStatistics(40.0, 60.0, 45.0, -900.0, 1200.0, low, high)


@pytest.mark.parametrize(
    ("spacing_mm", "dimensions", "expected"),
    [
        ((1.0, 1.0, 3.0), 3, (0, 1, 2)),  # at most three times the finest
        ((1.0, 1.0, 3.1), 3, (0, 1)),
        ((4.0, 1.0, 2.0), 3, (1, 2)),
        ((1.0, 1.0, 0.1), 2, (0, 1)),  # Z of two-dimensional data does not count
    ],
)
def test_axes_within_the_plane(spacing_mm: TripleMm, dimensions: int, expected: tuple[int, ...]) -> None:
    assert in_plane_axes(spacing_mm, dimensions) == expected


ELEVEN = [(1.0, 0.5, 3.2 + 0.2 * index) for index in range(11)]  # median 4.2 mm, lowest decile 3.4 mm


@pytest.mark.parametrize(
    ("spacings_mm", "shape", "dimensions", "expected"),
    [
        (ELEVEN, (100, 100, 33), 3, (1.0, 0.5, 3.4)),
        (ELEVEN, (100, 100, 34), 3, (1.0, 0.5, 4.2)),  # not three times shorter
        (ELEVEN, (100, 100, 33), 2, (1.0, 0.5, 4.2)),
        ([(1.5, 0.5, z) for _, _, z in ELEVEN], (100, 100, 33), 3, (1.5, 0.5, 4.2)),  # not three times coarser than X
        ([(z, 1.0, 0.5) for _, _, z in ELEVEN], (33, 100, 100), 3, (3.4, 1.0, 0.5)),
        ([(1.0, 1.0, z) for z in (0.5, 0.5, 4.0, 4.0, 4.0)], (100, 100, 30), 3, (1.0, 1.0, 1.0)),  # no finer than the others
        ([(1 / 3, 1.0, 1.0), (1 / 3, 2.0, 1.0), (1 / 3, 9.0, 1.0)], (50, 50, 50), 3, (0.33333, 2.0, 1.0)),
    ],
)
def test_spacing_is_the_median_or_the_lowest_decile(
    spacings_mm: list[TripleMm], shape: Triple, dimensions: int, expected: TripleMm
) -> None:
    assert plan_spacing(cases(spacings_mm, shape), dimensions)[0] == pytest.approx(expected, abs=1e-9)


def test_each_channel_has_its_own_bounds() -> None:
    statistics = [intensities(-160.0, 240.0), intensities(-5.0, 5.0), intensities(-100.12346, 0.5)]
    channels, _ = plan_channels(["CT", "MRI", "ct"], statistics)
    assert [(one.name, one.scheme, one.lower, one.upper) for one in channels] == [
        ("CT", "ct", -160.0, 240.0),
        ("MRI", "percentile", 0.5, 99.5),
        ("ct", "ct", -100.1235, 0.5),
    ]


def test_a_ct_without_contrast_has_no_bounds_to_clip_to() -> None:
    (channel,), _ = plan_channels(["CT"], [intensities(7.0, 7.0)])
    assert (channel.scheme, channel.lower, channel.upper) == ("percentile", 0.5, 99.5)


@pytest.mark.parametrize(
    ("labels", "spacing_mm", "dimensions", "tau_mm"),
    [
        ([label(4.0), label(8.0), label(20.0)], (1.0, 1.0, 1.0), 3, 8.0),
        ([label(4.0), label(8.0), label(0.0, count=0)], (1.0, 1.0, 1.0), 3, 6.0),  # a label that no case has does not count
        ([label(4.0)], (0.5, 2.0, 1.0), 3, 4.0),  # Y is four times coarser than X: three voxels of Z
        ([label(2.5)], (0.5, 2.0, 1.0), 3, 3.0),
        ([label(1.0)], (0.5, 0.75, 4.0), 2, 2.25),
        ([label(0.0, count=0)], (1.0, 1.0, 1.0), 3, 3.0),
        ([label(5.0 / 3)], (0.1, 0.1, 0.1), 3, 1.67),
    ],
)
def test_tau_is_the_median_radius_or_three_voxels(
    labels: list[LabelStatistics], spacing_mm: TripleMm, dimensions: int, tau_mm: float
) -> None:
    distance, _ = plan_distance(labels, spacing_mm, dimensions)
    assert (distance.tau_mm, distance.scale) == (tau_mm, 1.0)


def test_the_planned_shape_is_that_of_the_content() -> None:
    (case,) = cases([(1.0, 2.0, 3.0)], (10, 20, 30))
    assert planned_shape(case, (2.0, 2.0, 1.5)) == (5, 20, 60)


@pytest.mark.parametrize(
    ("value", "decimals", "expected"),
    [(4.0316, 2, 4.03), (0.35, 5, 0.35), (0.0003, 2, 0.0003), (0.00034567, 5, 0.00034567), (1.23456789, 5, 1.23457), (0, 2, 0)],
)
def test_rounding_keeps_what_is_small(value: float, decimals: int, expected: float) -> None:
    assert rounded(value, decimals) == pytest.approx(expected, rel=1e-9)


def test_tau_of_tiny_voxels_is_not_nothing() -> None:
    distance, _ = plan_distance([label(0.0009)], (0.0003, 0.0003, 0.0003), 3)
    assert distance.tau_mm == pytest.approx(0.0009)


def test_checks_know_which_channels_go_by_their_own_intensities() -> None:
    """What pads the others is taken for no intensity, and told."""
    names = [*FIXED_BOUNDS, "MRI", "PET", "zscore", "rescale_to_0_1"]
    statistics = IntensityStatistics(40.0, 60.0, 45.0, -900.0, 1200.0, -100.0, 300.0, -1000.0, 2000.0)
    channels, _ = plan_channels(names, [statistics] * len(names))
    assert [channel.name for channel in channels if channel.scheme != "percentile"] == [*FIXED_BOUNDS]
