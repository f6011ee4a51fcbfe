"""Pictures (PNG, BMP) and TIFF files, as nnU-Net's readers for natural images and TIFF stacks have them.

A picture is a grid of two dimensions with one channel, or several (red, green, blue). It tells no spacing: that is
1 mm, or what a JSON file beside it says, ``{"spacing": [...]}`` in the order of the file's axes: rows and columns, of a
stack slices before them. Stacks need it. The first pixel is on the patient's right and in front, as ITK has it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffatlas_pipeline.errors import ImageError, NotScalar
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.volumes.grids import Grid, TripleMm
from diffatlas_pipeline.volumes.room import BYTES_PER_VOXEL, check_room

if TYPE_CHECKING:
    import tifffile
    from PIL.Image import Image

TIFF = (".tif", ".tiff")
ENDINGS = (".png", ".bmp", *TIFF)

_MODES = {"1": 1, "L": 1, "P": 1, "I": 1, "I;16": 1, "F": 1, "LA": 2, "RGB": 3, "RGBA": 4}  # bands of Pillow's modes
_LARGEST = {".png": 65535, ".bmp": 255}  # values that these can hold, none below 0
_CHANNEL = re.compile(r"(.+)_\d{4}")


def read(path: Path) -> tuple[np.ndarray, Grid]:
    """The values (X, Y, Z) of a picture or stack with one channel, of a palette the indices, and their grid.

    Raises NotScalar for colours, ImageError for what cannot be read.
    """
    values, grid = _read(path, colours=False)
    if len(values) != 1:
        raise NotScalar(f"{path}: {len(values)} values per pixel (colours)")
    return values[0], grid


def read_channels(path: Path) -> tuple[np.ndarray, Grid]:
    """The channels (C, X, Y, Z) of a picture or stack, and their grid. A palette stands for its colours; of the opacity
    that is the same everywhere, and of colours that are all grey in a palette, one channel is left. Raises ImageError.
    """
    return _read(path, colours=True)


def channels_in(path: Path) -> int:
    """How many channels the file holds. Raises ImageError."""
    return len(read_channels(path)[0])


def read_grid(path: Path) -> Grid:
    """The grid of a picture or stack, from its header. Raises ImageError."""
    if path.suffix.lower() in TIFF:
        with _damage(path):
            shape, _ = _tiff_shape(path)
    else:
        with _opened(path) as picture:
            shape = (picture.width, picture.height, 1)
    return _grid(path, shape)


def write(path: Path, array: np.ndarray, grid: Grid, like: Path | None) -> None:
    """Write labels ``array`` (X, Y, Z) of integers, or into TIFF numbers of any kind; a JSON file beside it tells the
    spacing of a stack, and of a picture where that is not 1 mm. Raises OSError.
    """
    del like  # pictures have no header to take over
    if path.suffix.lower() in TIFF:
        import tifffile

        planes = array[:, :, 0].T if grid.dimensions == 2 else array.T
        tifffile.imwrite(path, np.ascontiguousarray(planes), photometric="minisblack", compression="zlib")
    else:
        from PIL import Image

        largest = _LARGEST[path.suffix.lower()]
        if grid.dimensions != 2 or array.dtype.kind == "f" or array.min() < 0 or array.max() > largest:
            raise OSError(f"a {path.suffix} file holds pictures of whole numbers from 0 to {largest} only")
        kind = np.uint8 if array.max() <= 255 else np.uint16
        Image.fromarray(np.ascontiguousarray(array[:, :, 0].T, dtype=kind)).save(path)
    if grid.dimensions == 3 or grid.spacing_mm[:2] != (1.0, 1.0):
        _write_spacing(path.with_suffix(".json"), grid)


def tell_spacing_again(path: Path, grid: Grid) -> None:
    """Correct a JSON file beside ``path`` that tells another spacing than that of the picture that was just written."""
    beside = path.with_suffix(".json")
    if beside.is_file() and _spacing_mm(path, grid.dimensions) != grid.spacing_mm:
        _write_spacing(beside, grid)


def _write_spacing(path: Path, grid: Grid) -> None:
    spacing = [float(edge) for edge in grid.spacing_mm[: grid.dimensions]]
    write_text_atomically(path, json.dumps({"spacing": spacing[::-1]}) + "\n")


def _read(path: Path, colours: bool) -> tuple[np.ndarray, Grid]:
    """(C, X, Y, Z) and the grid; palettes as ``colours`` or as they are."""
    if path.suffix.lower() in TIFF:
        values, shape = _tiff_values(path)
    else:
        values = _picture_values(path, colours)
        shape = (values.shape[1], values.shape[2], 1)
    return values.reshape((len(values), *shape)), _grid(path, shape)


def _picture_values(path: Path, colours: bool) -> np.ndarray:
    """(C, X, Y)."""
    with _opened(path) as picture:
        check_room(picture.width * picture.height * _MODES[picture.mode] * BYTES_PER_VOXEL, path)
        palette = picture.mode == "P" and colours
        array = np.asarray(picture.convert("RGBA" if "transparency" in picture.info else "RGB") if palette else picture)
    array = array.astype(np.uint8) if array.dtype == bool else array
    channels = _without_opacity(np.atleast_3d(array).transpose(2, 1, 0))
    grey = palette and all(np.array_equal(channels[0], one) for one in channels[1:])
    return channels[:1] if grey else channels


def _tiff_values(path: Path) -> tuple[np.ndarray, tuple[int, int, int]]:
    """(C, X, Y, Z) of the first image or stack in the file."""
    import tifffile

    with _damage(path):
        shape, channels = _tiff_shape(path)
        check_room(math.prod(shape) * channels * BYTES_PER_VOXEL, path)
        with tifffile.TiffFile(path) as file:
            array = file.series[0].asarray()
        if array.size != math.prod(shape) * channels:
            raise ValueError(f"{array.size} of {math.prod(shape) * channels} values are there")
    last = array.reshape((*_planes(shape), channels))  # rows and columns last, but for the colours
    return _without_opacity(np.moveaxis(last, -1, 0).transpose(0, 3, 2, 1)), shape


def _without_opacity(channels: np.ndarray) -> np.ndarray:
    """(C, ...) without the last of two or four channels, if it is the same everywhere."""
    constant = len(channels) in (2, 4) and bool((channels[-1] == channels[-1].flat[0]).all())
    return channels[:-1] if constant else channels


def _tiff_shape(path: Path) -> tuple[tuple[int, int, int], int]:
    """(X, Y, Z) and the number of channels. ImageError for more axes, colours in planes of their own, and palettes."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        _check_pages(file, path)
        if len(file.series) != 1:
            raise ImageError(
                f"{path}: holds {len(file.series)} images of several sizes or kinds. Save each to a file of its own."
            )
        series, page = file.series[0], file.series[0].keyframe
        axes, shape = series.axes, series.shape
        told, there = math.prod(page.chunked), len(page.dataoffsets)
        if told != there:  # it would be gone through part by part, be they millions
            raise ImageError(f"{path}: is damaged: {there} of {told} parts of its first slice are there. Export it again.")
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            raise ImageError(f"{path}: has a palette. Save it with plain numbers, or as PNG.")
    channels = 1
    if axes.endswith("S"):
        channels, shape, axes = shape[-1], shape[:-1], axes[:-1]
    if len(shape) not in (2, 3) or not axes.endswith("YX") or "S" in axes or "C" in axes or "T" in axes:
        found = " x ".join(str(n) for n in series.shape)
        raise ImageError(
            f"{path}: its axes are {series.axes} ({found}); a picture (YX), a stack of slices (ZYX), and colours after them "
            "(S) can be read. Save each channel or time to a file of its own."
        )
    slices, rows, columns = (1, *shape) if len(shape) == 2 else shape
    return (columns, rows, slices), channels


