"""Coarser voxels on a small budget."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffatlas_pipeline.planning.coarser import coarser_spacing
from diffatlas_pipeline.planning.fingerprint import CaseShape, LabelStatistics
from diffatlas_pipeline.planning.topology import PRESETS, network_for
from diffatlas_pipeline.volumes.grids import Triple, TripleMm
from diffatlas_pipeline.volumes.resample import resampled_shape

CPU = PRESETS["cpu"]


def cases(shape: Triple, spacing_mm: TripleMm) -> list[CaseShape]:
    return [CaseShape("a", shape, spacing_mm, shape)]


def label(name: str, radius_mm: float, count: int = 5) -> LabelStatistics:
    return LabelStatistics(name, 1, count, 100.0, radius_mm, {})


LABELS = [label("wall", 6.0), label("cavity", 20.0), label("never there", 0.1, count=0)]


@pytest.mark.parametrize(
    ("shape", "spacing_mm"), [((35, 51, 35), (1.0, 1.0, 1.0)), ((48, 48, 48), (3.5, 3.5, 3.5)), ((64, 64, 64), (0.5, 0.5, 0.5))]
)
def test_a_case_that_fits_keeps_its_spacing(shape: Triple, spacing_mm: TripleMm) -> None:
    assert coarser_spacing(CPU, cases(shape, spacing_mm), LABELS, spacing_mm) == (spacing_mm, "")


@pytest.mark.parametrize("preset", ["gpu8", "gpu24", "gpu80"])
def test_a_gpu_keeps_the_scans_spacing(preset: str) -> None:
    spacing_mm = (0.5, 0.5, 0.5)
    assert coarser_spacing(PRESETS[preset], cases((500, 500, 900), spacing_mm), LABELS, spacing_mm) == (spacing_mm, "")


def test_short_axis_slices_become_coarser_in_the_plane_alone() -> None:
    spacing_mm = (0.74, 0.74, 8.0)
    planned, why = coarser_spacing(CPU, cases((192, 182, 12), spacing_mm), LABELS, spacing_mm)
    assert planned[0] == planned[1] and 1.2 < planned[0] < 1.5 and planned[2] == 8.0
    assert "a whole case" in why and "wall" in why


def test_two_dimensional_images_leave_z_alone() -> None:
    spacing_mm = (0.5, 0.5, 0.01)
    planned, _ = coarser_spacing(CPU, cases((2000, 2000, 1), spacing_mm), LABELS, spacing_mm, dimensions=2)
    assert planned[0] == planned[1] == pytest.approx(2.0, abs=0.1) and planned[2] == 0.01


def test_without_labels_there_is_no_measure_of_what_may_be_lost() -> None:
    spacing_mm = (0.5, 0.5, 0.5)
    assert coarser_spacing(CPU, cases((500, 500, 900), spacing_mm), [], spacing_mm) == (spacing_mm, "")


@settings(max_examples=40)
@given(
    shape=st.tuples(*[st.integers(8, 500)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    radius=st.floats(0.5, 30),
)
def test_it_fits_or_is_as_coarse_as_allowed(shape: Triple, spacing: TripleMm, radius: float) -> None:
    planned, why = coarser_spacing(CPU, cases(shape, spacing), [label("a", radius)], spacing)
    assert all(new >= old - 1e-5 for new, old in zip(planned, spacing, strict=True))
    resampled = resampled_shape(shape, spacing, planned)
    blocks = math.prod(resampled) / math.prod(network_for(CPU, resampled, planned).strides[0])
    at_limit = min(planned) >= radius / 3 - 1e-4
    assert blocks <= 64**3 / 8 or at_limit
    if why:
        assert min(planned) <= radius / 3 + 1e-4
