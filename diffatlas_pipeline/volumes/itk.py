"""NRRD and MetaImage files (.mha, .mhd) through SimpleITK.

ITK's world axes run left, posterior, superior; ours right, anterior, superior: the first two are negated on the way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffatlas_pipeline.errors import ImageError, NotScalar
from diffatlas_pipeline.volumes.compressed import check_checksum, check_data_file
from diffatlas_pipeline.volumes.grids import Grid, usable
from diffatlas_pipeline.volumes.room import BYTES_PER_VOXEL, check_room

if TYPE_CHECKING:
    import SimpleITK as sitk

ENDINGS = (".nrrd", ".mha", ".mhd")

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_META_HEADER_BYTES, _NRRD_HEADER_BYTES = 4096, 65536
_LARGEST = 1e100
_READERS = {".mha": "MetaImageIO", ".mhd": "MetaImageIO", ".nrrd": "NrrdImageIO"}


def read(path: Path) -> tuple[np.ndarray, Grid]:
    """The values (X, Y, Z) of an NRRD or MetaImage file and their grid. Raises ImageError."""
    reader = open_header(path)
    grid = usable(header_grid(reader, path), path)  # before the values: ITK never ends at a direction of 1e308
    check_room(math.prod(grid.shape) * BYTES_PER_VOXEL, path)
    try:
        check_checksum(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    return execute(reader, path).reshape(grid.shape), grid


def read_grid(path: Path) -> Grid:
    """The grid of an NRRD or MetaImage file, from its header alone. Raises ImageError."""
    return header_grid(open_header(path), path)


def write(path: Path, array: np.ndarray, grid: Grid, like: Path | None) -> None:
    """Write ``array`` (X, Y, Z) on ``grid``, with the exact geometry of ``like`` if that has this grid. Raises
    OSError.
    """
    import SimpleITK as sitk

    template = open_header(like) if like is not None else None
    try:
        if template is not None and like is not None and header_grid(template, like) == grid:
            shape = (*grid.shape, 1)[: template.GetDimension()]
            image = sitk.GetImageFromArray(np.ascontiguousarray(array.reshape(shape).T))
            _place(image, template.GetOrigin(), template.GetSpacing(), template.GetDirection())
        else:
            image = image_of(array, grid)
        sitk.WriteImage(image, str(path), useCompression=True)
        check_checksum(path)  # ITK does not say that a drive is full
    except RuntimeError as error:
        raise OSError(_reason(error)) from error
    except ValueError as error:
        raise OSError(f"what was written is incomplete: {error}") from error


def image_of(array: np.ndarray, grid: Grid) -> sitk.Image:
    """``array`` (X, Y, Z) on ``grid`` as an image; of two dimensions where the grid has two."""
    import SimpleITK as sitk

    dimensions = grid.dimensions
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.reshape((*grid.shape, 1)[:dimensions]).T))
    matrix = LPS_TO_RAS @ grid.matrix
    columns = matrix[:dimensions, :dimensions]
    spacing = np.linalg.norm(columns, axis=0)
    _place(image, matrix[:dimensions, 3], spacing, (columns / spacing).ravel())
    return image


def values_of(image: sitk.Image) -> tuple[np.ndarray, Grid]:
    """The values (X, Y, Z) of an image and their grid. Raises ImageError for what is not scalar, or not of 2 or 3
    axes.
    """
    import SimpleITK as sitk

    grid = _grid_of(image, image.GetNumberOfComponentsPerPixel(), "the image")
    return sitk.GetArrayFromImage(image).T.reshape(grid.shape), grid


def _place(image: sitk.Image, origin: Sequence[float], spacing: Sequence[float], direction: Sequence[float]) -> None:
    image.SetOrigin([float(v) for v in origin])
    image.SetSpacing([float(v) for v in spacing])
    image.SetDirection([float(v) for v in direction])


def open_header(path: Path) -> sitk.ImageFileReader:
    """A reader that has read the header of ``path``. Raises ImageError."""
    import SimpleITK as sitk

    if path.name.lower().endswith((".mha", ".mhd")):
        _check_meta_header(path)
    if path.name.lower().endswith(".nrrd"):
        _check_nrrd_header(path)
    if path.suffix.lower() in _READERS:
        try:
            check_data_file(path)
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    if (kind := _READERS.get(path.suffix.lower())) is not None:  # ITK itself goes by small letters
        reader.SetImageIO(kind)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _damaged(path, error) from error
    return reader


def _check_meta_header(path: Path) -> None:
    """Refuse what would end the process inside ITK: a wild number of axes, or a data file that is not there."""
    try:
        with path.open("rb") as file:
            header = file.read(_META_HEADER_BYTES)
    except OSError as error:
        raise _damaged(path, error) from error
    axes = re.search(rb"^NDims\s*=\s*(\d+)\s*$", header, re.MULTILINE)
    data = re.search(rb"^ElementDataFile\s*=([^\r\n]*)", header, re.MULTILINE)
    if axes is None or int(axes.group(1)) not in (2, 3, 4) or data is None:
        raise _damaged(path, ValueError("no valid NDims and ElementDataFile in its header"))
    name = data.group(1).strip().decode("utf-8", errors="replace")
    if name != "LOCAL" and not name.startswith("LIST") and "%" not in name and not (path.parent / name).is_file():
        raise _damaged(path, FileNotFoundError(f"its data file {name!r} is missing"))


def _check_nrrd_header(path: Path) -> None:
    """Refuse a geometry of numbers so large that ITK takes the identity in its place, and does not say so."""
    try:
        with path.open("rb") as file:
            header = file.read(_NRRD_HEADER_BYTES).split(b"\n\n")[0]
    except OSError as error:
        raise _damaged(path, error) from error
    for line in re.findall(rb"^(?:space directions|space origin|spacings):(.*)$", header, re.MULTILINE):
        numbers = [float(one) for one in re.findall(rb"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?", line)]
        if any(abs(number) > _LARGEST for number in numbers):
            raise _damaged(path, ValueError(f"numbers beyond {_LARGEST:g} in its geometry"))


def execute(reader: sitk.ImageFileReader | sitk.ImageSeriesReader, path: Path) -> np.ndarray:
    """The image's values with axes (X, Y, ...). Raises ImageError."""
    import SimpleITK as sitk

    try:
        return sitk.GetArrayFromImage(reader.Execute()).T
    except RuntimeError as error:
        raise _damaged(path, error) from error


