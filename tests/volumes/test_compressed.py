"""Damaged compressed voxels are never read as good, and nothing takes more memory than its header announces."""

import gzip
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import read_labels, read_volume, write_labels, write_scalars
from tests.volumes.examples import SHAPE, labels


@pytest.mark.parametrize("kind", ["labels", "scan"])
@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".mhd", ".nii.gz"])
def test_one_flipped_bit_is_found_or_changes_nothing(tmp_path, ending, kind):
    """MetaImage's own checksum is Adler-32, which a few changes of small numbers can leave as it is."""
    path, shape, is_scan = tmp_path / f"a{ending}", (20, 18, 16), kind == "scan"
    if is_scan:
        array = np.random.default_rng(1).integers(0, 400, shape).astype(np.float32)
        write_scalars(path, array, Grid.of(shape, np.eye(4)))
    else:
        array = np.random.default_rng(1).integers(0, 4, shape)
        write_labels(path, array, Grid.of(shape, np.eye(4)))
    voxels = tmp_path / "a.zraw" if ending == ".mhd" else path
    good, found, missed = voxels.read_bytes(), 0, 0
    rng = np.random.default_rng(0)
    for place in rng.integers(len(good) // 2, len(good), size=60):  # behind the header
        content = bytearray(good)
        content[place] ^= 1 << rng.integers(8)
        voxels.write_bytes(bytes(content))
        try:
            got = read_volume([path]).array[0] if is_scan else read_labels(path).array
        except ImageError:
            found += 1
            continue
        missed += not np.array_equal(got, array)
    assert found > 50
    assert missed <= (1 if ending in (".mha", ".mhd") else 0)
    voxels.write_bytes(good[:-7])
    with pytest.raises(ImageError, match="a"):
        read_labels(path)


def test_several_gzip_members_are_one_file(tmp_path):
    raw = nib.Nifti1Image(labels().astype(np.int16), np.eye(4)).to_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(raw[:400]) + gzip.compress(raw[400:]))
    (tmp_path / "b.nii").write_bytes(raw)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.nii.gz").array, read_labels(tmp_path / "b.nii").array)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    raw = nib.Nifti1Image(np.zeros(SHAPE, dtype=np.uint8), np.eye(4)).to_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(raw + bytes(200_000_000), 1))
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"more than the .* bytes that its header announces"):
        read_volume([tmp_path / "a.nii.gz"])
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_a_header_that_announces_more_than_there_is_memory_is_refused(tmp_path):
    header = nib.Nifti2Image(np.zeros(SHAPE, dtype=np.uint8), np.eye(4)).header
    header.set_data_shape((100_000, 100_000, 100_000))
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4))
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    text = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 100000 100000 100000\nencoding: raw\n\n"
    (tmp_path / "c.nrrd").write_bytes(text.encode() + bytes(8))
    for name in ("a.nii", "b.nii.gz", "c.nrrd"):
        with pytest.raises(
            ImageError, match=rf"{name}: its header announces 10\d\d\d\d\d\.\d GB|{name}: its header announces 2"
        ):
            read_volume([tmp_path / name])


@pytest.mark.parametrize("ending", [".mhd", ".mha", ".nrrd"])
@pytest.mark.parametrize("files", ["LIST\n../secret.raw\n../secret.raw", "../secret%d.raw 1 2 1", "secret%d.raw 1 2 1"])
def test_voxels_in_a_list_of_files_are_not_read(tmp_path, ending, files):
    """They may lie in any folder."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for place, name in ((tmp_path, "secret"), (tmp_path, "secret1"), (folder, "secret1"), (folder, "secret2")):
        (place / f"{name}.raw").write_bytes(bytes(30))
    if ending == ".nrrd":
        text = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 5 6 2\nencoding: raw\ndata file: {files}\n"
    else:
        text = f"ObjectType = Image\nNDims = 3\nDimSize = 5 6 2\nElementType = MET_UCHAR\nElementDataFile = {files}\n"
    (folder / f"a{ending}").write_text(text)
    with pytest.raises(ImageError, match="list of files"):
        read_volume([folder / f"a{ending}"])


@pytest.mark.parametrize(("ending", "field"), [(".mhd", b"ElementDataFile = "), (".nrrd", b"data file: ")])
def test_voxels_in_another_folder_are_not_read(tmp_path, ending, field):
    """A stranger's header must not make this program read other files."""
    folder = tmp_path / "scans"
    folder.mkdir()
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(int(np.prod(SHAPE))))
    if ending == ".mhd":
        write_labels(folder / "a.mhd", np.zeros(SHAPE, dtype=np.uint8), Grid.of(SHAPE, np.eye(4)))
        content = (folder / "a.mhd").read_bytes().replace(b"CompressedData = True", b"CompressedData = False")
        content = content.replace(field + b"a.zraw", field + b"../secret.raw")
    else:
        content = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 5 6 7\nencoding: raw\n" + field + b"../secret.raw\n\n"
    (folder / f"a{ending}").write_bytes(content)
    with pytest.raises(ImageError, match="another folder"):
        read_volume([folder / f"a{ending}"])
