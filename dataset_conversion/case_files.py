"""The files of one case in the raw layout: linked where the source's own file will do, else made, with a mark that
tells from what.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from dataset_conversion.raw_layout import holds, image_name, place_file, with_temporary
from dataset_conversion.source_cases import ImageFile, LabelFiles, SourceCase, compact, labels_of, scalars_of, volume_of
from diffatlas_pipeline.errors import DatasetError
from diffatlas_pipeline.volumes import nifti
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import ending_of, read_grid

_VERSION = 1  # part of every mark: raise it when the same sources give other files
_HEADER_BYTES = 4096
# Headers whose voxels lie in another file, under a name that a link would not find.
_DETACHED = {
    ".nrrd": re.compile(rb"^data ?file\s*:", re.IGNORECASE | re.MULTILINE),
    ".mha": re.compile(rb"^ElementDataFile\s*=(?!\s*LOCAL\b)", re.MULTILINE),
    ".mhd": re.compile(b""),
}


@dataclass(frozen=True)
class Target:
    """One file to be: the ``path`` in the raw layout, and the channel or the labels that go there.

    ``grid_of`` is the image whose place it is to get, if it lies in another.
    """

    path: Path
    content: ImageFile | LabelFiles
    grid_of: ImageFile | None = None

    @property
    def sources(self) -> tuple[Path, ...]:
        """All files that it is made of."""
        own = (self.content.path,) if isinstance(self.content, ImageFile) else self.content.paths
        return own if self.grid_of is None else (*own, self.grid_of.path)

    @property
    def linked(self) -> Path | None:
        """The source's file that can lie there as it is, or None if the file must be made."""
        if self.grid_of is not None:
            return None
        path = linkable(self.content)
        return path if path is not None and ending_in_small(path) == ending_in_small(self.path) else None

    def is_there(self) -> bool:
        """Whether what lies there already is what would be written."""
        if self.linked is not None:
            return self.path.is_file() and holds(self.path, self.linked)
        return has_mark(self.path, self._mark())

    def write(self, copy: bool) -> None:
        """Link, copy or make the file, unless it is there. Raises ImageError, DatasetError or OSError."""
        if self.linked is not None:
            place_file(self.linked, self.path, copy)
        elif not self.is_there():
            image = self._image()
            image.header["descrip"] = self._mark().encode()
            with_temporary(self.path, image.to_filename)

    def _mark(self) -> str:
        what = self.content.volume if isinstance(self.content, ImageFile) else self.content.values
        return mark_of(self.sources, _VERSION, what, self.grid_of is not None)

    def _image(self) -> Any:
        if isinstance(self.content, ImageFile):
            if self.content.volume is not None and self.grid_of is None:
                return volume_of(self.content)
            values, grid = scalars_of(self.content)
            like = self.content.path
        else:
            array, grid = labels_of(self.content)
            values, like = _smallest(array, self.content.paths[0]), self.content.paths[0]
        if self.grid_of is not None:
            return nifti.image_of(compact(values), scalars_grid(self.grid_of))
        return _like(compact(values), grid, like)


def targets_of(case: SourceCase, folder: Path, ending: str, displaced: Iterable[int] = ()) -> list[Target]:
    """The files of ``case`` in the data set ``folder``, the labels last. ``displaced`` are the places, among channels
    and labels, of those that get the first channel's grid.
    """
    part, moved = "Ts" if case.test else "Tr", set(displaced)
    targets = [
        Target(
            folder / f"images{part}" / image_name(case.name, channel, ending),
            image,
            case.images[0] if channel in moved else None,
        )
        for channel, image in enumerate(case.images)
    ]
    if case.labels is not None:
        like = case.images[0] if len(case.images) in moved else None
        targets.append(Target(folder / f"labels{part}" / f"{case.name}{ending}", case.labels, like))
    return targets


def common_ending(cases: Iterable[SourceCase], any_displaced: bool) -> str:
    """The file ending of the new data set: the source's, if all files have it and can be linked; else ``.nii.gz``.

    What is made is NIfTI, so a source of other files, of which one must be made, becomes ``.nii.gz`` as a whole.
    """
    made, endings = any_displaced, set()
    for case in cases:
        contents: list[ImageFile | LabelFiles] = [*case.images]
        contents += [case.labels] if case.labels is not None else []
        for content in contents:
            made |= linkable(content) is None
            endings.add(ending_in_small(content.path if isinstance(content, ImageFile) else content.paths[0]))
    ending = endings.pop() if len(endings) == 1 else ""
    return ending if ending in nifti.ENDINGS or (ending and not made) else ".nii.gz"


def linkable(content: ImageFile | LabelFiles) -> Path | None:
    """The one file that holds ``content`` and nothing else, or None."""
    if isinstance(content, ImageFile):
        path = content.path if content.volume is None else None
    else:
        path = content.paths[0] if content.values is None else None
    return path if path is not None and path.is_file() and not _is_detached(path) else None


def ending_in_small(path: Path) -> str:
    """The file ending in small letters; "" for a DICOM series."""
    return (ending_of(path) or "").lower()


def _is_detached(path: Path) -> bool:
    pattern = _DETACHED.get(ending_in_small(path))
    if pattern is None:
        return False
    with path.open("rb") as file:
        return pattern.search(file.read(_HEADER_BYTES).split(b"\n\n")[0]) is not None


def scalars_grid(image: ImageFile) -> Grid:
    """The grid of a channel, without its voxels where it is a file of its own."""
    return read_grid(image.path) if image.volume is None else scalars_of(image)[1]


def _like(values: np.ndarray, grid: Grid, path: Path) -> Any:
    """A NIfTI image of ``values`` on ``grid``; with the exact header of ``path`` if that is NIfTI of this grid."""
    if ending_in_small(path) in nifti.ENDINGS:
        like: Any = nib.load(path)
        header = like.header.copy()
        header.set_data_dtype(values.dtype)
        return type(like)(values.reshape(like.shape), like.affine, header)
    return nifti.image_of(values, grid)


def _smallest(labels: np.ndarray, path: Path) -> np.ndarray:
    """``labels`` in the smallest type of integers that holds them."""
    low, high = int(labels.min()), int(labels.max())
    for kind in (np.uint8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return labels.astype(kind)
    raise DatasetError(f"{path}: label values from {low} to {high} do not fit into 31 bits")


def mark_of(sources: Iterable[Path], *settings: object) -> str:
    """A short text for a made file's header: what it is made from, sources by name, size and time, and how."""
    stats = []
    for source in sources:
        for path in sorted(source.iterdir()) if source.is_dir() else [source]:
            stats.append((path.name, path.stat().st_size, path.stat().st_mtime_ns))
    return "DiffAtlas_convert " + hashlib.sha256(repr((stats, settings)).encode()).hexdigest()[:24]


def has_mark(path: Path, mark: str) -> bool:
    """Whether ``path`` is a NIfTI file with this :func:`mark_of`."""
    if not path.is_file():
        return False
    try:
        header: Any = nib.load(path).header
        found = header["descrip"].item()
    except Exception:  # not a NIfTI file: nibabel raises many kinds; it is made again
        return False
    return bool(found == mark.encode())
