"""Read and write images and labels, whatever their format; the geometry is kept exactly."""

from __future__ import annotations

import shutil
import tempfile
import types
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffatlas_pipeline.errors import ImageError, NotScalar
from diffatlas_pipeline.volumes import dicom, itk, nifti, pictures
from diffatlas_pipeline.volumes.dicom_elements import is_dicom
from diffatlas_pipeline.volumes.dicom_series import stands_for_series
from diffatlas_pipeline.volumes.grids import Grid, LabelVolume, Volume, grid_difference, usable
from diffatlas_pipeline.volumes.in_memory import finite

_DICOM = (".dcm", ".dicom", ".ima")
VOLUME_ENDINGS: tuple[str, ...] = (*nifti.ENDINGS, *itk.ENDINGS)
FILE_ENDINGS: tuple[str, ...] = (*VOLUME_ENDINGS, *pictures.ENDINGS)

WHOLE = 1e-4  # scaled integers are off by so much in single precision
_LABEL_DTYPES = (np.uint8, np.uint16, np.int16, np.int32, np.uint32)  # the first that holds all values is taken


def ending_of(path: Path) -> str | None:
    """The ending of an image file as it is written, such as ".nii.gz" or ".MHA"; None for anything else, for folders,
    and for names that are no text (:func:`is_text`).
    """
    if path.is_dir() or not is_text(path.name):
        return None
    lower = path.name.lower()
    return next((path.name[-len(ending) :] for ending in FILE_ENDINGS if lower.endswith(ending)), None)


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8; those of other encodings cannot, and appear in no record or page."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def name_without_ending(path: Path) -> str:
    """The name of an image file without :func:`ending_of`, whatever dots are in it."""
    return path.name[: len(path.name) - len(ending_of(path) or "")]


def is_series(path: Path) -> bool:
    """Whether an image's ``path`` is that of a DICOM series: its folder, or one of its files that stands for all."""
    return ending_of(path) is None and stands_for_series(path)


def check_format(path: Path) -> None:
    """ImageError if files named like ``path`` cannot be read."""
    _format_of(path, "read")


def read_volume(paths: Sequence[Path], tolerance_mm: float | None = None) -> Volume:
    """Read an image of one file (or DICOM series) per channel, or of pictures that hold several: array (C, X, Y, Z)
    float32, on the first file's grid.

    Raises ImageError, naming the file, for what is missing, damaged, not scalar or not finite, and for channels whose
    grids differ by more than ``tolerance_mm`` (default: see
    :func:`~diffatlas_pipeline.volumes.grids.default_tolerance_mm`).
    """
    if not paths:
        raise ValueError("an image needs at least one file")
    channels: list[np.ndarray] = []
    first: Grid | None = None
    for path in paths:
        values, grid = _read_channels(Path(path))
        first = first or grid
        difference = grid_difference(first, grid, tolerance_mm)
        if difference:
            raise ImageError(
                f"{path}: not on the grid of {paths[0]} ({difference}). Resample one channel onto the other's grid."
            )
        with np.errstate(over="ignore"):
            real = values.astype(np.float32, order="K", copy=False)  # transposing is slow; orientation does it once
        channels += [finite(channel, str(path)) for channel in real]
    assert first is not None
    array = channels[0][None] if len(channels) == 1 else np.stack(channels)
    return Volume(array, first, ", ".join(str(path) for path in paths))


def read_labels(path: Path) -> LabelVolume:
    """Read a segmentation: array (X, Y, Z) of integers. Raises ImageError for a bad file or values that are no
    integers.
    """
    try:
        values, grid = read_scalars(Path(path))
    except NotScalar as error:
        raise ImageError(
            f"{error.found}, but a segmentation is one label map of 2 or 3 axes. If its segments overlap or lie in layers "
            "(.seg.nrrd), export them as one label map, such as with 'Export to new labelmap' in 3D Slicer."
        ) from error
    if values.dtype.kind == "f":
        whole = np.rint(values)
        with np.errstate(invalid="ignore"):  # of infinite values
            wrong = values[~((np.abs(whole - values) <= WHOLE) & (np.abs(values) < 2**31))]
        if wrong.size:
            examples = ", ".join(f"{value:g}" for value in np.unique(wrong)[:5])
            raise ImageError(
                f"{path}: labels must be integers of at most 31 bits, but {wrong.size} voxels are not (such as {examples}). "
                "Export the segmentation as a label map, not as probabilities or resampled with interpolation."
            )
        values = whole.astype(np.int32)
    elif values.dtype.kind == "b":
        values = values.astype(np.uint8)
    return LabelVolume(values.astype(values.dtype.newbyteorder("="), order="K", copy=False), grid, str(path))


def read_scalars(path: Path) -> tuple[np.ndarray, Grid]:
    """Read an image or label file, or a DICOM series, as it is: values (X, Y, Z) in the file's own type (scaled
    as its header says), and their grid. Raises ImageError.
    """
    if is_series(path):
        values, grid = dicom.read(path)
    else:
        values, grid = _format_of(path, "read").read(path)
    if values.dtype.kind not in "biuf":
        raise ImageError(
            f"{path}: its voxels are of type {values.dtype}, but must be integers or real numbers. Export it again."
        )
    return values, usable(grid, path)