def header_grid(reader: sitk.ImageFileReader, path: Path) -> Grid:
    """The grid that a header describes; trailing axes of length one do not count. Raises ImageError for what is not
    scalar.
    """
    return _grid_of(reader, reader.GetNumberOfComponents(), str(path))


def _grid_of(reader: sitk.ImageFileReader | sitk.Image, components: int, source: str) -> Grid:
    size = reader.GetSize()
    dimensions = reader.GetDimension()
    if components != 1 or dimensions < 2 or any(n != 1 for n in size[3:]):
        raise NotScalar(f"{source}: found shape {' x '.join(str(n) for n in size)} with {components} components")
    kept = min(dimensions, 3)
    direction = np.array(reader.GetDirection()).reshape(dimensions, dimensions)[:kept, :kept]
    affine = np.eye(4)
    affine[:kept, :kept] = direction * np.array(reader.GetSpacing()[:kept])
    affine[:kept, 3] = reader.GetOrigin()[:kept]
    x, y, z = (*size, 1)[:3]
    return Grid.of((x, y, z), LPS_TO_RAS @ affine, 2 if z == 1 else 3)


def _damaged(path: Path, error: BaseException) -> ImageError:
    return ImageError(
        f"{path}: cannot be read ({_reason(error)}). It is damaged, incomplete or of another format; export it again."
    )


def _reason(error: BaseException) -> str:
    """The last line of an ITK message, which holds the reason; the lines before name source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
