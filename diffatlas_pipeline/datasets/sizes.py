"""How large cases are: whether worker processes pay, and how much memory one case takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.machine import available_bytes
from diffatlas_pipeline.volumes.grids import TripleMm
from diffatlas_pipeline.volumes.io import read_grid

SMALL_BYTES = 32 * 2**20
PROCESS_BYTES = 200 * 10**6  # a worker before its first case
_LARGEST = 8  # files: of scans that are compressed about as well, one of them takes most memory


def useful_workers(cases: Iterable[CaseFiles], workers: int) -> int:
    """``workers``, but one (this process) for data so small that starting processes would take longer than the work."""
    total = 0
    for files in cases:
        for path in (*files.images, files.label):
            if path is not None:
                total += _size(path)
                if total > SMALL_BYTES:
                    return workers
    return 1


def largest_bytes(cases: Sequence[CaseFiles], bytes_of: Callable[[CaseFiles], int | None]) -> int:
    """Memory that one of ``cases`` takes at most, by the few with the largest files; 0 if that is unknown.

    One that is too large for this computer does not count: it fails by itself.
    """
    free = available_bytes() or 0
    large = sorted((files for files in cases if files.images), key=lambda files: _size(files.images[0]))[-_LARGEST:]
    most = 0
    for files in large:
        with suppress(Exception):  # whatever is wrong with it is told when it is read
            most = max(most, found if (found := bytes_of(files) or 0) <= free else 0)
    return most


def _size(path: Path) -> int:
    if not path.exists():
        return 0
    return sum(part.stat().st_size for part in path.iterdir()) if path.is_dir() else path.stat().st_size


def memory_note(files: CaseFiles, bytes_per_voxel: float, spacing_mm: TripleMm | None = None) -> str:
    """How much memory a case takes, as a sentence: "It needs about 1.5 GB (512 x 512 x 240 voxels)."; "" if that is
    unknown.
    """
    needed = case_bytes(files, bytes_per_voxel, spacing_mm)
    if needed is None:
        return ""
    x, y, z = read_grid(files.images[0]).shape
    return f"It needs about {needed / 1e9:.1f} GB ({x} x {y} x {z} voxels)."


def case_bytes(files: CaseFiles, bytes_per_voxel: float, spacing_mm: TripleMm | None = None) -> int | None:
    """Memory of a process that works at a case; None if it cannot be read.

    Counted are the voxels of its own grid, or those at ``spacing_mm`` where they are more.
    """
    try:
        grid = read_grid(files.images[0])
    except UserError:
        return None
    larger = 1.0 if spacing_mm is None else max(1.0, math.prod(grid.spacing_mm) / math.prod(spacing_mm))
    return int(PROCESS_BYTES + math.prod(grid.shape) * larger * bytes_per_voxel)


def reading_memory(files: CaseFiles) -> str:
    """:func:`memory_note` of a case that is read and looked at."""
    return memory_note(files, _reading(files))


def reading_bytes(files: CaseFiles) -> int | None:
    """:func:`case_bytes` of a case that is read and looked at."""
    return case_bytes(files, _reading(files))


def _reading(files: CaseFiles) -> int:
    """Bytes per voxel; measured with one channel: 15."""
    return 12 * len(files.images) + 4
