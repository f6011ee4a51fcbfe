"""Maps and what they carry."""

import numpy as np
import pytest

from diffatlas_pipeline.registration.grids import factors, scale_to, shrink, shrunk_shape, to_grid
from diffatlas_pipeline.registration.warp import affine_coordinates, outside, voxel_grid, warp_distances, warp_image


def test_the_identity_changes_nothing() -> None:
    image = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    identity = np.concatenate([np.eye(3), np.zeros((3, 1))], axis=1)
    assert np.allclose(warp_image(image, affine_coordinates(identity, voxel_grid(image.shape))), image)


def test_a_map_says_where_in_the_atlas_a_voxel_lies() -> None:
    image = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((5, 3, 3), np.float32)
    shift = np.concatenate([np.eye(3), np.array([[1.5], [0], [0]])], axis=1)
    warped = warp_image(image, affine_coordinates(shift, voxel_grid(image.shape)))
    assert warped[:, 0, 0].tolist() == [1.5, 2.5, 3.5, 4, 4]


def test_outside_counts_from_the_outer_faces_and_not_along_a_single_slice() -> None:
    points = np.array([[-2.0, 0.0, 4.7], [-0.4, 0.0, 1.5], [7.0, 0.0, -3.0]], np.float32).reshape(3, 3, 1, 1)
    found = outside(points, (5, 2, 1))[:, :, 0, 0]
    assert np.allclose(found, np.array([[1.5, 0.0, 0.2], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), atol=1e-6)


def test_a_structure_cut_off_by_the_border_of_the_atlas_does_not_go_on_for_ever() -> None:
    inside = np.full((1, 4, 3, 3), -0.5, np.float32)  # tau 2 mm: 1 mm deep
    far = voxel_grid((8, 3, 3))
    warped = warp_distances(inside, far, (2.0, 1.0, 1.0), tau_mm=2.0)[0, :, 1, 1]
    # voxels of 2 mm: the atlas ends at 3.5, so voxel 4 lies 1 mm beyond it, voxel 5 3 mm
    assert np.allclose(warped, [-0.5, -0.5, -0.5, -0.5, 0.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("shape", [(16, 12, 8), (16, 12, 1)])
def test_a_coarser_grid_covers_the_same_volume(shape: tuple[int, int, int]) -> None:
    by = factors(shape, (1.0, 1.0, 1.0), 2)
    coarse = shrunk_shape(shape, by)
    assert coarse == (8, 6, max(1, shape[2] // 2))
    ramp = voxel_grid(shape)
    onto = to_grid(ramp, coarse)
    expected = voxel_grid(coarse) * scale_to(shape, coarse) + (scale_to(shape, coarse) - 1) / 2
    assert np.allclose(onto, expected, atol=1e-5)
    assert shrink(ramp[0], by).shape == coarse


def test_a_coarse_axis_waits_for_the_others() -> None:
    assert factors((64, 64, 8), (0.5, 0.5, 2.0), 2) == (2.0, 2.0, 1.0)
    assert factors((64, 64, 8), (0.5, 0.5, 2.0), 8) == (8.0, 8.0, 2.0)
