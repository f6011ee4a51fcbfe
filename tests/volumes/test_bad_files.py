"""Files that are damaged, or no images, are refused by name."""

import gzip
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import VOLUME_ENDINGS, read_grid, read_labels, read_volume, write_labels, write_scalars
from tests.volumes.examples import RNG, SHAPE, labels, oblique_affine


@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_truncated_file_is_named(tmp_path, ending, kept):
    path = tmp_path / f"bad{ending}"
    write_scalars(path, RNG.normal(size=(20, 20, 20)), Grid.of((20, 20, 20), np.eye(4)))
    damaged = tmp_path / "bad.zraw" if ending == ".mhd" else path
    content = damaged.read_bytes()
    damaged.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ImageError, match=rf"bad\{ending}"):
        read_volume([path])


def test_uncompressed_truncated_itk_file_is_named(tmp_path):
    for ending in (".mha", ".nrrd"):
        path = tmp_path / f"bad{ending}"
        sitk.WriteImage(sitk.GetImageFromArray(RNG.normal(size=(20, 20, 20))), str(path), useCompression=False)
        path.write_bytes(path.read_bytes()[:-5000])
        with pytest.raises(ImageError, match=rf"bad\{ending}"):
            read_volume([path])


def test_damaged_byte_in_compressed_data_is_found(tmp_path):
    """Without the checksum at the file's end, a flipped bit would give wrong voxels without a word."""
    path = tmp_path / "bad.nii.gz"
    raw = nib.Nifti1Image(labels(), np.eye(4), dtype=np.int16).to_bytes()
    content = bytearray(gzip.compress(raw, compresslevel=0))  # stored blocks: a flipped bit always decompresses
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"bad\.nii\.gz.*incorrect data check"):
        read_volume([path])


def test_meta_image_headers_that_would_end_the_process_are_refused(tmp_path):
    path = tmp_path / "bad.mha"
    write_labels(path, labels(), Grid.of(SHAPE, np.eye(4)))
    content = path.read_bytes()
    for old, new in ((b"NDims = 3", b"NDims =73"), (b"ElementDataFile = LOCAL", b"ElementDataFile = gone")):
        assert old in content
        path.write_bytes(content.replace(old, new))
        with pytest.raises(ImageError, match=r"bad\.mha"):
            read_volume([path])


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd"])
def test_a_direction_at_which_itk_never_ends_is_refused(tmp_path, ending):
    path = tmp_path / f"bad{ending}"
    write_labels(path, labels(), Grid.of(SHAPE, np.diag([-1.0, -1, 1, 1])))
    content = path.read_bytes()
    old, new = (b"(0,0,1)", b"(0,1e308,1)") if ending == ".nrrd" else (b"0 0 1\n", b"0 1e308 1\n")
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    read = (
        "import sys, pathlib; from diffatlas_pipeline.volumes.io import read_volume; read_volume([pathlib.Path(sys.argv[1])])"
    )
    told = subprocess.run([sys.executable, "-c", read, str(path)], capture_output=True, text=True, timeout=120, check=False)
    reason = "numbers beyond 1e" if ending == ".nrrd" else "its voxel-to-world matrix is not invertible"
    assert told.returncode == 1 and f"bad{ending}: " in told.stderr and reason in told.stderr


@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
def test_garbage_is_named(tmp_path, ending):
    (tmp_path / f"bad{ending}").write_bytes(b"this is no image" * 100)
    for read in (read_labels, read_grid, lambda path: read_volume([path])):
        with pytest.raises(ImageError, match=rf"bad\{ending}"):
            read(tmp_path / f"bad{ending}")


def test_any_damaged_nifti_header_is_an_image_error_or_still_an_image(tmp_path):
    """No byte of the header, whatever its value, leads to another kind of failure."""
    path = tmp_path / "a.nii"
    write_labels(path, labels(), Grid.of(SHAPE, oblique_affine()))
    content = path.read_bytes()
    refused = 0
    for position in range(0, 352):
        for value in (0x00, 0xFF):
            damaged = bytearray(content)
            damaged[position] = value
            path.write_bytes(damaged)
            try:
                read_grid(path)
                read_labels(path)
            except ImageError as error:
                assert "a.nii" in str(error) and "\n" not in str(error)
                refused += 1
    assert refused > 30


@pytest.mark.parametrize(("shape", "dtype"), [((4, 5, 6, 3), "f4"), ((4, 5, 1, 3), "f4"), ((4, 5, 6), "c8"), ((4,), "f4")])
def test_more_than_one_scalar_channel_is_refused(tmp_path, shape, dtype):
    nib.Nifti1Image(np.zeros(shape, dtype=dtype), np.eye(4)).to_filename(tmp_path / "bad.nii.gz")
    with pytest.raises(ImageError, match=r"bad\.nii\.gz: found shape"):
        read_volume([tmp_path / "bad.nii.gz"])


def test_colour_images_are_refused(tmp_path):
    colour = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.Nifti1Image(colour, np.eye(4)).to_filename(tmp_path / "bad.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), dtype=np.uint8), isVector=True), str(tmp_path / "bad.mha"))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 4, 5, 6), dtype=np.uint8), isVector=False), str(tmp_path / "bad.nrrd"))
    for name in ("bad.nii.gz", "bad.mha", "bad.nrrd"):
        with pytest.raises(ImageError, match=f"{name}.*one scalar channel"):
            read_volume([tmp_path / name])


def test_flattened_affine_is_refused(tmp_path):
    image = nib.Nifti1Image(np.zeros(SHAPE, dtype=np.uint8), np.eye(4))
    image.header["srow_z"] = 0.0
    image.header["sform_code"] = 1
    with (tmp_path / "bad.nii").open("wb") as file:
        image.header.write_to(file)
        file.write(bytes(4 + 210))
    with pytest.raises(ImageError, match=r"bad\.nii: its voxel-to-world matrix is not invertible"):
        read_volume([tmp_path / "bad.nii"])


def test_missing_file_and_unknown_kind_are_named(tmp_path):
    with pytest.raises(ImageError, match=r"none\.nii\.gz: no such file"):
        read_volume([tmp_path / "none.nii.gz"])
    (tmp_path / "image.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match=r"image\.jpg: cannot read this kind of file.*\.nii\.gz"):
        read_volume([tmp_path / "image.jpg"])
    with pytest.raises(ImageError, match=r"x\.dcm: cannot write this kind of file"):
        write_labels(tmp_path / "x.dcm", labels(), Grid.of(SHAPE, np.eye(4)))
