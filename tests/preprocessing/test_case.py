from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff

from diffatlas_pipeline.datasets.description import DatasetDescription, LabelClass
from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.planning.plan import ChannelPlan, DistancePlan
from diffatlas_pipeline.preprocessing.case import (
    prepare_image,
    prepare_labels,
    restore_distances,
    restore_image,
    restore_labels,
)
from diffatlas_pipeline.preprocessing.distance_maps import STORED_LIMIT, decode_labels, encode_labels
from diffatlas_pipeline.preprocessing.spatial import SpatialRecord
from diffatlas_pipeline.volumes.grids import Grid, LabelVolume, TripleMm, Volume
from diffatlas_pipeline.volumes.io import read_labels, read_volume
from diffatlas_pipeline.volumes.resample import resample
from tests.factories import dice, make_case, make_grid, make_plan

ORIENTATIONS = [
    np.array([[axis, sign] for axis, sign in zip(order, signs, strict=True)])
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def turned(volume: Volume, labels: LabelVolume, orientation: np.ndarray) -> tuple[Volume, LabelVolume]:
    """The same anatomy in another axis order and direction."""
    shape = labels.array.shape
    array = apply_orientation(labels.array, orientation)
    grid = Grid.of(array.shape, labels.grid.matrix @ inv_ornt_aff(orientation, shape))
    image = apply_orientation(volume.array[0], orientation)[None]
    return Volume(np.ascontiguousarray(image), grid), LabelVolume(np.ascontiguousarray(array), grid)


def round_trip(volume: Volume, labels: LabelVolume, spacing_mm: TripleMm) -> np.ndarray:
    plan = make_plan(spacing_mm=spacing_mm)
    _, record = prepare_image(volume, plan)
    stored = prepare_labels(labels, record, plan).astype(np.float16)
    return restore_labels(stored, record, plan)


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda o: "".join(f"{int(a * s):+d}" for a, s in o + [[1, 0]] * 3))
def test_every_orientation_returns_to_itself(orientation: np.ndarray) -> None:
    original, original_labels = make_case((17, 22, 15))
    volume, labels = turned(original, original_labels, orientation)
    np.testing.assert_array_equal(round_trip(volume, labels, (1.0, 1.0, 1.0)), labels.array)
    image, record = prepare_image(volume, make_plan())
    expected, _ = prepare_image(original, make_plan())
    np.testing.assert_allclose(image, expected, atol=1e-6)  # the network sees one orientation only
    assert record.native == volume.grid


@pytest.mark.parametrize(
    ("native", "planned", "at_least"),
    [
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), 1.0),
        ((1.0, 1.0, 1.0), (0.7, 0.7, 0.7), 0.995),
        ((1.0, 1.0, 1.0), (1.1, 1.1, 1.1), 0.995),
        ((1.0, 1.0, 1.0), (1.5, 1.5, 1.5), 0.975),
        ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0), 0.955),
        ((0.8, 0.8, 4.0), (0.8, 0.8, 4.0), 1.0),
        ((0.8, 0.8, 4.0), (1.0, 1.0, 4.0), 0.98),
        ((0.8, 0.8, 4.0), (1.0, 1.0, 2.0), 0.99),
    ],
)
def test_labels_return_to_the_native_grid(native: TripleMm, planned: TripleMm, at_least: float) -> None:
    volume, labels = make_case((36, 50, 18), native)
    result = round_trip(volume, labels, planned)
    assert result.shape == labels.array.shape
    assert min(dice(result == value, labels.array == value) for value in (1, 2)) >= at_least
    # No crack of background opens along the face the labels share.
    assert dice(result > 0, labels.array > 0) >= at_least


