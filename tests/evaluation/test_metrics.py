from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffatlas_pipeline.evaluation.metrics import dice, hd95_mm, nsd, score, surface_distances, volume_mm3
from diffatlas_pipeline.volumes.grids import Grid


def ellipsoid(shape: tuple[int, int, int], centre: tuple, radii: tuple) -> np.ndarray:
    grid = np.indices(shape).astype(float)
    return sum(((grid[axis] - centre[axis]) / radii[axis]) ** 2 for axis in range(3)) <= 1  # type: ignore[return-value]


def noise(seed: int, shape: tuple[int, int, int], share: float) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


# Reference numbers: monai.metrics.compute_surface_dice(use_subvoxels=True, include_background=True), MONAI 1.6.
@pytest.mark.parametrize(
    ("shape", "centre", "radii", "other_centre", "other_radii", "spacing_mm", "tolerance_mm", "expected"),
    [
        ((24, 20, 16), (11, 10, 8), (7, 5, 4), (12, 9.5, 8.5), (6, 6, 4.5), (1, 1, 1), 1.0, 0.8984957),
        ((24, 20, 16), (11, 10, 8), (7, 5, 4), (13, 9, 8), (6, 6, 3.5), (0.7, 0.7, 3.0), 2.0, 0.9615641),
        ((24, 20, 16), (3, 2, 2), (6, 5, 4), (5, 3, 2), (7, 5, 5), (1.3, 0.9, 0.6), 0.5, 0.5655518),  # cut by the border
        ((24, 20, 1), (11, 10, 0), (7, 5, 1), (12, 9, 0), (6, 6, 1), (0.7, 1.4, 5.0), 1.0, 0.6450806),  # one slice: flat
    ],
)
def test_nsd_equals_the_reference_implementation(
    shape: tuple,
    centre: tuple,
    radii: tuple,
    other_centre: tuple,
    other_radii: tuple,
    spacing_mm: tuple,
    tolerance_mm: float,
    expected: float,
) -> None:
    surfaces = surface_distances(ellipsoid(shape, centre, radii), ellipsoid(shape, other_centre, other_radii), spacing_mm)
    assert nsd(surfaces, tolerance_mm) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(("seed", "share", "expected"), [(1, 0.5, 0.9941494), (2, 0.2, 0.9425265)])
def test_nsd_equals_the_reference_implementation_on_every_neighbourhood(seed: int, share: float, expected: float) -> None:
    """Random voxels show (nearly) all of the 256 neighbour codes, the ambiguous ones too."""
    masks = noise(seed, (9, 8, 7), share), noise(seed + 10, (9, 8, 7), share)
    assert nsd(surface_distances(*masks, (1.5, 0.8, 2.5)), 1.0) == pytest.approx(expected, abs=2e-6)


def test_surface_area_of_a_cube_is_nearly_its_own() -> None:
    cube = np.zeros((30, 30, 30), dtype=bool)
    cube[5:25, 5:25, 5:25] = True
    area = surface_distances(cube, cube, (2.0, 1.0, 0.5)).areas_reference.sum()
    assert area == pytest.approx(2 * (40 * 20 + 40 * 10 + 20 * 10), rel=0.06)  # marching cubes cuts the edges


def grid(mask: np.ndarray, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Grid:
    return Grid.of(mask.shape, np.diag([*spacing_mm, 1.0]))


def test_shifted_cube_has_the_shift_as_distance() -> None:
    a = np.zeros((40, 20, 20), dtype=bool)
    b = a.copy()
    a[5:15, 5:15, 5:15] = True
    b[8:18, 5:15, 5:15] = True
    result = score(a, b, grid(a, (1.5, 1.0, 1.0)), tolerance_mm=1.0)
    assert result.hd95_mm == pytest.approx(4.5)
    assert result.dice == pytest.approx(0.7)
    assert result.volume_prediction_mm3 == pytest.approx(1500)
    assert 0 < result.nsd < 1


shapes = st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(1, 9))


@given(shapes, st.integers(0, 1000), st.floats(0.3, 3), st.floats(0, 3))
def test_metrics_are_symmetric_bounded_and_perfect_for_equal_masks(shape: tuple, seed: int, spacing: float, tol: float) -> None:
    a, b = noise(seed, shape, 0.4), noise(seed + 1, shape, 0.4)
    spacing_mm = (spacing, 1.0, 2 * spacing)
    forward, backward = score(a, b, grid(a, spacing_mm), tol), score(b, a, grid(a, spacing_mm), tol)
    if math.isnan(forward.dice):
        assert not a.any()
        assert not b.any()
        return
    assert forward.nsd == pytest.approx(backward.nsd)
    assert (forward.dice, forward.hd95_mm) == (backward.dice, backward.hd95_mm)
    assert 0 <= forward.nsd <= 1
    assert 0 <= forward.dice <= 1
    diagonal = math.hypot(*(n * s for n, s in zip(shape, spacing_mm, strict=True)))
    assert 0 <= forward.hd95_mm <= diagonal
    if a.any():
        same = score(a, a, grid(a, spacing_mm), tol)
        assert (same.dice, same.nsd, same.hd95_mm) == (1, 1, 0)


@given(shapes, st.integers(0, 100), st.floats(0, 2))
def test_nsd_grows_with_the_tolerance(shape: tuple, seed: int, tolerance: float) -> None:
    surfaces = surface_distances(noise(seed, shape, 0.3), noise(seed + 1, shape, 0.5), (1.0, 1.0, 1.0))
    if len(surfaces.areas_prediction) + len(surfaces.areas_reference):
        assert nsd(surfaces, tolerance) <= nsd(surfaces, tolerance + 0.7)


