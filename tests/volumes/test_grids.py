"""Grids are compared in millimetres."""

import numpy as np
import pytest

from diffatlas_pipeline.volumes.grids import Grid, default_tolerance_mm, grid_difference


def grid(shape=(40, 50, 60), spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0)) -> Grid:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return Grid.of(shape, affine)


def test_same_grid_has_no_difference():
    assert grid_difference(grid(), grid()) is None


def test_rounded_header_is_tolerated():
    assert grid_difference(grid(spacing=(0.4882812, 0.4882812, 3.0)), grid(spacing=(0.48828, 0.48828, 3.0))) is None


def test_shape_is_named():
    text = grid_difference(grid(), grid((40, 50, 61)))
    assert text is not None and "40 x 50 x 60" in text and "40 x 50 x 61" in text


def test_shift_is_given_in_mm():
    text = grid_difference(grid(), grid(origin=(3.0, 4.0, 0.0)))
    assert text is not None and "up to 5 mm" in text and "origin" in text and "spacing" not in text


def test_wrong_spacing_is_measured_at_the_far_corner():
    text = grid_difference(grid(), grid(spacing=(1.0, 1.0, 1.1)))
    # centres coincide at voxel 0, so the outer corner at 59.5 moves by 5.95 mm
    assert text is not None and "up to 5.95 mm" in text and "spacing (1, 1, 1) and (1, 1, 1.1)" in text


def test_small_rotation_is_seen_at_the_corner_and_named():
    angle = np.deg2rad(2.0)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    text = grid_difference(grid(), Grid.of((40, 50, 60), rotation))
    assert text is not None and "2 degrees" in text


def test_flipped_axis_is_a_difference_even_if_the_field_of_view_is_the_same():
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    flipped[0, 3] = 39.0
    assert grid_difference(grid(), Grid.of((40, 50, 60), flipped)) is not None


def test_tolerance_can_be_chosen_and_scales_with_small_voxels():
    shifted = grid(origin=(0.5, 0.0, 0.0))
    assert grid_difference(grid(), shifted, tolerance_mm=0.6) is None
    assert grid_difference(grid(), shifted, tolerance_mm=0.4) is not None
    assert default_tolerance_mm(grid(spacing=(0.01, 0.01, 1.0))) == pytest.approx(0.001)


def test_nan_is_a_difference():
    broken = np.eye(4)
    broken[0, 0] = np.nan
    assert grid_difference(grid(), Grid.of((40, 50, 60), broken)) is not None
