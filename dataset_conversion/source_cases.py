"""A case as it lies in a source: which files hold its image and labels, how they are read, and what is wrong with
them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from diffatlas_pipeline.errors import DatasetError, ImageError
from diffatlas_pipeline.volumes import nifti
from diffatlas_pipeline.volumes.grids import Grid, grid_difference
from diffatlas_pipeline.volumes.io import read_labels, read_scalars

_SHOWN_VALUES = 5


@dataclass(frozen=True)
class ImageFile:
    """One channel: a file or DICOM series folder, or volume number ``volume`` of a 4-D NIfTI file of ``volumes``."""

    path: Path
    volume: int | None = None
    volumes: int = 1


@dataclass(frozen=True)
class LabelFiles:
    """A segmentation: one label map; or, with ``values``, one mask of 0 and 1 for each of these label values."""

    paths: tuple[Path, ...]
    values: tuple[int, ...] | None = None


@dataclass(frozen=True)
class SourceCase:
    """One case: a file per channel, and its labels if it has any. ``test``: it is not to be trained on."""

    name: str
    images: tuple[ImageFile, ...]
    labels: LabelFiles | None = None
    test: bool = False


@dataclass(frozen=True)
class Finding:
    """What a readable case holds: its label values without 0, its number of axes (2 or 3), and which of its files,
    by their place among channels and labels, are to get the grid of the first channel.
    """

    values: tuple[int, ...]
    dimensions: int
    displaced: tuple[int, ...] = ()


def check_case(name: str, case: SourceCase, known: Collection[int] | None, fix_geometry: bool) -> Finding:
    """Read all files of a case. DatasetError names everything with which it could not be trained on.

    ``known`` are the label values that may occur, None if any may. With ``fix_geometry`` files of the first channel's
    shape may lie in another place, which the finding then tells.
    """
    problems: list[str] = []
    displaced: list[int] = []
    first: Grid | None = None

    def place(index: int, grid: Grid, what: str) -> None:
        difference = grid_difference(first, grid) if first is not None else None
        if difference is None:
            return
        if fix_geometry and first is not None and grid.shape == first.shape:
            displaced.append(index)
            return
        hint = " (`fix_geometry` gives it the image's place)" if first is not None and grid.shape == first.shape else ""
        problems.append(f"{what}: not on the grid of {case.images[0].path} ({difference}){hint}")

    for index, image in enumerate(case.images):
        try:
            grid = _check_image(image)
        except (ImageError, DatasetError) as error:
            problems.append(str(error))
            continue
        first = grid if index == 0 else first
        place(index, grid, str(image.path))
    values: tuple[int, ...] = ()
    if case.labels is not None:
        try:
            array, grid = labels_of(case.labels)
        except (ImageError, DatasetError) as error:
            problems.append(str(error))
        else:
            place(len(case.images), grid, str(case.labels.paths[0]))
            values = tuple(int(value) for value in np.unique(array) if value != 0)
            problems += _foreign(values, known, case.labels.paths[0])
    if problems:
        raise DatasetError("; ".join(dict.fromkeys(problems)))
    assert first is not None
    return Finding(values, first.dimensions, tuple(displaced))


def _check_image(image: ImageFile) -> Grid:
    """The grid of one channel whose voxels were read. Raises DatasetError or ImageError."""
    values, grid = scalars_of(image)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DatasetError(f"{image.path}: holds voxels that are NaN or infinite")
    if values.min() == values.max():
        raise DatasetError(f"{image.path}: all voxels have the same value, {values.flat[0]}")
    return grid


def _foreign(values: Sequence[int], known: Collection[int] | None, path: Path) -> list[str]:
    foreign = [value for value in values if known is not None and value not in known]
    if not foreign:
        return []
    shown = ", ".join(map(str, foreign[:_SHOWN_VALUES])) + (", …" if len(foreign) > _SHOWN_VALUES else "")
    return [f"{path}: holds label value(s) {shown}, which have no name (named are {', '.join(map(str, sorted(known or ())))})"]


def scalars_of(image: ImageFile) -> tuple[np.ndarray, Grid]:
    """The values (X, Y, Z) of one channel in their own type, and their grid. Raises ImageError or DatasetError."""
    if image.volume is None:
        return read_scalars(image.path)
    return nifti.values_of(volume_of(image))


def volume_of(image: ImageFile) -> Any:
    """One volume of a 4-D NIfTI file as an image with the file's header; values that were stored scaled become float32.

    Raises DatasetError if the file is missing, damaged, or does not hold the expected number of volumes.
    """
    if not image.path.is_file():
        raise DatasetError(f"{image.path}: no such file")
    try:
        whole: Any = nib.load(image.path)
        shape = whole.shape
        if len(shape) == 4 and shape[3] == image.volumes:
            data = np.asanyarray(whole.dataobj[..., image.volume])
    except Exception as error:  # nibabel, zlib and gzip each raise their own kinds
        raise DatasetError(f"{image.path}: cannot be read ({type(error).__name__}: {error})") from error
    if len(shape) != 4 or shape[3] != image.volumes:
        raise DatasetError(f"{image.path}: shape {shape} does not hold the {image.volumes} channel(s) that dataset.json names")
    data = compact(data)
    header = whole.header.copy()
    header.set_data_dtype(data.dtype)
    return type(whole)(data, whole.affine, header)


def labels_of(labels: LabelFiles) -> tuple[np.ndarray, Grid]:
    """The label map (X, Y, Z) of whole numbers and its grid; masks are put together.

    Raises ImageError for an unreadable file; DatasetError for masks that overlap, lie on different grids or are none.
    """
    first = read_labels(labels.paths[0])
    if labels.values is None:
        return first.array, first.grid
    merged = np.zeros(first.array.shape, np.int32)
    for path, value in zip(labels.paths, labels.values, strict=True):
        mask = read_labels(path)
        if difference := grid_difference(first.grid, mask.grid):
            raise DatasetError(f"{path}: not on the grid of {labels.paths[0]} ({difference})")
        if found := sorted(set(np.unique(mask.array).tolist()) - {0, 1}):
            raise DatasetError(f"{path}: a mask may hold 0 and 1 only, not {', '.join(map(str, found[:_SHOWN_VALUES]))}")
        inside = mask.array == 1
        if both := int(np.count_nonzero(merged[inside])):
            raise DatasetError(f"{path}: {both} of its voxels are in another mask of the case, too; a voxel has one label")
        merged[inside] = value
    return merged, first.grid


def compact(values: np.ndarray) -> np.ndarray:
    """``values`` in a type that NIfTI readers know: no float64 or float16, no bool, no 64-bit integers."""
    if values.dtype.kind == "f":
        return values.astype(np.float32, copy=False)
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.itemsize < 8:
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    whole = values.astype(np.int32)
    return whole if np.array_equal(whole, values) else values.astype(np.float32)
