"""A copy of a data set whose labels and channels have the geometry of each case's first channel."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from diffatlas_pipeline.datasets.description import CaseFiles, RawDataset
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.volumes.grids import grid_difference
from diffatlas_pipeline.volumes.io import read_grid, read_labels, read_volume, write_labels, write_scalars


def copy_with_fixed_geometry(dataset: RawDataset, folder: Path) -> tuple[str, ...]:
    """Copy ``dataset`` into ``folder``; where a label or a further channel has the shape of its case's first channel
    but another place, spacing or direction, it gets those of the first channel.

    Which of the two is right no file tells: look at the copies. Returns the names of the files that were changed.
    UserError if ``folder`` is not new, or cannot be written, or if the data set has files elsewhere, which a copy would
    not have.
    """
    cases = (*dataset.training, *dataset.test, *dataset.unlabelled)
    _check_inside(cases, dataset.folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"`fix_geometry` {folder}: is not empty. Give a new folder.")
    changed: list[str] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(dataset.folder / "dataset.json", folder)
        for files in cases:
            changed += _copied(files, dataset.folder, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}). Give another `fix_geometry`.") from error
    return tuple(changed)


def _check_inside(cases: Sequence[CaseFiles], source: Path) -> None:
    for files in cases:
        for path in (*files.images, *([] if files.label is None else [files.label])):
            if not path.is_relative_to(source) or ".." in path.relative_to(source).parts:
                raise UserError(
                    f"{path}: lies outside {source}, so a copy would lack it. Put the files that dataset.json names into the "
                    "data set's own folders first."
                )


def _copied(files: CaseFiles, source: Path, folder: Path) -> list[str]:
    first = files.images[0]
    parts: list[tuple[Path, Callable[[Path, Path], None]]] = [(image, _as_image) for image in files.images]
    if files.label is not None:
        parts.append((files.label, _as_label))
    changed = []
    for path, rewrite in parts:
        name = path.relative_to(source)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        for part in sorted(path.parent.glob(f"{path.stem}.*")) if path.suffix.lower() == ".mhd" else [path]:
            shutil.copy2(part, (folder / name).with_name(part.name))
        here, there = read_grid(first), read_grid(path)
        if here.shape == there.shape and grid_difference(here, there):
            rewrite(folder / name, first)
            changed.append(str(name))
    return changed


def _as_label(path: Path, first: Path) -> None:
    write_labels(path, read_labels(path).array, read_grid(first), like=first)


def _as_image(path: Path, first: Path) -> None:
    write_scalars(path, read_volume([path]).array[0], read_grid(first), like=first)