@pytest.mark.parametrize(
    ("native", "planned", "orders"),
    [
        ((1.0, 1.0, 3.0), (1.0, 1.5, 1.5), (3, 3, 3)),  # an axis over three times coarser is interpolated linearly
        ((1.0, 1.0, 3.1), (1.0, 1.5, 1.5), (3, 3, 1)),
        ((1.0, 1.0, 1.0), (1.0, 1.5, 3.1), (3, 3, 1)),
        ((3.5, 1.0, 1.0), (1.5, 1.5, 1.0), (1, 3, 3)),
        ((0.5, 0.5, 1.6), (0.8, 0.7, 1.2), (3, 3, 1)),
        ((2.0, 2.0, 5.0), (1.5, 1.5, 4.0), (3, 3, 3)),
    ],
)
def test_images_are_interpolated_cubically_but_not_between_thick_slices(
    native: TripleMm, planned: TripleMm, orders: tuple[int, int, int]
) -> None:
    volume, _ = make_case((14, 16, 12), native)
    plan = make_plan(spacing_mm=planned, channels=(ChannelPlan("CT", "ct", 0.0, 400.0),))
    image, record = prepare_image(volume, plan)
    expected = resample(volume.array / 200 - 1, record.planned_shape, orders)
    np.testing.assert_allclose(image, np.clip(expected, -1, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("native", "planned", "orders"),
    [
        ((1.0, 1.0, 1.0), (1.25, 1.0, 0.8), (3, 3, 3)),  # linear where the planned grid is over 1.25 times coarser
        ((1.0, 1.0, 1.0), (1.3, 0.8, 2.0), (1, 3, 1)),
        ((0.5, 2.0, 2.0), (0.7, 2.2, 3.0), (1, 3, 1)),
    ],
)
def test_distances_are_interpolated_cubically_but_linearly_to_a_coarser_grid(
    native: TripleMm, planned: TripleMm, orders: tuple[int, int, int]
) -> None:
    volume, labels = make_case((20, 24, 18), native)
    plan = make_plan(spacing_mm=planned)
    _, record = prepare_image(volume, plan)
    maps = prepare_labels(labels, record, plan)
    exact = encode_labels(labels.array, plan.dataset.labels, native, plan.distance.tau_mm)
    expected = resample(exact, record.planned_shape, orders)
    np.testing.assert_allclose(maps, np.clip(expected, -STORED_LIMIT, STORED_LIMIT), atol=1e-5)
    back = np.clip(resample(maps, (20, 24, 18), 3), -STORED_LIMIT, STORED_LIMIT)  # cubic on the way back
    np.testing.assert_allclose(restore_distances(maps, record), back, atol=1e-5)


def test_thin_sheet_survives_a_finer_grid() -> None:
    volume, _ = make_case((24, 24, 24))
    array = np.zeros((24, 24, 24), dtype=np.int16)
    array[5:19, 5:19, 12] = 1
    labels = LabelVolume(array, volume.grid)
    np.testing.assert_array_equal(round_trip(volume, labels, (1.0, 1.0, 1.0)), array)
    assert dice(round_trip(volume, labels, (0.8, 0.8, 0.8)) == 1, array == 1) > 0.95


@pytest.mark.parametrize("spacing_mm", [(1.5, 1.2, 2.0), (1.0, 1.0, 1.0)])
def test_restored_labels_are_the_decoded_restored_distances(spacing_mm: TripleMm) -> None:
    plan = make_plan(spacing_mm=spacing_mm)
    volume, labels = make_case()
    _, record = prepare_image(volume, plan)
    maps = prepare_labels(labels, record, plan)
    maps[:, 2:5] = 0  # on the faces of both labels
    maps[0, 6:9] = 0  # of the first only
    values = [label.value for label in plan.dataset.labels]
    np.testing.assert_array_equal(restore_labels(maps, record, plan), decode_labels(restore_distances(maps, record), values))


def test_crop_is_undone_and_outside_it_is_no_label() -> None:
    volume, labels = make_case((20, 24, 18))
    room = ((5, 9), (0, 3), (7, 0))
    image = np.pad(volume.array, ((0, 0), *room))
    grid = make_grid(image.shape[1:])
    padded = LabelVolume(np.pad(labels.array, room), grid)
    plan = make_plan()
    prepared, record = prepare_image(Volume(image, grid), plan)
    assert record.crop_start == (5, 0, 7) and record.crop_shape == (20, 24, 18)
    np.testing.assert_allclose(prepared, prepare_image(volume, plan)[0], atol=1e-6)
    maps = prepare_labels(padded, record, plan)
    np.testing.assert_array_equal(restore_labels(maps, record, plan), padded.array)
    restored = restore_distances(maps, record)
    assert restored.shape == (2, *grid.shape) and (restored[:, :5] == STORED_LIMIT).all()


def test_any_label_values_and_absent_labels() -> None:
    volume, labels = make_case((20, 24, 18))
    array = np.select([labels.array == 1, labels.array == 2], [4000, -7], 0)
    classes = (LabelClass("far", 4000), LabelClass("absent", 12), LabelClass("below", -7))
    plan = make_plan(dataset=DatasetDescription("Dataset001_Any", ("MRI",), classes, ".nii.gz"))
    _, record = prepare_image(volume, plan)
    maps = prepare_labels(LabelVolume(array, volume.grid), record, plan)
    assert (maps[1] == STORED_LIMIT).all()
    np.testing.assert_array_equal(restore_labels(maps, record, plan), array)


def test_image_is_bounded_and_on_the_planned_grid() -> None:
    volume, _ = make_case((30, 40, 12), (0.7, 0.7, 5.0))
    image, record = prepare_image(volume, make_plan(spacing_mm=(1.0, 1.0, 5.0)))
    assert image.dtype == np.float32 and image.shape == (1, *record.planned_shape) == (1, 21, 28, 12)
    assert image.min() >= -1 and image.max() <= 1 and image.std() > 0.2


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 5.0), (0.7, 0.7, 5.0)])
def test_an_image_that_goes_on_beyond_the_bounds_is_the_same_within(spacing_mm: TripleMm) -> None:
    volume, _ = make_case((30, 40, 12), (0.7, 0.7, 5.0))
    low, high = np.quantile(volume.array, (0.3, 0.8))
    plan = make_plan(spacing_mm=spacing_mm, channels=(ChannelPlan("CT", "ct", float(low), float(high)),))
    seen, _ = prepare_image(volume, plan)
    whole, _ = prepare_image(volume, plan, beyond=True)
    np.testing.assert_array_equal(np.clip(whole, -1, 1), seen)
    assert whole.min() < -1.1 and whole.max() > 1.1


