"""What a reader has drawn of a scan, however it is given."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.errors import ImageError, UserError
from diffatlas_pipeline.volumes.grids import Grid, LabelVolume
from diffatlas_pipeline.volumes.in_memory import is_image, volume_of_images
from diffatlas_pipeline.volumes.io import WHOLE, ending_of, name_without_ending, read_labels


def drawing_of(given: Any, scan: Grid) -> LabelVolume:
    """``given`` as labels: a path, an image of SimpleITK or nibabel, or an array on the ``scan``'s grid, (X, Y, Z) or,
    of an image of two dimensions, (X, Y).

    UserError for anything else, or values that are no integers.
    """
    if isinstance(given, (str, os.PathLike)):
        return read_labels(Path(given).expanduser())
    if is_image(given):
        volume = volume_of_images([given])
        return LabelVolume(_integers(volume.array[0]), volume.grid)
    if not isinstance(given, np.ndarray):
        raise ImageError(f"`given_labels`: a {type(given).__name__}. Give a path, an array, or an image.")
    array = given[..., None] if scan.dimensions == 2 and given.ndim == 2 else given
    if array.shape != scan.shape:
        raise ImageError(f"`given_labels` of shape {given.shape}: the scan has shape {scan.shape}. Draw on the scan itself.")
    return LabelVolume(_integers(array), scan)


def find_drawings(source: Path, cases: Sequence[CaseFiles]) -> dict[str, Path]:
    """The files in the folder ``source`` by the case whose name they bear; or ``source`` itself, of a single case.

    UserError if there is none, or one that belongs to no case.
    """
    if source.is_file():
        if len(cases) != 1:
            raise UserError(f"`given_labels` {source}: one file, but there are {len(cases)} cases. Give a folder.")
        return {cases[0].case: source}
    if not source.is_dir():
        raise UserError(f"`given_labels` {source}: no such file or folder. Give drawings that are named like the scans.")
    files = [path for path in sorted(source.iterdir()) if ending_of(path) and not path.name.startswith(".")]
    found = {name_without_ending(path): path for path in files}
    known = {files.case for files in cases}
    if lost := [path.name for name, path in found.items() if name not in known]:
        raise UserError(
            f"`given_labels` {source}: no scan belongs to {', '.join(lost[:5])}. A drawing is named as its case, such as "
            f"{cases[0].case}.nii.gz."
        )
    if not found:
        raise UserError(f"`given_labels` {source}: holds no drawing. They are named as cases, such as {cases[0].case}.nii.gz.")
    return found


def _integers(values: np.ndarray) -> np.ndarray:
    """``values`` as int32; ImageError if they are no integers."""
    whole = np.rint(values)
    if values.dtype.kind not in "biuf" or not (np.abs(whole - values) <= WHOLE).all():
        raise ImageError("`given_labels`: labels must be integers. Give a label map, not probabilities.")
    return whole.astype(np.int32)
