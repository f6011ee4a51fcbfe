"""DICOM series are read with the geometry of their slices; damaged series are named."""

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from diffatlas_pipeline.datasets.cases import list_cases
from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.volumes.io import read_grid, read_labels, read_volume, write_labels

ORIENTATION = np.array([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])  # columns: row, column and slice direction


def write_series(
    folder: Path,
    values: np.ndarray,
    step=(0.0, 0.0, 2.5),
    origin=(-20.0, 30.0, 5.0),
    uid: str = "1.2.3.4",
    skip=(),
    modality: str = "CT",
) -> Path:
    """One file per slice of ``values`` (X, Y, Z) int16; slice k lies at ``origin + k * step`` in DICOM's world axes."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(values.shape[2]):
        if k in skip:
            continue
        image = sitk.GetImageFromArray(values[:, :, k : k + 1].T.astype(np.int16))
        image.SetSpacing((0.75, 0.5, 2.5))
        image.SetDirection(ORIENTATION.ravel().tolist())
        position = np.asarray(origin) + k * np.asarray(step)
        tags = {
            "0008|0060": modality,
            "0020|000e": uid,
            "0020|000d": "1.2.3",
            "0020|0013": str(k + 1),
            "0020|0032": "\\".join(f"{value:.6f}" for value in position),
            "0020|0037": "\\".join(f"{value:.6f}" for value in ORIENTATION.T[:2].ravel()),
            "0028|1052": "-1000",
            "0028|1053": "2",
        }
        if modality == "MR":  # it has no rescaling in DICOM
            tags = {tag: value for tag, value in tags.items() if not tag.startswith("0028")}
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        # names in no useful order: slices are sorted by position
        writer.SetFileName(str(folder / f"{(k * 7) % 11:02d}_{k}.dcm"))
        writer.Execute(image)
    return folder


VALUES = np.random.default_rng(0).integers(-500, 500, size=(6, 5, 8)) * 2


def expected_affine(step=(0.0, 0.0, 2.5), origin=(-20.0, 30.0, 5.0)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.stack([ORIENTATION[:, 0] * 0.75, ORIENTATION[:, 1] * 0.5, np.asarray(step)], axis=1)
    affine[:3, 3] = origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def test_series_has_values_and_oblique_grid(tmp_path):
    volume = read_volume([write_series(tmp_path / "case", VALUES)])
    assert volume.grid.shape == VALUES.shape and volume.grid.dimensions == 3
    np.testing.assert_allclose(volume.grid.matrix, expected_affine(), atol=1e-5)
    np.testing.assert_allclose(volume.array[0], VALUES)
    assert read_grid(tmp_path / "case") == volume.grid


def test_tilted_gantry_gives_a_sheared_grid(tmp_path):
    """Slices that are shifted within their plane, each a little further, must not be stacked into a straight block."""
    step = (0.0, 0.4, 2.5)
    volume = read_volume([write_series(tmp_path / "case", VALUES, step=step)])
    np.testing.assert_allclose(volume.grid.matrix, expected_affine(step), atol=1e-5)


def test_missing_slice_is_an_error_with_the_gap(tmp_path):
    with pytest.raises(ImageError, match=r"case: its slices are 2\.5 to 5 mm apart"):
        read_volume([write_series(tmp_path / "case", VALUES, skip=(3,))])


def test_doubled_slice_is_an_error(tmp_path):
    folder = write_series(tmp_path / "case", VALUES)
    shutil.copy(next(folder.glob("*_3.dcm")), folder / "copy.dcm")
    with pytest.raises(ImageError, match=r"case: its slices are 0 to 2\.5 mm apart"):
        read_volume([folder])


def test_two_series_in_one_folder_are_an_error(tmp_path):
    write_series(tmp_path / "case", VALUES)
    other = write_series(tmp_path / "other", VALUES, uid="1.2.3.5")
    for path in other.iterdir():
        path.rename(tmp_path / "case" / f"other_{path.name}")
    with pytest.raises(ImageError, match=r"case: holds 2 DICOM series"):
        read_volume([tmp_path / "case"])


def test_truncated_slice_is_an_error(tmp_path):
    folder = write_series(tmp_path / "case", VALUES)
    path = next(folder.glob("*_4.dcm"))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ImageError, match="case"):
        read_volume([folder])


@pytest.mark.parametrize("kept", [0, 132, 400])
def test_a_last_slice_that_was_lost_is_an_error(tmp_path, kept):
    """The others are evenly spaced without it, so the scan would be shorter without a word."""
    folder = write_series(tmp_path / "case", VALUES)
    path = next(folder.glob("*_7.dcm"))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ImageError, match=r"_7\.dcm: is (empty or )?damaged"):
        read_volume([folder])


def test_a_slice_with_an_absurd_length_is_named_and_the_other_cases_are_listed(tmp_path):
    folder = write_series(tmp_path / "in" / "bad", VALUES)
    write_series(tmp_path / "in" / "good", VALUES)
    path = next(folder.glob("*_4.dcm"))
    pixels, length = b"\xe0\x7f\x10\x00", struct.pack("<I", 2 * VALUES[:, :, 0].size)
    assert pixels + length in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(pixels + length, pixels + b"\xf0\xff\xff\xff"))
    assert [case.case for case in list_cases(tmp_path / "in", None, 1)] == ["bad", "good"]
    with pytest.raises(ImageError, match=r"_4\.dcm: is damaged: element .* bytes follow"):
        read_volume([folder])


def test_stray_files_and_the_index_of_a_disc_are_no_slices(tmp_path):
    folder = write_series(tmp_path / "case", VALUES)
    (folder / "notes.txt").write_text("seen by a reader")
    (folder / ".keep").touch()
    shutil.copy(next(folder.glob("*_7.dcm")), folder / "DICOMDIR")
    content = (folder / "DICOMDIR").read_bytes()
    (folder / "DICOMDIR").write_bytes(content[: content.index(b"\x08\x00")])  # it says how it is written, and no more
    np.testing.assert_allclose(read_volume([folder]).array[0], VALUES)


def test_folder_without_series_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(ImageError, match="holds no DICOM series"):
        read_volume([tmp_path])


@pytest.mark.parametrize("directions", [[1, 0, 0, 0, 1, "1e308"], [2, 0, 0, 0, 1, 0], [1, 0, 0, 0.5, 0.8, 0], [0] * 6])
def test_directions_that_are_none_are_an_error(tmp_path, directions):
    """GDCM would take the axes of the patient instead."""
    folder = write_series(tmp_path / "series", VALUES)
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        header.ImageOrientationPatient = [str(one) for one in directions]
        header.save_as(path)
    for read in (read_grid, lambda folder: read_volume([folder])):
        with pytest.raises(ImageError, match=r"\.dcm: its rows and columns have the directions .* no unit vectors"):
            read(folder)


def test_single_slice_is_a_flat_image(tmp_path):
    volume = read_volume([write_series(tmp_path / "case", VALUES[:, :, :1])])
    assert volume.grid.shape == (6, 5, 1) and volume.grid.dimensions == 2
    np.testing.assert_allclose(volume.grid.matrix, expected_affine(), atol=1e-5)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_labels_of_a_series_lie_on_its_grid(tmp_path, ending):
    volume = read_volume([write_series(tmp_path / "case", VALUES)])
    write_labels(tmp_path / f"case{ending}", (VALUES > 0).astype(np.uint8), volume.grid, like=tmp_path / "case")
    got = read_labels(tmp_path / f"case{ending}")
    np.testing.assert_array_equal(got.array, VALUES > 0)
    np.testing.assert_allclose(got.grid.matrix, volume.grid.matrix, atol=1e-5)


def test_sub_folders_with_a_series_are_cases(tmp_path):
    for name in ("b", "a_0000"):
        write_series(tmp_path / name, VALUES)
    (tmp_path / "empty").mkdir()
    assert [(case.case, case.images) for case in list_cases(tmp_path, None, 1)] == [
        ("a", (tmp_path / "a_0000",)),
        ("b", (tmp_path / "b",)),
    ]
    assert list_cases(tmp_path / "b", None, 1)[0].case == "b"  # the folder itself is the series


@pytest.mark.real_data
@pytest.mark.skipif("DIFFATLAS_TEST_DATA" not in os.environ, reason="DIFFATLAS_TEST_DATA is not set")
@pytest.mark.parametrize(("study", "shape"), [("Study1", (35, 51, 32)), ("Study2", (36, 48, 35)), ("Study3", (34, 50, 40))])
def test_real_series(study, shape):
    folder = Path(os.environ["DIFFATLAS_TEST_DATA"]) / "hippocampus_dicom" / study
    volume = read_volume([folder])
    assert volume.grid.shape == shape and volume.array.std() > 1.0
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    np.testing.assert_array_equal(volume.array[0].T, sitk.GetArrayFromImage(image))
    corner = image.TransformIndexToPhysicalPoint([n - 1 for n in shape])
    np.testing.assert_allclose((volume.grid.matrix @ [*(n - 1 for n in shape), 1])[:3], np.array(corner) * [-1, -1, 1])


def test_slices_with_their_own_rescaling_are_read_one_by_one(tmp_path):
    """As in PET: each slice has the slope that makes most of its bits; that of the first tells nothing."""
    folder = write_series(tmp_path / "case", VALUES)
    scaled = write_series(tmp_path / "other", VALUES)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in (3, 5):
        path = next(folder.glob(f"*_{k}.dcm"))
        image = sitk.ReadImage(str(path))
        finer = sitk.Cast(image, sitk.sitkFloat64) * 0.25 - 10
        for key in image.GetMetaDataKeys():
            finer.SetMetaData(key, image.GetMetaData(key))
        finer.SetMetaData("0028|1052", "-10")
        finer.SetMetaData("0028|1053", "0.25")
        writer.SetFileName(str(path))
        writer.Execute(finer)
    volume = read_volume([folder])
    order = [next(folder.glob(f"*_{k}.dcm")) for k in range(VALUES.shape[2])]
    expected = np.concatenate([sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T for path in order], axis=2)
    assert np.abs(expected - np.rint(expected)).max() > 0.2, "values between integers"
    np.testing.assert_allclose(volume.array[0], expected, atol=1e-3)
    assert volume.grid == read_volume([scaled]).grid


@pytest.mark.parametrize("position", ["nan\\0\\0", "0\\0", "here", "1e400\\0\\0"])
def test_a_damaged_position_is_an_error(tmp_path, position):
    folder = write_series(tmp_path / "case", VALUES)
    path = next(folder.glob("*_2.dcm"))
    found = pydicom.dcmread(path)
    element = pydicom.dataelem.RawDataElement(
        pydicom.tag.Tag(0x0020, 0x0032), "DS", len(position), position.encode(), 0, False, True
    )
    found[0x0020, 0x0032] = element
    found.save_as(path)
    with pytest.raises(ImageError, match="case"):
        read_volume([folder])
