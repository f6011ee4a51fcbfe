"""A folder that shows chosen cases as a data set of their own, by links."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.volumes.io import ending_of


def link_cases(cases: Sequence[CaseFiles], description: Path, place: Path) -> None:
    """Make ``place`` a data set whose imagesTs and labelsTs hold exactly ``cases``; ``description`` is its
    dataset.json.

    Links are symbolic, or copies where the system has no links. UserError if nothing can be written.
    """
    wanted = {place / "dataset.json": description}
    for files in cases:
        wanted |= _links(files, place)
    try:
        for kind in ("imagesTs", "labelsTs"):
            (place / kind).mkdir(parents=True, exist_ok=True)
            for path in set((place / kind).iterdir()) - set(wanted):
                path.unlink()
        for path, source in wanted.items():
            _link(source.resolve(), path)
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror or error}). Give another folder as `output`.") from error


def _links(files: CaseFiles, place: Path) -> dict[Path, Path]:
    assert files.label is not None  # test cases have labels
    links = {place / "labelsTs" / f"{files.case}{ending_of(files.label)}": files.label}
    for channel, image in enumerate(files.images):
        links[place / "imagesTs" / f"{files.case}_{channel:04d}{ending_of(image) or ''}"] = image
    for path, source in list(links.items()):
        if source.suffix.lower() == ".mhd":  # its voxels lie in a file beside it
            links |= {path.parent / other.name: other for other in source.parent.glob(f"{source.stem}.*") if other != source}
    return links


def _link(source: Path, path: Path) -> None:
    if path.is_symlink() and path.readlink() == source:
        return
    path.unlink(missing_ok=True)
    try:
        path.symlink_to(source)
    except OSError:
        shutil.copyfile(source, path)
