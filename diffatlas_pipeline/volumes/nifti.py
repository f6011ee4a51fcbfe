"""NIfTI files (.nii, .nii.gz) through nibabel."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Extension
from nibabel.spatialimages import HeaderDataError, HeaderTypeError
from nibabel.wrapstruct import WrapStructError

from diffatlas_pipeline.errors import ImageError, NotScalar
from diffatlas_pipeline.volumes.compressed import GZIP, decompressed, first_bytes
from diffatlas_pipeline.volumes.grids import SFORM, Grid
from diffatlas_pipeline.volumes.room import check_room

ENDINGS = (".nii.gz", ".nii")

_UNREADABLE = (
    *(OSError, EOFError, zlib.error, ValueError, OverflowError),
    *(ImageFileError, HeaderDataError, HeaderTypeError, WrapStructError),
)
_SPARE_BYTES = 1 << 20  # that a file may hold behind its voxels
_HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348
_NIFTI2_SIZES = (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")  # 540 in either byte order, the first field of a header
_MM = {1: 1e3, 2: 1.0, 3: 1e-3}  # of a header's unit: metre, mm, micron; headers that name none are in mm
_UNITS_OF_SPACE = 0x07  # the bits of xyzt_units that tell it
_QUATERNION = ("quatern_b", "quatern_c", "quatern_d")
_ROUNDED = 1e-4  # by so much may the square of a quaternion's length exceed 1
_LARGEST_NIFTI1_AXIS = 32767  # its header holds shapes as signed 16-bit integers


def read(path: Path) -> tuple[np.ndarray, Grid]:
    """The values (X, Y, Z) of a NIfTI file, scaled as its header says, and their grid. Raises ImageError."""
    try:
        content = path.read_bytes()
        packed = content[:2] == GZIP
        header = _header(first_bytes(content, _HEADER_BYTES) if packed else content)
        needed = header.get_data_offset() + math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
        check_room(needed, path)
        if packed:
            content = decompressed(content, needed + _SPARE_BYTES)
        mended = header.binaryblock
        if mended != content[: len(mended)]:
            content = mended + content[len(mended) :]
        grid = _grid(header, path)
        if len(content) < needed:
            raise EOFError(f"holds {len(content)} bytes, but its header announces {needed}")
        array = np.asanyarray(_kind(content).from_bytes(content).dataobj).reshape(grid.shape)
    except _UNREADABLE as error:
        raise _damaged(path, error) from error
    return array, grid


def read_grid(path: Path) -> Grid:
    """The grid of a NIfTI file, from its header alone. Raises ImageError."""
    return _grid(_read_header(path), path)


def write(path: Path, array: np.ndarray, grid: Grid, like: Path | None, names: Mapping[int, str] | None = None) -> None:
    """Write ``array`` (X, Y, Z) on ``grid``, with the ``names`` of its values in an extension of the header.

    From ``like``, a NIfTI file of the same grid, come the exact number of axes, affine, qform and sform codes, units
    and NIfTI version; not its window, intent, texts or extensions, which describe the image (and may name a patient).
    Raises OSError, or ImageError if ``like`` is damaged.
    """
    header = _read_header(like) if like is not None else None
    if header is None or like is None or _grid(header, like) != grid:
        image = image_of(array, grid)
    else:
        header.set_data_dtype(array.dtype)
        for field in ("cal_min", "cal_max", "intent_code", "intent_p1", "intent_p2", "intent_p3"):
            header[field] = 0
        for field in ("intent_name", "descrip", "aux_file"):
            header[field] = b""
        kind = nib.Nifti2Image if header["sizeof_hdr"] == _HEADER_BYTES else nib.Nifti1Image
        image = kind(array.reshape(header.get_data_shape()), header.get_best_affine(), header)
    if names:
        image.header.extensions.append(Nifti1Extension("comment", names_text(names)))
    image.to_filename(path)


def names_text(names: Mapping[int, str]) -> bytes:
    """What the extension holds, as JSON in ASCII: {"labels": {"0": "background", "1": "liver"}}."""
    return json.dumps({"labels": {str(value): name for value, name in names.items()}}).encode("ascii")


def values_of(image: Any) -> tuple[np.ndarray, Grid]:
    """The values (X, Y, Z) of a nibabel image and their grid. Raises ImageError for what is not scalar, or not of 2 or
    3 axes.
    """
    header = image.header.copy()
    grid = _grid(header, Path("the image"), image.affine)
    return np.asanyarray(image.dataobj).reshape(grid.shape), grid


def image_of(array: np.ndarray, grid: Grid) -> Any:
    """``array`` (X, Y, Z) on ``grid`` as an image; of two axes where the grid has two."""
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


def nifti_bytes(array: np.ndarray, affine: np.ndarray, slope: float, inter: float) -> bytes:
    """A NIfTI-1 file of ``array`` (X, Y, Z) uint8, whose real values are ``slope * array + inter``. It names no
    patient.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(array.shape)
    header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    header.set_sform(affine, 1)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = slope, inter, 352
    return header.binaryblock + bytes(4) + array.tobytes(order="F")


