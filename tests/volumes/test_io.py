"""Files in every format are read and written with their exact geometry."""

import gzip
import os

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import (
    FILE_ENDINGS,
    VOLUME_ENDINGS,
    read_grid,
    read_labels,
    read_volume,
    write_labels,
    write_scalars,
)
from tests.volumes.examples import RNG, SHAPE, labels, nifti_image, oblique_affine


# ------------------------------------------------------------------------------------------------------ round trips
@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
def test_oblique_labels_and_scalars_come_back_on_the_same_grid(tmp_path, ending):
    grid = Grid.of(SHAPE, oblique_affine())
    array, scalars = labels(), RNG.normal(size=SHAPE).astype(np.float32)
    write_labels(tmp_path / f"case{ending}", array, grid)
    write_scalars(tmp_path / f"map{ending}", scalars, grid)
    got = read_labels(tmp_path / f"case{ending}")
    np.testing.assert_array_equal(got.array, array)
    np.testing.assert_array_equal(read_volume([tmp_path / f"map{ending}"]).array[0], scalars)
    # NIfTI stores its affine in single precision, the others in double
    np.testing.assert_allclose(got.grid.matrix, grid.matrix, atol=1e-5 if "nii" in ending else 1e-12)
    assert got.grid.shape == SHAPE and got.grid.dimensions == 3
    assert read_grid(tmp_path / f"case{ending}") == got.grid
    expected = {f"case{ending}", f"map{ending}"}
    if ending == ".mhd":
        expected |= {"case.zraw", "map.zraw"}
    assert {path.name for path in tmp_path.iterdir()} == expected  # nothing temporary stays behind


@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
def test_flat_images_stay_flat(tmp_path, ending):
    flat = np.diag([0.5, 0.25, 1.0, 1.0])
    flat[:2, 3] = (3.0, -4.0)
    grid = Grid.of((8, 9, 1), flat, dimensions=2)
    array = labels((8, 9, 1))
    write_labels(tmp_path / f"a{ending}", array, grid)
    got = read_labels(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(got.array, array)
    assert got.grid.dimensions == 2 and got.grid.shape == (8, 9, 1)
    assert got.grid.spacing_mm[:2] == pytest.approx((0.5, 0.25))
    np.testing.assert_allclose(got.grid.matrix[:2, 3], (3.0, -4.0))
    if ending in (".nrrd", ".mha", ".mhd"):
        assert sitk.ReadImage(str(tmp_path / f"a{ending}")).GetDimension() == 2
    else:
        assert nib.load(tmp_path / f"a{ending}").shape == (8, 9)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 1), (5, 6)])
def test_itk_geometry_is_copied_to_the_last_bit(tmp_path, ending, shape):
    image = sitk.GetImageFromArray(RNG.normal(size=shape).astype(np.float32).T)
    image.SetSpacing([1 / 3, 0.1, 1 / 7][: len(shape)])
    image.SetOrigin([-100 / 3, 1e-3, 17.0][: len(shape)])
    a = 0.3
    turn = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    direction = np.eye(len(shape))
    direction[:2, :2] = turn
    image.SetDirection(direction.ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / f"image{ending}"))
    volume = read_volume([tmp_path / f"image{ending}"])
    assert volume.grid.dimensions == (3 if shape[2:] == (7,) else 2)
    write_labels(tmp_path / f"label{ending}", labels((*shape, 1)[:3]), volume.grid, like=tmp_path / f"image{ending}")
    written, original = sitk.ReadImage(str(tmp_path / f"label{ending}")), sitk.ReadImage(str(tmp_path / f"image{ending}"))
    for field in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(written, field)() == getattr(original, field)()