def test_empty_masks() -> None:
    empty, full = np.zeros((3, 4, 12), dtype=bool), np.zeros((3, 4, 12), dtype=bool)
    full[1, 1, 1] = True
    both = score(empty, empty, grid(empty), 1.0)
    assert math.isnan(both.dice)
    assert math.isnan(both.nsd)
    assert math.isnan(both.hd95_mm)
    for missed in (score(empty, full, grid(full), 100.0), score(full, empty, grid(full), 100.0)):
        assert (missed.dice, missed.nsd) == (0, 0)
        assert missed.hd95_mm == pytest.approx(13)


def test_one_slice_of_a_thick_volume_is_not_flat() -> None:
    """Only a volume that itself is one slice is measured in the plane."""
    thick = np.zeros((8, 8, 5), dtype=bool)
    thick[2:6, 2:6, 2] = True
    flat = thick[:, :, 2:3]
    assert surface_distances(thick, thick, (1.0, 1.0, 5.0)).areas_reference.sum() > 2 * 16
    assert surface_distances(flat, flat, (1.0, 1.0, 5.0)).areas_reference.sum() == pytest.approx(4 * 3 + 4 * math.sqrt(0.5))


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="boolean"):
        dice(np.zeros((2, 2, 2), dtype=bool), np.zeros((2, 2, 2), dtype=np.uint8))
    with pytest.raises(ValueError, match="shape"):
        surface_distances(np.zeros((2, 2, 2), dtype=bool), np.zeros((2, 2, 3), dtype=bool), (1.0, 1.0, 1.0))


def test_volume() -> None:
    assert volume_mm3(np.ones((2, 3, 4), dtype=bool), (0.5, 1.0, 2.0)) == pytest.approx(24)


def test_hd95_ignores_the_farthest_twentieth_of_the_area() -> None:
    a = np.zeros((60, 30, 30), dtype=bool)
    a[5:25, 5:25, 5:25] = True
    b = a.copy()
    b[50, 15, 15] = True  # a far speck of tiny area
    assert hd95_mm(surface_distances(a, b, (1.0, 1.0, 1.0))) == 0


def sheared(mask: np.ndarray, tilt: float) -> Grid:
    """Slices of 2 mm, each shifted by ``tilt`` along y."""
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = tilt
    return Grid.of(mask.shape, affine)


def test_on_a_sheared_grid_lengths_are_those_of_space() -> None:
    """A tilted gantry: the distance of two voxels, a volume, and a sphere's surface, whatever the shear."""
    one, two = np.zeros((32, 32, 24), dtype=bool), np.zeros((32, 32, 24), dtype=bool)
    one[16, 20, 10], two[16, 15, 14] = True, True
    tilted = sheared(one, 2 * math.tan(math.radians(30)))
    found = score(one, two, tilted, 1.0)
    away = tilted.matrix[:3, :3] @ np.array([0, -5, 4])
    assert found.hd95_mm == pytest.approx(float(np.linalg.norm(away)))
    assert found.volume_prediction_mm3 == pytest.approx(2)
    places = np.moveaxis(np.indices((40, 60, 24)), 0, -1)
    areas = []
    for tilt in (0.0, 0.7):
        space = sheared(np.zeros((40, 60, 24), dtype=bool), tilt)
        middle = space.matrix[:3, :3] @ np.array([19.5, 29.5, 11.5])
        ball = np.linalg.norm(places @ space.matrix[:3, :3].T - middle, axis=-1) < 12
        axes = space.matrix[:3, :3] if tilt else None
        areas.append(surface_distances(ball, ball, space.spacing_mm, axes).areas_reference.sum())
    assert areas[1] == pytest.approx(areas[0], rel=0.04), "staircases of another slope"


@given(shapes, st.integers(0, 50))
def test_the_sheared_way_without_shear_is_the_usual_one(shape: tuple, seed: int) -> None:
    a, b = noise(seed, shape, 0.4), noise(seed + 1, shape, 0.4)
    spacing_mm = (0.8, 1.0, 2.5)
    usual, other = (surface_distances(a, b, spacing_mm, axes) for axes in (None, np.diag(spacing_mm)))
    for name in ("to_reference_mm", "areas_prediction", "to_prediction_mm", "areas_reference"):
        np.testing.assert_allclose(getattr(other, name), getattr(usual, name), rtol=1e-5)


def test_what_is_not_known_counts_in_no_metric() -> None:
    prediction, reference, unknown = (np.zeros((20, 20, 12), dtype=bool) for _ in range(3))
    prediction[5:15, 5:15, 2:8], reference[5:15, 5:9, 2:8], unknown[:, :, 8:] = True, True, True
    grid = Grid.of((20, 20, 12), np.eye(4))
    alone = score(prediction, reference, grid, 1.0, unknown)
    prediction[3, 3, 10] = reference[2:18, 2:18, 9:] = True  # where nothing is known
    again = score(prediction, reference, grid, 1.0, unknown)
    assert again == alone and alone.dice == pytest.approx(2 * 40 / (100 + 40))
    assert alone.volume_prediction_mm3 == 600 and alone.volume_reference_mm3 == 240
    assert score(prediction, reference, grid, 1.0, np.zeros_like(unknown)) == score(prediction, reference, grid, 1.0)
    whole = score(prediction, reference, grid, 1.0, np.ones_like(unknown))
    assert np.isnan(whole.dice) and np.isnan(whole.nsd) and np.isnan(whole.hd95_mm)
