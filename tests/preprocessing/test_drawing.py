"""What a reader has drawn: on the planned grid, and kept in the result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.preprocessing.case import prepare_image
from diffatlas_pipeline.preprocessing.drawing import UNKNOWN, Drawing, prepare_drawing
from diffatlas_pipeline.preprocessing.spatial import SpatialRecord
from diffatlas_pipeline.volumes.grids import Grid, LabelVolume, Volume
from tests.inference.closed_form import affine
from tests.model_files import plan

SHAPE = (12, 14, 16)
RNG = np.random.default_rng(0)


def record(spacing_mm: tuple[float, float, float] = (1, 1, 1), grid: Grid | None = None) -> SpatialRecord:
    """How a scan of noise comes to voxels of ``spacing_mm``."""
    grid = grid or Grid.of(SHAPE, np.eye(4))
    image = RNG.normal(size=(1, *grid.shape)).astype(np.float32)
    return prepare_image(Volume(image, grid), replace(plan(), spacing_mm=spacing_mm))[1]


def drawn(array: np.ndarray, of: SpatialRecord) -> Drawing:
    return prepare_drawing(LabelVolume(array, of.native), of, plan())


def test_on_the_same_grid_it_is_what_was_drawn() -> None:
    array = RNG.choice([0, 2, 7, UNKNOWN], SHAPE)
    planned = drawn(array, record()).planned
    assert planned.shape == (2, *SHAPE) and planned.dtype == np.float32
    for channel, value in zip(planned, (2, 7), strict=True):
        np.testing.assert_array_equal(channel, np.select([array == UNKNOWN, array == value], [0, -1], 1))


def test_it_is_turned_as_the_scan_is() -> None:
    grid = Grid.of(SHAPE, affine((2, 0, 1), (1, -1, 1)))
    array = np.full(SHAPE, UNKNOWN)
    array[3], array[3, 5] = 0, 7
    planned = drawn(array, record(grid=grid)).planned[1]
    assert planned.shape == (14, 16, 12)
    assert np.count_nonzero(planned) == 14 * 16 and (planned[:, :, 3] != 0).all()
    assert (planned[14 - 1 - 5, :, 3] == -1).all()  # the second axis runs from right to left


@pytest.mark.parametrize("spacing", [1.3, 1.5, 2.0, 3.7])
def test_a_slice_is_never_lost_on_a_coarser_grid(spacing: float) -> None:
    of = record((1.0, 1.0, spacing))
    for index in range(SHAPE[2]):
        array = np.full(SHAPE, UNKNOWN)
        array[:, :, index] = 2
        known = drawn(array, of).planned[0] == -1
        where = np.flatnonzero(known.any(axis=(0, 1)))
        thickness = SHAPE[2] / of.planned_shape[2]
        assert 1 <= len(where) <= 2 and known[:, :, where].all()
        assert (np.abs((where + 0.5) * thickness - (index + 0.5)) <= (thickness + 1) / 2).all()  # it holds a part of it


def test_on_a_finer_grid_nothing_is_known_beyond_half_a_voxel() -> None:
    of = record((1.0, 1.0, 0.25))
    array = np.full(SHAPE, UNKNOWN)
    array[:, :, 5] = 7
    known = (drawn(array, of).planned[1] == -1).all(axis=(0, 1))
    np.testing.assert_array_equal(np.flatnonzero(known), [20, 21, 22, 23])


def test_what_was_drawn_is_kept_and_the_maps_agree_with_it() -> None:
    array = RNG.choice([0, 2, 7, UNKNOWN], SHAPE)
    labels = RNG.choice([0, 2, 7], SHAPE).astype(np.int32)
    distances = RNG.choice([-1.0, 0.0, 1.0], (2, *SHAPE)).astype(np.float32)
    uncertainty = np.ones(SHAPE, dtype=np.float32)
    before, known = labels.copy(), array != UNKNOWN
    drawn(array, record()).keep_in(labels, distances, uncertainty)
    np.testing.assert_array_equal(labels, np.where(known, array, before))
    for one, value in zip(distances, (2, 7), strict=True):
        np.testing.assert_array_equal((one < 0)[known], (array == value)[known])
    np.testing.assert_array_equal(uncertainty, np.where(known, 0, 1))


@pytest.mark.parametrize(
    ("array", "grid", "expected"),
    [
        (np.full(SHAPE, 3), None, "holds 3, which is no label. Allowed are 0 .background., 2, 7, and 255"),
        (np.full(SHAPE, UNKNOWN), None, "every voxel is 255"),
        (np.zeros((12, 14, 15), int), Grid.of((12, 14, 15), np.eye(4)), "shapes differ"),
        (np.zeros(SHAPE, int), Grid.of(SHAPE, np.diag([1, 1, 1.1, 1])), "does not lie on the scan's grid.*spacing"),
    ],
)
def test_what_cannot_be_used_is_refused(array: np.ndarray, grid: Grid | None, expected: str) -> None:
    of = record()
    with pytest.raises(UserError, match=expected):
        prepare_drawing(LabelVolume(array, grid or of.native, "drawing.nii.gz"), of, plan())


def test_a_complete_drawing_is_told_apart() -> None:
    array = np.zeros(SHAPE, int)
    assert drawn(array, record()).is_complete
    array[0, 0, 0] = UNKNOWN
    assert not drawn(array, record()).is_complete
