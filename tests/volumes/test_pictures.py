"""Pictures and TIFF stacks: what is read is what other programs wrote, and what cannot be is refused by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from diffatlas_pipeline.datasets.cases import list_cases, segmentation_files
from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import channels_in, read_grid, read_labels, read_volume, write_labels, write_scalars

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 255, (11, 7, 3), dtype=np.uint8)  # rows, columns, colours
LABELS = RNG.integers(0, 4, (11, 7), dtype=np.uint8)


def grid(shape: tuple[int, int, int] = (7, 11, 1), spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Grid:
    return Grid.of(shape, np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]), 2 if shape[2] == 1 else 3)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_colours_are_channels(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a_0000{ending}"
    Image.fromarray(COLOURS).save(path)
    volume = read_volume([path])
    assert volume.array.shape == (3, 7, 11, 1) and volume.grid.dimensions == 2 and channels_in(path) == 3
    assert np.array_equal(volume.array[..., 0].transpose(2, 1, 0), COLOURS)
    assert read_grid(path) == volume.grid == grid()
    (case,) = list_cases(tmp_path, ending, channels=3)
    assert case.case == "a" and case.images == (path,)
    with pytest.raises(ImageError, match="colours"):
        read_labels(path)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_labels_come_back_and_lie_as_itk_has_them(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    write_labels(path, LABELS.T[..., None].astype(np.int32), grid())
    found = read_labels(path)
    assert np.array_equal(found.array[..., 0].T, LABELS) and found.array.dtype == np.uint8
    of_itk = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).squeeze()
    assert np.array_equal(of_itk if of_itk.ndim == 2 else of_itk[..., 0], LABELS)  # it expands the greys of a BMP
    assert [path.name for path in tmp_path.iterdir()] == [path.name]  # no spacing is told where it is 1 mm


def test_spacing_lies_beside(tmp_path: Path) -> None:
    path, wide = tmp_path / "a.png", grid(spacing=(0.5, 0.25, 1.0))
    write_labels(path, LABELS.T[..., None].astype(np.int32), wide)
    assert json.loads((tmp_path / "a.json").read_text()) == {"spacing": [0.25, 0.5]}
    assert read_grid(path) == wide
    (tmp_path / "a.json").write_text('{"spacing": [999, 0.25, 0.5]}')  # as nnU-Net writes it of a picture
    assert read_grid(path) == wide
    for wrong in ('{"spacing": [1]}', '{"spacing": [0, 1]}', "{}", "no"):
        (tmp_path / "a.json").write_text(wrong)
        with pytest.raises(ImageError, match=r"a\.json"):
            read_grid(path)


def test_stacks_need_their_spacing(tmp_path: Path) -> None:
    stack = RNG.integers(0, 999, (5, 11, 7), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a_0000.tif", stack, photometric="minisblack")
    with pytest.raises(ImageError, match=r"a\.json beside it"):
        read_volume([tmp_path / "a_0000.tif"])
    (tmp_path / "a.json").write_text('{"spacing": [3, 1, 0.5]}')  # of all channels, as nnU-Net has it
    volume = read_volume([tmp_path / "a_0000.tif"])
    assert np.array_equal(volume.array[0], stack.T) and volume.grid == grid((7, 11, 5), (0.5, 1.0, 3.0))
    write_labels(tmp_path / "b.tif", (stack.T > 500).astype(np.int32), volume.grid)
    assert read_labels(tmp_path / "b.tif").grid == volume.grid
    write_scalars(tmp_path / "c.tif", stack.T / 7, volume.grid)
    assert np.allclose(read_volume([tmp_path / "c.tif"]).array[0], stack.T / 7)


def test_stacks_of_cubes_come_back_and_an_old_spacing_is_put_right(tmp_path: Path) -> None:
    cubes = grid((7, 11, 5))
    write_labels(tmp_path / "a.tif", np.ones((7, 11, 5), dtype=np.int32), cubes)
    assert read_labels(tmp_path / "a.tif").grid == cubes
    for spacing in ((0.5, 0.5, 1.0), (1.0, 1.0, 1.0)):
        write_labels(tmp_path / "b.png", LABELS.T[..., None].astype(np.int32), grid(spacing=spacing))
        assert read_grid(tmp_path / "b.png").spacing_mm == spacing


def test_palettes_are_labels_or_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(LABELS, mode="P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_labels(tmp_path / "a.png").array[..., 0].T, LABELS)
    red = read_volume([tmp_path / "a.png"]).array
    assert len(red) == 3 and np.array_equal(red[0, ..., 0].T == 255, LABELS == 1)


def test_opacity_that_says_nothing_is_no_channel(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([COLOURS, np.full((11, 7), 255, np.uint8)])).save(tmp_path / "a.png")
    assert channels_in(tmp_path / "a.png") == 3
    Image.fromarray(np.dstack([COLOURS, COLOURS[..., 0]])).save(tmp_path / "b.png")
    assert channels_in(tmp_path / "b.png") == 4


def test_what_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    deep = sitk.GetImageFromArray(RNG.integers(0, 60000, (11, 7, 3)).astype(np.uint16), isVector=True)
    sitk.WriteImage(deep, str(tmp_path / "deep.png"))
    deeper = sitk.GetImageFromArray(RNG.integers(0, 60000, (11, 7, 4)).astype(np.uint16), isVector=True)
    sitk.WriteImage(deeper, str(tmp_path / "deeper.png"))
    tifffile.imwrite(
        tmp_path / "time.tif", np.zeros((2, 3, 11, 7), np.uint8), photometric="minisblack", metadata={"axes": "TZYX"}
    )
    whole = tmp_path / "whole.png"
    Image.fromarray(COLOURS).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:150])
    (tmp_path / "none.tif").write_bytes(b"no picture")
    for name, said in (
        ("deep.png", "16 bits"),
        ("deeper.png", "16 bits"),
        ("time.tif", "TZYX"),
        ("cut.png", "damaged"),
        ("none.tif", "damaged"),
    ):
        with pytest.raises(ImageError, match=f"{name}.*{said}"):
            read_volume([tmp_path / name])
    for array, name in ((np.full((7, 11, 1), -1), "a.png"), (np.full((7, 11, 1), 300), "a.bmp")):
        with pytest.raises(ImageError, match="whole numbers from 0"):
            write_labels(tmp_path / name, array, grid())
    with pytest.raises(ImageError, match="whole numbers from 0"):
        write_scalars(tmp_path / "a.png", np.zeros((7, 11, 1)), grid())
    assert not (tmp_path / "a.png").exists()


def test_pictures_beside_scans_and_segmentations_are_none_of_them(tmp_path: Path) -> None:
    for name in ("case.png", "best_case.png", "other.png"):
        Image.fromarray(LABELS).save(tmp_path / name)
    for name in ("worst_case.png", "median_other.png"):
        Image.fromarray(COLOURS).save(tmp_path / name)
    assert set(segmentation_files(tmp_path)) == {"case", "best_case", "other"}  # drawings are in colours
    write_labels(tmp_path / "case.nii.gz", LABELS.T[..., None].astype(np.int32), grid())
    assert [path.name for path in segmentation_files(tmp_path).values()] == ["case.nii.gz"]
    assert [case.images[0].name for case in list_cases(tmp_path, None, channels=1)] == ["case.nii.gz"]


def test_a_height_that_the_file_does_not_hold_is_refused(tmp_path: Path) -> None:
    """tifffile would look for forty million strips."""
    path = tmp_path / "bad.tif"
    tifffile.imwrite(path, np.arange(42, dtype=np.uint8).reshape(6, 7), compression="zlib", metadata=None)
    content = path.read_bytes()
    height = struct.pack("<HHI", 257, 4, 1), struct.pack("<HHI", 257, 3, 1)  # as a long or a short number
    at = max(content.find(one) for one in height)
    path.write_bytes(content[: at + 2] + struct.pack("<HII", 4, 1, 1 << 28) + content[at + 12 :])
    for read in (read_grid, lambda path: read_volume([path])):
        with pytest.raises(ImageError, match=r"bad\.tif: is damaged: 1 of \d+ parts"):
            read(path)


def test_pages_that_lead_round_are_refused(tmp_path: Path) -> None:
    """tifffile would go round for ever."""
    path = tmp_path / "bad.tif"
    tifffile.imwrite(path, np.zeros((2, 6, 7), dtype=np.uint8), metadata=None)
    with tifffile.TiffFile(path) as file:
        first, last = (page.offset for page in file.pages)
    content, count = path.read_bytes(), struct.unpack("<H", path.read_bytes()[last : last + 2])[0]
    end = last + 2 + 12 * count
    path.write_bytes(content[:end] + struct.pack("<I", first) + content[end + 4 :])
    for read in (read_grid, lambda path: read_volume([path])):
        with pytest.raises(ImageError, match=r"bad\.tif: is damaged: its pages lead round"):
            read(path)
