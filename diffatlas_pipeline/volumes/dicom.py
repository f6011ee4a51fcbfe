"""DICOM series (a folder with one file per slice, or such a file where several series share a folder) through
SimpleITK.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.volumes.dicom_series import ORIENTATION, POSITION, content_of, numbers, quiet
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.itk import LPS_TO_RAS, execute, header_grid, open_header
from diffatlas_pipeline.volumes.room import BYTES_PER_VOXEL, check_room

if TYPE_CHECKING:
    import SimpleITK as sitk

_MODALITY = "0008|0060"
_STORED_AS = ("0028|1052", "0028|1053", "0028|0100", "0028|0103")  # intercept, slope, bits, signed: of each slice
_CROOKED = 0.01  # by which directions may be off unit vectors at right angles
_UNEVEN = 0.1  # of the slice distance: positions may be rounded in the header, a missing slice is off by 1


def read(folder: Path) -> tuple[np.ndarray, Grid]:
    """The values (X, Y, Z) of the DICOM series in ``folder``, rescaled as its headers say, and their grid.

    Here and below, ``folder`` may be a file instead: then it is the series that this file is of.

    The grid comes from the positions of all slices, so that a tilted gantry gives a sheared grid. Raises ImageError for
    several series, and for uneven, missing, doubled, unlike or damaged slices.
    """
    import SimpleITK as sitk

    names, grid = _slices(folder)
    if len(names) == 1:
        return execute(open_header(Path(names[0])), folder).reshape(grid.shape), grid
    if len({_rescaling(open_header(Path(name))) for name in names}) > 1:  # a series is read in the first one's type
        planes = [execute(open_header(Path(name)), folder).reshape(grid.shape[:2]) for name in names]
        return np.stack([plane.astype(np.float32) for plane in planes], axis=2), grid
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    with quiet():
        return execute(reader, folder).reshape(grid.shape), grid


def read_grid(folder: Path) -> Grid:
    """The grid of the DICOM series in ``folder``, from its headers alone. Raises ImageError as :func:`read`."""
    return _slices(folder)[1]


def modality(folder: Path) -> str:
    """The modality that the headers of the DICOM series in ``folder`` name, such as "CT" or "MR"; "" if they name none.

    Raises ImageError as :func:`read`.
    """
    header = open_header(Path(_one_series(folder)[0]))
    return header.GetMetaData(_MODALITY).strip().upper() if header.HasMetaDataKey(_MODALITY) else ""


def files_of(folder: Path) -> list[Path]:
    """The files of the series in ``folder``, in no particular order. Raises ImageError as :func:`read`."""
    return [Path(name) for name in _one_series(folder)]


def slices_of(folder: Path) -> list[Path]:
    """The files of the series in ``folder`` in the order of its last axis. Raises ImageError as :func:`read`."""
    return [Path(name) for name in _slices(folder)[0]]


def _one_series(path: Path) -> list[str]:
    """The files of the series in the folder ``path``, or of the one that the file ``path`` is of."""
    folder = path if path.is_dir() else path.parent
    try:
        content = content_of(folder)
    except OSError as error:
        raise ImageError(f"{error.filename}: cannot be read ({error.strerror}). Copy the series again.") from error
    series = [files for files in content.series.values() if path == folder or path.name in {file.name for file in files}]
    if len(series) != 1:
        found = f"holds {len(series)} DICOM series, but a case is one" if series else "holds no DICOM series"
        raise ImageError(f"{path}: {found}. Put the slices of one series into a folder of their own.")
    if content.lost:
        raise ImageError(
            f"{content.lost[0]}: is empty or damaged, so the series may lack a slice. Copy it again, or take the file "
            "out of the folder if it is none of the slices."
        )
    return [str(file) for file in series[0]]


def _slices(folder: Path) -> tuple[list[str], Grid]:
    """The files of the series, sorted by position, and its grid."""
    names = _one_series(folder)
    headers = [open_header(Path(name)) for name in names]
    _check_directions(headers[0], names[0])
    check_room(sum(math.prod(header.GetSize()) for header in headers) * BYTES_PER_VOXEL, folder)
    first = header_grid(headers[0], folder)
    if len(names) == 1:
        return names, first
    for name, header in zip(names, headers, strict=True):
        if not _same_plane(header, headers[0]):
            raise ImageError(
                f"{name}: its size, position or orientation does not fit the other slices. Export the series again."
            )
    row, column = np.reshape(numbers(headers[0], ORIENTATION), (2, 3))
    positions = np.array([numbers(header, POSITION) for header in headers])
    if not np.isfinite(positions).all():
        name = names[int(np.argmin(np.isfinite(positions).all(axis=1)))]
        raise ImageError(f"{name}: its position is no number: the header is damaged. Export the series again.")
    order = np.argsort(positions @ np.cross(row, column), kind="stable")
    positions = positions[order]
    affine = first.matrix
    affine[:3, 2] = LPS_TO_RAS[:3, :3] @ _step(positions, folder)
    affine[:3, 3] = LPS_TO_RAS[:3, :3] @ positions[0]
    return [names[i] for i in order], Grid.of((first.shape[0], first.shape[1], len(names)), affine)


def _check_directions(header: sitk.ImageFileReader, name: str) -> None:
    """ImageError if the directions of rows and columns are none: GDCM would take others, and not say so."""
    found = numbers(header, ORIENTATION)
    if len(found) != 6:
        return
    with np.errstate(over="ignore"):
        products = np.reshape(found, (2, 3)) @ np.reshape(found, (2, 3)).T
    if not np.allclose(products, np.eye(2), atol=_CROOKED):
        told = ", ".join(f"{one:g}" for one in found)
        raise ImageError(
            f"{name}: its rows and columns have the directions {told}, which are no unit vectors at right angles. The header "
            "is damaged: export the series again."
        )


def _step(positions: np.ndarray, folder: Path) -> np.ndarray:
    """The vector (3,) in mm from one slice to the next, for sorted ``positions`` (slices, 3)."""
    steps = np.diff(positions, axis=0)
    mean = (positions[-1] - positions[0]) / len(steps)
    length = float(np.linalg.norm(mean))
    if length == 0.0 or np.linalg.norm(steps - mean, axis=1).max() > _UNEVEN * length:
        gaps = np.linalg.norm(steps, axis=1)
        raise ImageError(
            f"{folder}: its slices are {gaps.min():.4g} to {gaps.max():.4g} mm apart, but even spacing is needed. "
            "A slice is missing or doubled: export the series again."
        )
    return mean


def _same_plane(header: sitk.ImageFileReader, other: sitk.ImageFileReader) -> bool:
    """Whether two slices have one size, spacing and direction, and the first a position."""
    directions = numbers(header, ORIENTATION), numbers(other, ORIENTATION)
    return (
        header.GetSize()[:2] == other.GetSize()[:2]
        and np.allclose(header.GetSpacing()[:2], other.GetSpacing()[:2], rtol=1e-4)
        and len(directions[0]) == len(directions[1]) == 6
        and np.allclose(*directions, atol=1e-4)
        and len(numbers(header, POSITION)) == 3
    )


def _rescaling(header: sitk.ImageFileReader) -> tuple[str, ...]:
    """How the stored integers of a slice become values."""
    return tuple(header.GetMetaData(tag).strip() if header.HasMetaDataKey(tag) else "" for tag in _STORED_AS)
