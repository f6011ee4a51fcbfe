"""How large cases are: whether worker processes pay, and how much memory one case takes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.volumes.grids import TripleMm
from diffatlas_pipeline.volumes.io import read_grid

SMALL_BYTES = 32 * 2**20
PROCESS_BYTES = 200 * 10**6  # a worker before its first case


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


def _size(path: Path) -> int:
    return sum(part.stat().st_size for part in path.iterdir()) if path.is_dir() else path.stat().st_size


def memory_note(files: CaseFiles, bytes_per_voxel: float, spacing_mm: TripleMm | None = None) -> str:
    """How much memory a case takes, as a sentence: "It needs about 1.5 GB (512 x 512 x 240 voxels)."; "" if that is
    unknown.

    Counted are the voxels of its own grid, or those at ``spacing_mm`` where they are more.
    """
    try:
        grid = read_grid(files.images[0])
    except UserError:
        return ""
    x, y, z = grid.shape
    larger = 1.0 if spacing_mm is None else max(1.0, math.prod(grid.spacing_mm) / math.prod(spacing_mm))
    gigabytes = (PROCESS_BYTES + x * y * z * larger * bytes_per_voxel) / 1e9
    return f"It needs about {gigabytes:.1f} GB ({x} x {y} x {z} voxels)."


def reading_memory(files: CaseFiles) -> str:
    """:func:`memory_note` of a case that is read and looked at: measured with one channel, 15 bytes per voxel."""
    return memory_note(files, 12 * len(files.images) + 4)