def _check_pages(file: tifffile.TiffFile, path: Path) -> None:
    """ImageError if a page leads back to an earlier one: tifffile would go round for ever."""
    seen = set[int]()
    for page in file.pages:
        if page.offset in seen:
            raise ImageError(f"{path}: is damaged: its pages lead round in a circle. Export it again.")
        seen.add(page.offset)


def _planes(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return shape[2], shape[1], shape[0]


def _grid(path: Path, shape: tuple[int, int, int]) -> Grid:
    dimensions = 2 if shape[2] == 1 else 3
    x, y, z = _spacing_mm(path, dimensions)
    return Grid.of(shape, np.diag([-x, -y, z, 1.0]), dimensions)


def _spacing_mm(path: Path, dimensions: int) -> TripleMm:
    """By the JSON file beside ``path`` or, as nnU-Net has it, beside all channels of its case."""
    match = _CHANNEL.fullmatch(path.stem)
    places = [path.with_suffix(".json"), *([path.with_name(f"{match[1]}.json")] if match else [])]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        if dimensions == 2:
            return 1.0, 1.0, 1.0
        raise ImageError(
            f'{path}: a stack needs the file {places[-1].name} beside it, with {{"spacing": [z, y, x]}} in mm. Write it.'
        )
    try:
        spacing = [float(edge) for edge in json.loads(found.read_text(encoding="utf-8"))["spacing"]]
        flat = spacing[-2:] if dimensions == 2 else spacing  # nnU-Net gives pictures a first axis, too
        if len(spacing) not in (dimensions, 3) or not all(0 < edge < math.inf for edge in flat):
            raise ValueError(f"found {spacing}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        wanted = "[y, x]" if dimensions == 2 else "[z, y, x]"
        raise ImageError(f'{found}: must be as {{"spacing": {wanted}}}, numbers in mm ({error}). Correct it.') from error
    return flat[-1], flat[-2], flat[0] if dimensions == 3 else 1.0


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # there is room for as many as memory holds: see check_room
    with _damage(path), Image.open(path, formats=["PNG", "BMP"]) as picture:
        if picture.mode not in _MODES:
            raise ImageError(f"{path}: pixels of kind {picture.mode} cannot be read. Save it as grey or RGB.")
        if picture.mode in ("LA", "RGB", "RGBA") and path.suffix.lower() == ".png" and _bits_of_png(path) == 16:
            raise ImageError(
                f"{path}: colours and opacity of 16 bits cannot be read from PNG. Save it as TIFF, or with 8 bits."
            )
        yield picture


def _bits_of_png(path: Path) -> int:
    """Bits per value, as byte 24 of the file tells."""
    with path.open("rb") as file:
        return file.read(25)[24]


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """ImageError for all that Pillow and tifffile raise of a file that is none, or that is damaged."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # what they raise of damaged files has no common base
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(f"{path}: cannot be read as a picture; it may be damaged ({reason}). Export it again.") from error