def test_two_dimensional_image() -> None:
    volume, labels = make_case((40, 50, 1))
    grid = Grid.of((40, 50, 1), volume.grid.matrix, dimensions=2)
    plan = make_plan(dimensions=2, spacing_mm=(1.5, 1.5, 1.0), patch_size=(32, 32, 1), distance=DistancePlan(4.0, 1.0))
    image, record = prepare_image(Volume(volume.array, grid), plan)
    assert image.shape == (1, 27, 33, 1)
    restored = restore_labels(prepare_labels(LabelVolume(labels.array, grid), record, plan), record, plan)
    assert restored.shape == (40, 50, 1) and dice(restored == 1, labels.array == 1) > 0.96


def test_wrong_use_is_said_in_one_line() -> None:
    volume, labels = make_case((20, 24, 18))
    with pytest.raises(ImageError, match=r"made\.nii\.gz: 2 channel\(s\), but the plan has 1 \(MRI\)"):
        prepare_image(Volume(np.repeat(volume.array, 2, axis=0), volume.grid, volume.source), make_plan())
    with pytest.raises(ImageError, match="two-dimensional"):
        prepare_image(volume, make_plan(dimensions=2, patch_size=(16, 16, 1)))
    _, record = prepare_image(volume, make_plan())
    with pytest.raises(ImageError, match=r"made_label.*\(20, 24, 17\).*\(20, 24, 18\)"):
        prepare_labels(LabelVolume(labels.array[..., :-1], labels.grid, labels.source), record, make_plan())


@pytest.mark.real_data
@pytest.mark.skipif("DIFFATLAS_TEST_DATA" not in os.environ, reason="DIFFATLAS_TEST_DATA is not set")
@pytest.mark.parametrize(("spacing", "at_least"), [(1.0, 0.995), (0.8, 0.995), (1.5, 0.95)])
def test_hippocampus_round_trip(spacing: float, at_least: float) -> None:
    folder = Path(os.environ["DIFFATLAS_TEST_DATA"]) / "Task04_Hippocampus"
    files = sorted((folder / "labelsTr").glob("[!.]*.nii.gz"))[::25]
    assert files
    for path in files:
        volume, labels = read_volume([folder / "imagesTr" / path.name]), read_labels(path)
        result = round_trip(volume, labels, (spacing, spacing, spacing))
        for value in (1, 2):
            assert dice(result == value, labels.array == value) >= at_least, path.name


