"""Grids with axes that are not perpendicular are brought to perpendicular ones and back."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.upright import on_grid, to_upright, upright_grid
from tests.volumes.examples import oblique_affine

TILT = 2 * math.tan(math.radians(30))


def tilted(oblique: bool = False) -> Grid:
    """Slices of 2 mm that are each shifted along y, as by a gantry tilted by 30 degrees."""
    affine = oblique_affine((1.0, 1.0, 2.0)) if oblique else np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:3, 2] += affine[:3, 1] * TILT
    return Grid.of((32, 30, 16), affine)


def world(grid: Grid) -> np.ndarray:
    """The position of every voxel (X, Y, Z, 3) in mm."""
    return np.moveaxis(np.indices(grid.shape), 0, -1) @ grid.matrix[:3, :3].T + grid.matrix[:3, 3]


def from_middle(grid: Grid, of: Grid) -> np.ndarray:
    """The distance of every voxel of ``grid`` from the middle of ``of``."""
    middle = of.matrix[:3, :3] @ ((np.asarray(of.shape) - 1) / 2) + of.matrix[:3, 3]
    return np.linalg.norm(world(grid) - middle, axis=-1)


@pytest.mark.parametrize("oblique", [False, True])
def test_the_upright_grid_has_perpendicular_axes_and_holds_all_of_the_other(oblique: bool) -> None:
    grid = tilted(oblique)
    found = upright_grid(grid)
    assert grid.is_sheared and not found.is_sheared
    assert found.spacing_mm == pytest.approx((1, 1, 2)), "the slices keep their distance"
    assert grid.voxel_mm3 == pytest.approx(2) and math.prod(grid.spacing_mm) > 2.2
    corners = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in grid.shape)))) @ grid.matrix[:3, :3].T
    there = (corners + grid.matrix[:3, 3] - found.matrix[:3, 3]) @ np.linalg.inv(found.matrix[:3, :3]).T
    assert (there >= -0.5 - 1e-6).all() and (there <= np.asarray(found.shape) - 0.5 + 1e-6).all()
    assert (there.max(axis=0) - there.min(axis=0) > np.asarray(found.shape) - 1.001).all(), "and no more"


@pytest.mark.parametrize("affine", [np.eye(4), oblique_affine()])
def test_a_usual_grid_is_left_as_it_is(affine: np.ndarray) -> None:
    grid = Grid.of((4, 5, 6), affine)
    array = np.random.default_rng(0).normal(size=(2, 4, 5, 6))
    assert upright_grid(grid) is grid and on_grid(array, grid, grid, 1, (0, 0)) is array


@pytest.mark.parametrize("oblique", [False, True])
def test_a_ball_stays_a_ball(oblique: bool) -> None:
    grid = tilted(oblique)
    ball = from_middle(grid, grid) < 9
    array, found = to_upright(ball[None].astype(np.int32), grid, is_label=True)
    expected = from_middle(found, grid) < 9
    agreement = 2 * np.count_nonzero((array[0] == 1) & expected) / (np.count_nonzero(array[0]) + np.count_nonzero(expected))
    assert agreement > 0.95
    assert np.count_nonzero(array) * found.voxel_mm3 == pytest.approx(4 / 3 * math.pi * 9**3, rel=0.05)


def test_there_and_back() -> None:
    grid = tilted()
    found = upright_grid(grid)
    smooth = from_middle(grid, grid).astype(np.float32)[None]
    back = on_grid(on_grid(smooth, grid, found, 1, [50.0]), found, grid, 1, [50.0])
    inner = (slice(None), slice(2, -2), slice(2, -2), slice(1, -1))
    assert np.abs(back - smooth)[inner].max() < 0.6


def test_images_go_on_with_the_value_of_their_corners() -> None:
    image = np.full((1, 32, 30, 16), -1024.0, dtype=np.float32)
    image[:, 8:24, 8:22, 4:12] = 100
    array, _ = to_upright(image, tilted())
    assert array.min() == -1024 and array[0, 0, -1, 0] == -1024 and array.max() == pytest.approx(100)