def read_grid(path: Path) -> Grid:
    """The grid of an image or label file, or of a DICOM series, without reading its voxels. Raises
    ImageError.
    """
    path = Path(path)
    if is_series(path):
        return usable(dicom.read_grid(path), path)
    return usable(_format_of(path, "read").read_grid(path), path)


def modality_in_header(path: Path) -> str | None:
    """What a DICOM series says that it is: "CT", "MRI", "PT" ...; None where nothing is said, as in other
    formats, or the series cannot be read.
    """
    if not is_series(path):
        return None
    try:
        named = dicom.modality(path)
    except ImageError:
        return None  # reading it will say what is wrong
    return "MRI" if named == "MR" else named or None


def write_labels(
    path: Path, array: np.ndarray, grid: Grid, like: Path | None = None, names: Mapping[int, str] | None = None
) -> None:
    """Write a segmentation ``array`` (X, Y, Z) of integers on ``grid``, in the smallest type that holds its values.

    ``like`` is the image it belongs to: in the same format as ``path``, its number of axes, exact affine and (NIfTI)
    qform and sform codes and units are taken over. A NIfTI file also holds the ``names`` of the values. The file
    appears whole or not at all. Raises ImageError if it cannot be written.
    """
    if array.dtype.kind not in "biu":
        raise ValueError(f"labels must be integers, received {array.dtype}")
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    kind = next((kind for kind in _LABEL_DTYPES if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max), None)
    if kind is None:
        raise ImageError(f"{path}: label values from {low} to {high} do not fit into 32 bits. Use smaller label values.")
    _write(Path(path), array.astype(kind), grid, like, names)


def write_scalars(path: Path, array: np.ndarray, grid: Grid, like: Path | None = None) -> None:
    """Write a scalar map ``array`` (X, Y, Z) on ``grid`` as float32; otherwise as :func:`write_labels`. PNG and BMP
    hold none: :func:`ending_for_scalars`.
    """
    _write(Path(path), np.asarray(array, dtype=np.float32), grid, like)


def channels_in(path: Path) -> int:
    """How many channels a file holds: several are in pictures with colours alone. Raises ImageError."""
    return pictures.channels_in(path) if is_picture(path) else 1


def is_picture(path: Path) -> bool:
    """Whether ``path`` is named like a picture or TIFF file."""
    return (ending_of(path) or "").lower() in pictures.ENDINGS


def ending_for_scalars(ending: str) -> str:
    """In what kind of file scalar maps go beside files with ``ending``: the same, but TIFF for PNG and BMP."""
    return ".tif" if ending.lower() in pictures.ENDINGS else ending


def _read_channels(path: Path) -> tuple[np.ndarray, Grid]:
    """Values of all channels of a file (C, X, Y, Z)."""
    if not (is_picture(path) and path.is_file()):
        values, grid = read_scalars(path)
        return values[None], grid
    values, grid = pictures.read_channels(path)
    return values, usable(grid, path)


def _format_of(path: Path, verb: str) -> types.ModuleType:
    """The module that reads and writes files named like ``path``."""
    if verb == "read" and not path.exists():
        raise ImageError(f"{path}: no such file. Check its name, and that the drive is connected.")
    ending = (ending_of(path) or "").lower()
    if ending in nifti.ENDINGS:
        return nifti
    if ending in itk.ENDINGS:
        return itk
    if ending in pictures.ENDINGS:
        return pictures
    if verb == "read" and (path.name.lower().endswith(_DICOM) or is_dicom(path)):
        raise ImageError(f"{path}: one slice of DICOM. Give the folder that holds its whole series.")
    raise ImageError(
        f"{path}: cannot {verb} this kind of file. Allowed are {', '.join(FILE_ENDINGS)} (to read, DICOM folders too)."
    )


def _write(path: Path, array: np.ndarray, grid: Grid, like: Path | None, names: Mapping[int, str] | None = None) -> None:
    """Write into a hidden folder beside ``path`` first, so that no half-written file ever bears its name."""
    if array.shape != grid.shape:
        raise ValueError(f"array of shape {array.shape} does not fit its grid of shape {grid.shape}")
    form = _format_of(path, "write")
    ending = ending_of(path) or ""
    template = like if like is not None and like.is_file() and (ending_of(like) or "").lower() in form.ENDINGS else None
    folder = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        written = folder / f"{name_without_ending(path)}{ending.lower()}"  # libraries go by small letters
        if names and form is nifti:  # the one format with room for them
            nifti.write(written, array, grid, template, names)
        else:
            form.write(written, array, grid, template)
        # a separate data file goes before its header
        for part in sorted(folder.iterdir(), key=lambda part: part == written):
            part.replace(path.parent / (path.name if part == written else part.name))
        if form is pictures:
            pictures.tell_spacing_again(path, grid)
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be written ({error.strerror or error}). Check that the folder exists, is writable and has space."
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