def test_record_is_complete() -> None:
    volume, _ = make_case((20, 24, 18))
    _, record = prepare_image(volume, make_plan(spacing_mm=(2.0, 2.0, 2.0)))
    assert record == SpatialRecord(
        volume.grid, volume.grid, (0, 0, 0), (20, 24, 18), planned_shape=(10, 12, 9), planned_spacing_mm=(2.0, 2.0, 2.0)
    )


TWO_CHANNELS = make_plan(channels=(ChannelPlan("CT", "ct", -100.0, 300.0), ChannelPlan("MRI", "percentile", 0.5, 99.5)))


@pytest.mark.parametrize("missing", [0, 1])
def test_a_scan_without_a_channel_is_prepared_by_the_other(missing: int) -> None:
    volume, _ = make_case((17, 22, 15), (1.0, 1.2, 0.9))
    array = np.pad(volume.array, ((0, 0), (2, 3), (0, 0), (4, 1)))  # constant around the content
    grid = make_grid(array.shape[1:], (1.0, 1.2, 0.9))
    both = np.concatenate([array, array])
    both[missing] = np.nan
    image, record = prepare_image(Volume(both, grid), TWO_CHANNELS, beyond=True)
    single = make_plan(channels=(TWO_CHANNELS.channels[1 - missing],))
    expected, expected_record = prepare_image(Volume(array, grid), single, beyond=True)
    np.testing.assert_array_equal(image[1 - missing], expected[0])
    assert np.isnan(image[missing]).all() and record == expected_record and record.crop_shape == (17, 22, 15)


@pytest.mark.parametrize("orientation", ORIENTATIONS[::7], ids=str)
def test_an_image_comes_back_on_its_own_grid_and_in_its_own_units(orientation: np.ndarray) -> None:
    volume, labels = turned(*make_case((17, 22, 15)), orientation)
    both = Volume(np.concatenate([volume.array, volume.array]), volume.grid)
    image, record = prepare_image(both, TWO_CHANNELS)
    ct, mri = restore_image(image, record, TWO_CHANNELS.channels)
    np.testing.assert_allclose(ct, volume.array[0].clip(-100, 300), atol=1e-3)
    low, high = np.percentile(volume.array, [0.5, 99.5])
    np.testing.assert_allclose(mri, ((volume.array[0] - low) / (high - low)).clip(0, 1), atol=1e-5)
    assert labels.grid == record.native


def test_a_tilted_gantry_returns_to_its_grid_and_is_measured_in_space() -> None:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 1.0
    grid = Grid.of((40, 44, 20), affine)
    places = np.moveaxis(np.indices(grid.shape), 0, -1) @ affine[:3, :3].T
    middle = affine[:3, :3] @ np.array([19.5, 21.5, 9.5])
    away = np.linalg.norm(places - middle, axis=-1)
    labels = LabelVolume((away < 11).astype(np.int32), grid)
    image = np.where(away < 11, 200.0, 10.0).astype(np.float32) + np.random.default_rng(0).normal(0, 3, grid.shape)
    plan = make_plan(spacing_mm=(1.0, 1.0, 1.0))
    planned, record = prepare_image(Volume(image[None].astype(np.float32), grid), plan)
    assert record.native == grid and not record.canonical.is_sheared and record.planned_spacing_mm == (1.0, 1.0, 1.0)
    distances = prepare_labels(labels, record, plan)
    assert planned.shape[1:] == distances.shape[1:]
    result = restore_labels(distances, record, plan)
    assert result.shape == grid.shape and dice(result == 1, labels.array == 1) > 0.95
    tau = plan.distance.tau_mm
    found = restore_distances(distances, record)[0] * tau
    near = np.abs(away - 11) < tau / 2
    assert np.abs(found - (away - 11))[near].mean() < 0.5, "mm, of distances in space"


def test_a_scan_that_would_not_fit_is_refused_before_it_is_made() -> None:
    volume, _ = make_case((17, 22, 15))
    huge = Volume(volume.array, make_grid((17, 22, 15), (1000.0, 1000.0, 1000.0)), "scan.nii.gz")
    with pytest.raises(ImageError, match=r"scan\.nii\.gz: .*17 x 22 x 15.* voxels of 1000 x 1000 x 1000 mm are .* GB are free"):
        prepare_image(huge, make_plan())
