"""What else a header says than shape and spacing, and names in capitals."""

import pickle

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from diffatlas_pipeline.errors import ImageError, NotScalar
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import read_grid, read_labels, read_volume, write_labels
from tests.volumes.examples import SHAPE, labels, nifti_image, oblique_affine


@pytest.mark.parametrize(("unit", "mm"), [("micron", 1e-3), ("mm", 1.0), ("meter", 1e3), ("unknown", 1.0)])
def test_units_of_the_header_count(tmp_path, unit, mm):
    affine = oblique_affine((500, 500, 700))
    image = nib.Nifti1Image(labels().astype(np.uint8), affine)
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "a.nii.gz")
    expected = np.diag([mm, mm, mm, 1.0]) @ affine
    got = read_labels(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(got.grid.matrix, expected, rtol=1e-5)
    assert read_grid(tmp_path / "a.nii.gz") == got.grid
    write_labels(tmp_path / "b.nii.gz", got.array, got.grid, like=tmp_path / "a.nii.gz")
    written = nib.load(tmp_path / "b.nii.gz")
    assert written.header.get_xyzt_units()[0] == unit, "as the input's"
    np.testing.assert_allclose(written.affine, affine, rtol=1e-5)
    write_labels(tmp_path / "c.nii.gz", got.array, got.grid)
    np.testing.assert_allclose(nib.load(tmp_path / "c.nii.gz").affine, expected, rtol=1e-5)


@pytest.mark.parametrize("excess", [9.8e-7, 5e-5])
def test_a_quaternion_that_rounding_made_too_long_is_read(tmp_path, excess):
    """Half a turn about z: b = c = 0, d = 1, a little too large."""
    image = nifti_image(tmp_path / "a.nii", np.diag([-1.0, -2.0, 3.0, 1.0]), 1, 0)
    content = bytearray(image.read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]))
    header["sform_code"] = 0
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = 0, 0, np.sqrt(1 + excess)
    content[:348] = header.binaryblock
    image.write_bytes(bytes(content))
    if excess < 1e-6:
        with pytest.raises(ValueError, match="w2 should be positive"):
            _ = nib.load(image).affine
    got = read_volume([image])
    np.testing.assert_allclose(got.grid.matrix[:3, :3], np.diag([-1.0, -2.0, 3.0]), atol=1e-3)
    write_labels(tmp_path / "b.nii", labels(), got.grid, like=image)
    assert read_grid(tmp_path / "b.nii") == got.grid
    header["quatern_d"] = 1.1
    content[:348] = header.binaryblock
    image.write_bytes(bytes(content))
    with pytest.raises(ImageError, match="damaged"):
        read_volume([image])


def test_labels_scaled_in_single_precision_are_whole(tmp_path):
    image = nib.Nifti1Image(np.zeros(SHAPE, dtype=np.uint8), np.eye(4))
    image.header["scl_slope"], image.header["scl_inter"], image.header["vox_offset"] = 1 / 255, 0, 352
    stored = np.where(labels() > 0, 255, 0).astype(np.uint8)
    (tmp_path / "a.nii").write_bytes(image.header.binaryblock + bytes(4) + stored.tobytes(order="F"))
    assert not (nib.load(tmp_path / "a.nii").get_fdata() == np.rint(nib.load(tmp_path / "a.nii").get_fdata())).all()
    np.testing.assert_array_equal(read_labels(tmp_path / "a.nii").array, stored // 255)


@pytest.mark.parametrize(("value", "whole"), [(1.00009, True), (1.0002, False)])
def test_whole_within_a_ten_thousandth_is_whole(tmp_path, value, whole):
    nib.Nifti1Image(np.where(labels() > 0, np.float32(value), np.float32(0)), np.eye(4)).to_filename(tmp_path / "a.nii")
    if whole:
        assert set(np.unique(read_labels(tmp_path / "a.nii").array)) == {0, 1}
    else:
        with pytest.raises(ImageError, match="integers"):
            read_labels(tmp_path / "a.nii")


@pytest.mark.parametrize("ending", [".NII.GZ", ".Nii", ".MHA", ".NRRD", ".Mhd"])
def test_endings_in_capitals(tmp_path, ending):
    array, grid = labels(), Grid.of(SHAPE, oblique_affine())
    write_labels(tmp_path / f"A{ending}", array, grid)
    got = read_labels(tmp_path / f"A{ending}")
    np.testing.assert_array_equal(got.array, array)
    np.testing.assert_allclose(read_grid(tmp_path / f"A{ending}").matrix, grid.matrix, atol=1e-5)


def test_layered_segmentations_are_told_what_to_do(tmp_path):
    layered = sitk.GetImageFromArray(np.zeros((7, 6, 5, 2), dtype=np.uint8), isVector=True)
    sitk.WriteImage(layered, str(tmp_path / "a.seg.nrrd"))
    with pytest.raises(ImageError, match="one label map") as caught:
        read_labels(tmp_path / "a.seg.nrrd")
    assert "case_0000" not in str(caught.value)
    with pytest.raises(ImageError, match="case_0000"):
        read_volume([tmp_path / "a.seg.nrrd"])
    again = pickle.loads(pickle.dumps(NotScalar("a: found shape 2 x 3")))
    assert str(again) == str(NotScalar("a: found shape 2 x 3"))


def test_one_slice_of_dicom_is_told_what_to_give(tmp_path):
    (tmp_path / "one.dcm").write_bytes(b"x")
    with pytest.raises(ImageError, match="folder that holds its whole series"):
        read_volume([tmp_path / "one.dcm"])


def test_messages_on_geometry_name_the_form_that_was_read(tmp_path):
    """Programs differ in which of the two they write and read."""
    affine, moved = np.diag([1.0, 1.0, 2.0, 1.0]), np.diag([1.0, 1.0, 2.0, 1.0])
    moved[:3, 3] = 5, 0, 0
    image = nib.Nifti1Image(np.ones((6, 5, 4), np.uint8), affine)
    image.set_sform(affine, 1)
    image.set_qform(moved, 1)
    image.to_filename(tmp_path / "both.nii")
    image.set_sform(None, 0)
    image.to_filename(tmp_path / "qform.nii")
    with pytest.raises(
        ImageError, match=r"the first was read by its sform \(its qform says otherwise\), the second by its qform\)"
    ):
        read_volume([tmp_path / "both.nii", tmp_path / "qform.nii"])