def test_itk_world_axes_are_turned_to_ras(tmp_path):
    """The point that ITK calls (left, posterior, superior) has its first two coordinates negated."""
    image = sitk.GetImageFromArray(np.zeros((7, 6, 5), dtype=np.uint8))
    image.SetOrigin((10.0, 20.0, 30.0))
    image.SetSpacing((1.0, 2.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    grid = read_grid(tmp_path / "a.mha")
    left, posterior, superior = image.TransformIndexToPhysicalPoint((4, 3, 2))
    np.testing.assert_allclose(grid.matrix @ [4, 3, 2, 1], [-left, -posterior, superior, 1.0])


def test_formats_agree_about_one_grid(tmp_path):
    """SimpleITK reads the NIfTI file that we write with nibabel at the same place, and the other way round."""
    grid = Grid.of(SHAPE, oblique_affine())
    array = labels()
    write_labels(tmp_path / "a.nii.gz", array, grid)
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")), str(tmp_path / "b.nrrd"))
    got = read_labels(tmp_path / "b.nrrd")
    np.testing.assert_array_equal(got.array, array)
    np.testing.assert_allclose(got.grid.matrix, grid.matrix, atol=1e-4)


# ----------------------------------------------------------------------------------------------------- NIfTI headers
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("qform", "sform"), [(1, 1), (1, 0), (0, 2), (2, 4), (0, 0)])
@pytest.mark.parametrize("shape", [SHAPE, (5, 6), (5, 6, 1), (5, 6, 7, 1)])
def test_nifti_header_is_that_of_the_image(tmp_path, kind, qform, sform, shape):
    source = nifti_image(tmp_path / "image.nii.gz", oblique_affine(), qform, sform, kind, shape)
    volume = read_volume([source])
    assert volume.grid.shape == (*shape, 1)[:3]
    array = labels(volume.grid.shape, highest=300)
    write_labels(tmp_path / "label.nii.gz", array, volume.grid, like=source)
    image, label = nib.load(source), nib.load(tmp_path / "label.nii.gz")
    assert type(label) is kind and label.shape == image.shape and label.get_data_dtype() == np.uint16
    np.testing.assert_array_equal(label.affine, image.affine)
    for field in ("qform_code", "sform_code", "xyzt_units", "pixdim", "srow_x", "quatern_b", "quatern_c", "qoffset_x"):
        np.testing.assert_array_equal(label.header[field], image.header[field])
    assert bytes(label.header["descrip"]).strip(b"\x00") == b"" and label.header["cal_max"] == 0
    np.testing.assert_array_equal(read_labels(tmp_path / "label.nii.gz").array, array)


def test_scaled_image_is_read_in_its_units_and_its_scale_is_not_inherited(tmp_path):
    stored = np.arange(-20, 190, dtype=np.int16).reshape(SHAPE)
    image = nib.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(2.5, -1000.0)
    scaled = stored * 2.5 - 1000.0
    nib.Nifti1Image(scaled, np.eye(4), image.header, dtype=np.int16).to_filename(tmp_path / "image.nii.gz")
    assert nib.load(tmp_path / "image.nii.gz").dataobj.slope != 1.0
    volume = read_volume([tmp_path / "image.nii.gz"])
    np.testing.assert_allclose(volume.array[0], scaled, atol=0.05)
    array = labels()
    write_labels(tmp_path / "label.nii.gz", array, volume.grid, like=tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(nib.load(tmp_path / "label.nii.gz").get_fdata(), array)
    assert nib.load(tmp_path / "label.nii.gz").dataobj.slope == 1.0


def test_sheared_grid_is_kept(tmp_path):
    sheared = oblique_affine()
    sheared[:3, 2] += (0.0, 0.6, 0.0)
    grid = Grid.of(SHAPE, sheared)
    write_labels(tmp_path / "a.nii.gz", labels(), grid)
    np.testing.assert_allclose(read_grid(tmp_path / "a.nii.gz").matrix, sheared, atol=1e-5)


def test_template_of_another_grid_or_format_does_not_move_the_result(tmp_path):
    source = nifti_image(tmp_path / "image.nii.gz", np.eye(4), 1, 1)
    grid = Grid.of(SHAPE, oblique_affine())
    for name in ("a.nii.gz", "a.mha"):
        write_labels(tmp_path / name, labels(), grid, like=source)
        np.testing.assert_allclose(read_grid(tmp_path / name).matrix, grid.matrix, atol=1e-5)


def test_big_endian_file_is_read(tmp_path):
    array = labels().astype(">i2")
    image = nib.Nifti1Image(array, np.eye(4), nib.Nifti1Header(endianness=">"))
    image.to_filename(tmp_path / "a.nii")
    got = read_labels(tmp_path / "a.nii")
    np.testing.assert_array_equal(got.array, array)
    assert got.array.dtype.isnative


def test_gzip_is_recognised_by_content(tmp_path):
    write_labels(tmp_path / "a.nii.gz", array := labels(), Grid.of(SHAPE, oblique_affine()))
    (tmp_path / "b.nii").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    (tmp_path / "c.nii.gz").write_bytes(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    for name in ("b.nii", "c.nii.gz"):
        np.testing.assert_array_equal(read_labels(tmp_path / name).array, array)
        assert read_grid(tmp_path / name) == read_grid(tmp_path / "a.nii.gz")


# ------------------------------------------------------------------------------------------------------------ values
@pytest.mark.parametrize(
    ("values", "dtype"),
    [([0, 255], "uint8"), ([0, 256], "uint16"), ([0, 65536], "int32"), ([-1, 5], "int16"), ([-1, 40000], "int32")],
)
@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_labels_take_the_smallest_type(tmp_path, values, dtype, ending):
    array = np.resize(np.array(values, dtype=np.int64), SHAPE)
    write_labels(tmp_path / f"a{ending}", array, Grid.of(SHAPE, np.eye(4)))
    got = read_labels(tmp_path / f"a{ending}").array
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, array)


def test_labels_beyond_32_bits_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"a\.nii.*32 bits"):
        write_labels(tmp_path / "a.nii", np.full(SHAPE, 2**40), Grid.of(SHAPE, np.eye(4)))


def test_integers_stored_as_floats_are_labels(tmp_path):
    array = labels()
    nib.Nifti1Image(array.astype(np.float32), np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    got = read_labels(tmp_path / "a.nii.gz").array
    assert got.dtype.kind == "i"
    np.testing.assert_array_equal(got, array)


def test_fractional_labels_are_named(tmp_path):
    array = labels().astype(np.float32)
    array[1, 2, 3], array[2, 2, 2] = 0.25, np.nan
    nib.Nifti1Image(array, np.eye(4)).to_filename(tmp_path / "bad.nii.gz")
    with pytest.raises(ImageError, match=r"bad\.nii\.gz.*2 voxels.*0\.25"):
        read_labels(tmp_path / "bad.nii.gz")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_named(tmp_path, value):
    array = np.zeros(SHAPE)
    array[0, 0, :2] = value
    nib.Nifti1Image(array, np.eye(4)).to_filename(tmp_path / "bad.nii.gz")
    with pytest.raises(ImageError, match=r"bad\.nii\.gz: 2 of 210 voxels"):
        read_volume([tmp_path / "bad.nii.gz"])


# ---------------------------------------------------------------------------------------------------------- channels
def test_channels_are_stacked_on_one_grid(tmp_path):
    grid = Grid.of(SHAPE, oblique_affine())
    maps = RNG.normal(size=(2, *SHAPE)).astype(np.float32)
    paths = [tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.mha"]
    for path, channel in zip(paths, maps, strict=True):
        write_scalars(path, channel, grid)
    volume = read_volume(paths)
    np.testing.assert_array_equal(volume.array, maps)
    assert volume.array.dtype == np.float32
    assert "a_0000.nii.gz" in volume.source and "a_0001.mha" in volume.source


def test_channel_on_another_grid_is_named_with_the_distance(tmp_path):
    shifted = oblique_affine()
    shifted[2, 3] += 2.0
    write_scalars(tmp_path / "a_0000.nii.gz", np.zeros(SHAPE), Grid.of(SHAPE, oblique_affine()))
    write_scalars(tmp_path / "a_0001.nii.gz", np.zeros(SHAPE), Grid.of(SHAPE, shifted))
    with pytest.raises(ImageError, match=r"a_0001\.nii\.gz: not on the grid of .*a_0000\.nii\.gz .*2 mm apart"):
        read_volume([tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"])
    assert read_volume([tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"], tolerance_mm=2.5).array.shape == (2, *SHAPE)


# ----------------------------------------------------------------------------------------------------------- writing
@pytest.mark.parametrize("ending", FILE_ENDINGS)
def test_unwritable_output_is_named(tmp_path, ending):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ImageError, match=rf"out\{ending}: cannot be written"):
        write_labels(tmp_path / "file" / f"out{ending}", labels(), Grid.of(SHAPE, np.eye(4)))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ImageError, match=r"out\.nii\.gz: cannot be written \(Permission denied\)"):
        write_labels(tmp_path / "out.nii.gz", labels(), Grid.of(SHAPE, np.eye(4)))


@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
def test_a_failed_write_leaves_the_old_file(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    write_labels(path, array := labels(), Grid.of(SHAPE, np.eye(4)))
    (tmp_path / f"broken{ending}").write_bytes(b"no image")
    with pytest.raises(ImageError, match=rf"broken\{ending}"):
        write_labels(path, array + 1, Grid.of(SHAPE, np.eye(4)), like=tmp_path / f"broken{ending}")
    np.testing.assert_array_equal(read_labels(path).array, array)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_output_folder_is_made_and_files_have_ordinary_permissions(tmp_path):
    path = tmp_path / "new" / "folder" / "a.nii.gz"
    write_labels(path, labels(), Grid.of(SHAPE, np.eye(4)))
    (tmp_path / "ordinary").write_text("")
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_array_must_fit_its_grid(tmp_path):
    with pytest.raises(ValueError, match="does not fit its grid"):
        write_labels(tmp_path / "a.nii", labels((5, 6, 8)), Grid.of(SHAPE, np.eye(4)))
    with pytest.raises(ValueError, match="integers"):
        write_labels(tmp_path / "a.nii", np.zeros(SHAPE), Grid.of(SHAPE, np.eye(4)))
