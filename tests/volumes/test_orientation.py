"""All 48 axis orientations go to the canonical one and back without loss."""

import itertools

import nibabel as nib
import numpy as np
import pytest

from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.orientation import canonical_grid, from_canonical, to_canonical

SHAPE = (3, 4, 5)
ALL_48 = [(order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]


def oriented_grid(order, signs, oblique: bool = False, shape=SHAPE, dimensions: int = 3) -> Grid:
    """Voxel axis i runs along world axis order[i] in direction signs[i]."""
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for axis, (world, sign, spacing) in enumerate(zip(order, signs, (0.7, 1.1, 2.5), strict=True)):
        affine[world, axis] = sign * spacing
    if oblique:
        a, b = np.deg2rad(20.0), np.deg2rad(-13.0)
        about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        affine[:3, :3] = about_z @ about_x @ affine[:3, :3]
    affine[:3, 3] = (-17.0, 23.0, 5.0)
    return Grid.of(shape, affine, dimensions)


def world_positions(grid: Grid) -> np.ndarray:
    """World coordinates (3, X, Y, Z) of all voxel centres."""
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")).reshape(3, -1)
    return (grid.matrix[:3, :3] @ voxels + grid.matrix[:3, 3:]).reshape(3, *grid.shape)


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize(("order", "signs"), ALL_48)
def test_voxels_stay_where_they_are_in_space(order, signs, oblique):
    native = oriented_grid(order, signs, oblique)
    positions = world_positions(native)  # three channels that say where each voxel lies
    turned, canonical = to_canonical(positions, native)
    assert turned.shape[1:] == canonical.shape
    assert nib.aff2axcodes(canonical.matrix) == ("R", "A", "S")
    np.testing.assert_allclose(turned, world_positions(canonical), atol=1e-9)
    assert sorted(canonical.spacing_mm) == pytest.approx(sorted(native.spacing_mm))
    np.testing.assert_array_equal(from_canonical(turned, native), positions)


def test_canonical_stays_as_it_is():
    native = oriented_grid((0, 1, 2), (1, 1, 1), oblique=True)
    array = np.random.default_rng(0).normal(size=(2, *SHAPE))
    turned, canonical = to_canonical(array, native)
    np.testing.assert_array_equal(turned, array)
    assert canonical == native == canonical_grid(native)


@pytest.mark.parametrize(("order", "signs"), ALL_48)
def test_large_volume_copied_in_tiles_is_complete(order, signs):
    native = oriented_grid(order, signs, shape=(37, 3, 70))
    array = np.random.default_rng(0).normal(size=(2, 37, 3, 70)).astype(np.float32)
    turned, _ = to_canonical(np.asfortranarray(array), native)
    assert turned.flags.c_contiguous
    back = from_canonical(turned, native)
    np.testing.assert_array_equal(back, array)
    assert back.flags.c_contiguous


@pytest.mark.parametrize(("order", "signs"), ALL_48)
def test_slice_axis_of_a_flat_image_stays_last(order, signs):
    native = oriented_grid(order, signs, shape=(6, 7, 1), dimensions=2)
    positions = world_positions(native)
    turned, canonical = to_canonical(positions, native)
    assert canonical.shape[2] == 1 and canonical.dimensions == 2
    np.testing.assert_allclose(turned, world_positions(canonical), atol=1e-9)
    np.testing.assert_array_equal(from_canonical(turned, native), positions)


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="3, 4, 5"):
        to_canonical(np.zeros((1, 5, 4, 3)), oriented_grid((0, 1, 2), (1, 1, 1)))
