"""NIfTI files (.nii, .nii.gz) through nibabel."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError

from diffatlas_pipeline.contracts import Grid
from diffatlas_pipeline.errors import ImageError

ENDINGS = (".nii.gz", ".nii")

_UNREADABLE = (
    OSError,
    EOFError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
    HeaderTypeError,
    ValueError,
    OverflowError,
    MemoryError,
)
_LARGEST_NIFTI1_AXIS = 32767  # its header holds shapes as signed 16-bit integers


def read(path: Path) -> tuple[np.ndarray, Grid]:
    """The values (X, Y, Z) of a NIfTI file, scaled as its header says, and their grid. Raises ImageError."""
    try:
        content = path.read_bytes()
        if path.name.endswith(".gz"):
            content = gzip.decompress(content)  # all of it, so that the checksum at the end is verified
        kind = nib.Nifti2Image if content[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else nib.Nifti1Image
        image = kind.from_bytes(content)
        grid = _grid(image, path)
        array = np.asanyarray(image.dataobj).reshape(grid.shape)
    except _UNREADABLE as error:
        raise _damaged(path, error) from error
    return array, grid


def read_grid(path: Path) -> Grid:
    """The grid of a NIfTI file, from its header alone. Raises ImageError."""
    try:
        return _grid(nib.load(path), path)
    except _UNREADABLE as error:
        raise _damaged(path, error) from error


def write(path: Path, array: np.ndarray, grid: Grid, like: Path | None) -> None:
    """Write ``array`` (X, Y, Z) on ``grid``.

    From ``like``, a NIfTI file of the same grid, come the exact number of axes, affine, qform and sform codes, units and
    NIfTI version; not its window, intent or extensions, which describe the image. Raises OSError.
    """
    template: Any = nib.load(like) if like is not None else None
    if template is None or math.prod(template.shape) != math.prod(grid.shape) or _grid(template, path) != grid:
        image = _new_image(array, grid)
    else:
        header = template.header.copy()
        header.extensions.clear()
        header.set_data_dtype(array.dtype)
        header["cal_min"] = header["cal_max"] = 0
        header["intent_code"] = 0
        for name in ("intent_name", "descrip", "aux_file", "db_name"):
            if name in header:
                header[name] = b""
        image = type(template)(array.reshape(template.shape), template.affine, header)
    image.to_filename(path)


def _new_image(array: np.ndarray, grid: Grid) -> Any:
    shape = grid.shape[:2] if grid.dimensions == 2 else grid.shape
    kind = nib.Nifti1Image if max(shape) <= _LARGEST_NIFTI1_AXIS else nib.Nifti2Image
    image = kind(array.reshape(shape), grid.matrix)
    image.header.set_xyzt_units("mm")
    image.set_sform(grid.matrix, code=1)
    directions = grid.matrix[:3, :3] / np.asarray(grid.spacing_mm)
    if np.allclose(directions.T @ directions, np.eye(3), atol=1e-5):
        image.set_qform(grid.matrix, code=1)
    else:  # a quaternion cannot hold a sheared grid
        image.set_qform(None, code=0)
    return image


def _grid(image: Any, path: Path) -> Grid:
    """The grid of an opened image; trailing axes of length one do not count."""
    shape = image.shape
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    kind = image.get_data_dtype()
    if len(shape) not in (2, 3) or kind.names is not None or kind.kind == "c":
        found = f"shape {' x '.join(str(n) for n in image.shape)} of type {'RGB' if kind.names else kind}"
        raise ImageError(
            f"{path}: found {found}, but one file holds one scalar channel of 2 or 3 axes. "
            "Write each channel (or time point) to a file of its own (case_0000, case_0001, ...)."
        )
    if 0 in shape:
        raise ImageError(f"{path}: holds no voxels (shape {shape}). Export it again.")
    x, y, z = (*shape, 1)[:3]
    return Grid.of((x, y, z), np.asarray(image.affine), 2 if z == 1 else 3)


def _damaged(path: Path, error: BaseException) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(
        f"{path}: cannot be read as NIfTI ({reason}). It is damaged, incomplete or of another format; export it again."
    )
