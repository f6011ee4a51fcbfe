"""Is there room in memory for what a header announces?"""

from __future__ import annotations

from pathlib import Path

from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.machine import available_bytes

BYTES_PER_VOXEL = 2  # at least, of what ITK reads and a copy of it


def check_room(needed: int, path: Path) -> None:
    """ImageError if a file announces more bytes than there is memory for: nothing of it is read then."""
    free = available_bytes()
    if free is not None and needed > free:
        raise ImageError(
            f"{path}: its header announces {needed / 1e9:.1f} GB of voxels, but {free / 1e9:.1f} GB of memory are free. If "
            "that is its size, crop it, or use a computer with more memory; else export it again."
        )
