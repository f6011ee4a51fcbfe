"""NRRD, MetaImage (.mha, .mhd) and DICOM series through SimpleITK.

ITK's world axes run left, posterior, superior; ours right, anterior, superior: the first two are negated on the way.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from diffatlas_pipeline.contracts import Grid
from diffatlas_pipeline.errors import ImageError

ENDINGS = (".nrrd", ".mha", ".mhd")

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_POSITION, _ORIENTATION = "0020|0032", "0020|0037"  # DICOM tags, in mm and as direction cosines


def read(path: Path) -> tuple[np.ndarray, Grid]:
    """The values (X, Y, Z) of an NRRD or MetaImage file and their grid. Raises ImageError."""
    reader = _open(path)
    grid = _grid(reader, path)
    return _execute(reader, path).reshape(grid.shape), grid


def read_grid(path: Path) -> Grid:
    """The grid of an NRRD or MetaImage file, from its header alone. Raises ImageError."""
    return _grid(_open(path), path)


def dicom_files(folder: Path) -> tuple[str, ...]:
    """The files of the one DICOM series in ``folder``, in slice order; empty if there is none.

    Raises ImageError if there are several.
    """
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) > 1:
        raise ImageError(
            f"{folder}: holds {len(series)} DICOM series, but a case is one. Put each series into a folder of its own."
        )
    return tuple(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])) if series else ()


def read_dicom(folder: Path) -> tuple[np.ndarray, Grid]:
    """The values (X, Y, Z) of the DICOM series in ``folder``, rescaled as its headers say, and their grid.

    The grid comes from the positions of all slices. Raises ImageError for unevenly spaced, missing or doubled slices.
    """
    grid = read_dicom_grid(folder)
    names = dicom_files(folder)
    if len(names) == 1:
        return _execute(_open(Path(names[0])), folder).reshape(grid.shape), grid
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    return _execute(reader, folder).reshape(grid.shape), grid


def read_dicom_grid(folder: Path) -> Grid:
    """The grid of the DICOM series in ``folder``, from its headers alone. Raises ImageError as :func:`read_dicom`."""
    names = dicom_files(folder)
    if not names:
        raise ImageError(
            f"{folder}: holds no DICOM series. Give a folder of DICOM slices, or image files ({', '.join(ENDINGS)})."
        )
    headers = [_open(Path(name)) for name in names]
    first = _grid(headers[0], folder)
    if len(names) == 1:
        return first
    for name, header in zip(names, headers, strict=True):
        if not _same_plane(header, headers[0]):
            raise ImageError(
                f"{name}: its size, position or orientation does not fit the other slices. Export the series again."
            )
    positions = np.array([_numbers(header, _POSITION) for header in headers])
    steps = np.diff(positions, axis=0)
    step = (positions[-1] - positions[0]) / (len(names) - 1)
    length = float(np.linalg.norm(step))
    uneven = float(np.abs(steps - step).max())
    if length == 0.0 or uneven > max(0.01 * length, 0.01):
        gaps = np.linalg.norm(steps, axis=1)
        raise ImageError(
            f"{folder}: its slices are {gaps.min():.4g} to {gaps.max():.4g} mm apart, but even spacing is needed. "
            "A slice is missing or doubled: export the series again."
        )
    affine = first.matrix
    affine[:3, 2] = _LPS_TO_RAS[:3, :3] @ step
    affine[:3, 3] = _LPS_TO_RAS[:3, :3] @ positions[0]
    return Grid.of((first.shape[0], first.shape[1], len(names)), affine)


def write(path: Path, array: np.ndarray, grid: Grid, like: Path | None) -> None:
    """Write ``array`` (X, Y, Z) on ``grid``, with the exact geometry of ``like`` if that has this grid. Raises OSError."""
    dimensions = grid.dimensions
    template = _open(like) if like is not None else None
    if template is not None and like is not None and _grid(template, like) == grid:
        dimensions = template.GetDimension()
    else:
        template = None
    shape = (*grid.shape, 1)[:dimensions]
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.reshape(shape).T))
    if template is not None:
        origin, spacing, direction = template.GetOrigin(), template.GetSpacing(), template.GetDirection()
    else:
        matrix = _LPS_TO_RAS @ grid.matrix
        columns = matrix[:dimensions, :dimensions]
        spacing = np.linalg.norm(columns, axis=0)
        origin, direction = matrix[:dimensions, 3], (columns / spacing).ravel()
    try:
        image.SetOrigin([float(v) for v in origin])
        image.SetSpacing([float(v) for v in spacing])
        image.SetDirection([float(v) for v in direction])
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise OSError(_reason(error)) from error


def _open(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _damaged(path, error) from error
    return reader


def _execute(reader: sitk.ImageFileReader | sitk.ImageSeriesReader, path: Path) -> np.ndarray:
    """The image's values with axes (X, Y, ...)."""
    try:
        return sitk.GetArrayFromImage(reader.Execute()).T
    except RuntimeError as error:
        raise _damaged(path, error) from error


def _grid(reader: sitk.ImageFileReader, path: Path) -> Grid:
    """The grid that a header describes; trailing axes of length one do not count."""
    size = reader.GetSize()
    dimensions = reader.GetDimension()
    if reader.GetNumberOfComponents() != 1 or dimensions < 2 or any(n != 1 for n in size[3:]):
        raise ImageError(
            f"{path}: found shape {' x '.join(str(n) for n in size)} with {reader.GetNumberOfComponents()} components, but one "
            "file holds one scalar channel of 2 or 3 axes. Write each channel to a file of its own (case_0000, case_0001, ...)."
        )
    kept = min(dimensions, 3)
    direction = np.array(reader.GetDirection()).reshape(dimensions, dimensions)[:kept, :kept]
    affine = np.eye(4)
    affine[:kept, :kept] = direction * np.array(reader.GetSpacing()[:kept])
    affine[:kept, 3] = reader.GetOrigin()[:kept]
    x, y, z = (*size, 1)[:3]
    return Grid.of((x, y, z), _LPS_TO_RAS @ affine, 2 if z == 1 else 3)


def _same_plane(header: sitk.ImageFileReader, other: sitk.ImageFileReader) -> bool:
    """Whether two DICOM slices have one size and direction, and the first a position."""
    directions = _numbers(header, _ORIENTATION), _numbers(other, _ORIENTATION)
    return (
        header.GetSize()[:2] == other.GetSize()[:2]
        and np.allclose(header.GetSpacing()[:2], other.GetSpacing()[:2], rtol=1e-4)
        and len(directions[0]) == len(directions[1]) == 6
        and np.allclose(*directions, atol=1e-4)
        and len(_numbers(header, _POSITION)) == 3
    )


def _numbers(header: sitk.ImageFileReader, tag: str) -> list[float]:
    return [float(number) for number in header.GetMetaData(tag).split("\\")] if header.HasMetaDataKey(tag) else []


def _damaged(path: Path, error: BaseException) -> ImageError:
    return ImageError(
        f"{path}: cannot be read ({_reason(error)}). It is damaged, incomplete or of another format; export it again."
    )


def _reason(error: BaseException) -> str:
    """The last line of an ITK message, which holds the reason; the lines before name source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
