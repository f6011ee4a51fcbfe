"""Outlines hold the centres of exactly the pixels of their mask, with holes, islands in holes and touching corners."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import polygon2mask
from skimage.measure import points_in_poly

from diffatlas_pipeline.inference.contours import outlines

RING_WITH_ISLAND = np.array(
    [
        [1, 1, 1, 1, 1, 1, 1],
        [1, 0, 0, 0, 0, 0, 1],
        [1, 0, 1, 1, 0, 0, 1],
        [1, 0, 1, 1, 0, 1, 1],
        [1, 0, 0, 0, 0, 1, 1],
        [1, 1, 1, 1, 1, 1, 0],
    ],
    dtype=bool,
)


def rasterised(polygons: list[np.ndarray], shape: tuple[int, int], union: bool) -> np.ndarray:
    """The pixels whose centres are within polygons: in any of them, or in every other one."""
    points = np.argwhere(np.ones(shape, bool))
    count = sum(points_in_poly(points, polygon).astype(int) for polygon in polygons) if polygons else np.zeros(len(points))
    return (np.asarray(count) > 0 if union else np.asarray(count) % 2 == 1).reshape(shape)


@settings(max_examples=60)
@given(st.integers(0, 2**30), st.floats(0.1, 0.95))
def test_any_mask_comes_back(seed: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((9, 12)) < density
    for union in (True, False):
        np.testing.assert_array_equal(rasterised(outlines(mask), mask.shape, union), mask)


def test_a_hole_is_joined_to_its_outline_and_an_island_is_not() -> None:
    polygons = outlines(RING_WITH_ISLAND)
    assert len(polygons) == 2
    np.testing.assert_array_equal(polygon2mask(RING_WITH_ISLAND.shape, polygons[0]), rasterised(polygons[:1], (6, 7), True))
    assert not points_in_poly([[1, 1], [2, 2]], polygons[0]).any() and points_in_poly([[2, 2]], polygons[1]).all()


@pytest.mark.parametrize("shape", [(4, 5), (1, 1)])
def test_a_full_and_an_empty_plane(shape: tuple[int, int]) -> None:
    (polygon,) = outlines(np.ones(shape, bool))
    assert polygon.min() == -0.5 and len(polygon) == (4 if shape == (1, 1) else 8)
    assert outlines(np.zeros(shape, bool)) == []