def _kind(content: bytes) -> Any:
    return nib.Nifti2Image if content[:4] in _NIFTI2_SIZES else nib.Nifti1Image


def _header(content: bytes) -> Any:
    """The header at the beginning of an uncompressed file; a quaternion that rounding has made too long is mended."""
    header_class = _kind(content).header_class
    header = header_class(content[: header_class.template_dtype.itemsize])
    squared = sum(float(header[name]) ** 2 for name in _QUATERNION)
    if 1 < squared <= 1 + _ROUNDED:
        for name in _QUATERNION:
            header[name] = float(header[name]) / math.sqrt(squared)
    return header


def _read_header(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(_HEADER_BYTES)
        if content[:2] == GZIP:
            with gzip.open(path) as file:
                content = file.read(_HEADER_BYTES)
        return _header(content)
    except _UNREADABLE as error:
        raise _damaged(path, error) from error


def _grid(header: Any, path: Path, affine: np.ndarray | None = None) -> Grid:
    """The grid that a header describes; trailing axes of length one do not count."""
    shape = full_shape = header.get_data_shape()
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    dtype = header.get_data_dtype()
    if len(shape) not in (2, 3) or dtype.names is not None or dtype.kind == "c":
        found = f"shape {' x '.join(str(n) for n in full_shape)} of type {'RGB' if dtype.names else dtype}"
        raise NotScalar(f"{path}: found {found}")
    if min(shape) < 1:
        raise ImageError(f"{path}: holds no voxels (shape {' x '.join(str(n) for n in full_shape)}). Export it again.")
    x, y, z = (*shape, 1)[:3]
    matrix = np.array(header.get_best_affine() if affine is None else affine, dtype=np.float64)
    matrix[:3] *= _MM.get(int(header["xyzt_units"]) & _UNITS_OF_SPACE, 1.0)
    return Grid.of((x, y, z), matrix, 2 if z == 1 else 3, _form_of(header))


def _form_of(header: Any) -> str:
    """Which of its two matrices a header is read by, and whether the other one says something else."""
    by_sform, by_qform = header["sform_code"] > 0, header["qform_code"] > 0
    if not by_sform:
        return "qform" if by_qform else "voxel sizes alone (it has neither sform nor qform)"
    try:
        same = not by_qform or np.allclose(header.get_sform(), header.get_qform(), rtol=1e-3, atol=0.1)
    except (ValueError, HeaderDataError):  # it is none, and is not read
        same = False
    return SFORM if same else f"{SFORM} (its qform says otherwise)"


def _damaged(path: Path, error: BaseException) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"{path}: cannot be read as NIfTI ({reason}). It is damaged or incomplete; export it again.")
