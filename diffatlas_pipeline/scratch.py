"""Room for arrays as large as a whole scan: the memory, or a file where they would not fit into it."""

from __future__ import annotations

import math
import mmap
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from diffatlas_pipeline.errors import UserError

Index = tuple[slice | EllipsisType, ...]
"""Where a part of an array (c, X, Y, Z) lies: all of it, or some planes across its second axis."""

EVERYTHING: Index = (Ellipsis,)
SLAB_BYTES = 128 << 20  # of an array that lies in a file, at a time
_NOISE_AT_A_TIME = 1 << 22  # numbers: a multiple of 16, since torch draws so many together
_maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
_lock = threading.Lock()
T = TypeVar("T")


@dataclass(frozen=True)
class Scratch:
    """Makes float32 arrays in memory, or if ``on_disk`` in files of the temporary folder, which vanish with them.

    What lies in a file is worked on slab by slab; :func:`release` gives back the memory of what was touched.
    """

    on_disk: bool = False

    def empty(self, shape: Sequence[int]) -> Tensor:
        """An array of ``shape``, of any content. UserError if the disk has no room for it."""
        if not self.on_disk:
            return torch.empty(tuple(shape))
        count = math.prod(shape)
        mapped = _in_file(4 * count)
        with _lock:
            _maps.add(mapped)
        return torch.from_numpy(np.frombuffer(mapped, dtype=np.float32, count=count).reshape(tuple(shape)))

    def zeros(self, shape: Sequence[int]) -> Tensor:
        """An array of zeros."""
        return self.empty(shape) if self.on_disk else torch.zeros(tuple(shape))  # a new file is zeros

    def randn(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Standard normal noise of ``shape``, float32: the same in memory and in a file."""
        if not self.on_disk:
            return torch.randn(tuple(shape), generator=generator)
        made = self.empty(shape)
        flat, start = made.view(-1), 0
        while start < len(flat):
            end = start + _NOISE_AT_A_TIME
            end = len(flat) if len(flat) - end < _NOISE_AT_A_TIME else end  # a short rest would be drawn in another way
            flat[start:end].normal_(generator=generator)
            start = end
            release()
        return made

    def slabs(self, shape: Sequence[int]) -> Iterator[Index]:
        """The parts in which an array (c, X, Y, Z) is worked on; what was touched is released after each."""
        if not self.on_disk:
            yield EVERYTHING
            return
        planes = shape[1]
        step = max(1, SLAB_BYTES * planes // max(1, 4 * math.prod(shape)))
        for start in range(0, planes, step):
            yield slice(None), slice(start, min(start + step, planes))
            release()


IN_MEMORY = Scratch()


def release() -> None:
    """Of what lies in files nothing stays in memory; nothing is lost."""
    with _lock:
        maps = list(_maps)
    for mapped in maps:
        if hasattr(mapped, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def each(arrays: Iterable[T]) -> Iterator[T]:
    """One after the other, :func:`release` after each."""
    for one in arrays:
        yield one
        release()


def free_on_disk() -> int:
    """Bytes that are free where arrays are kept in files."""
    return shutil.disk_usage(tempfile.gettempdir()).free


def _in_file(size: int) -> mmap.mmap:
    folder = Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file, size)
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise UserError(
            f"{folder}: has no room for {size / 1e9:.1f} GB of a scan that does not fit into memory "
            f"({error.strerror or error}). Free some, or set TMPDIR to a folder of another disk."
        ) from error


def _reserve(file: Any, size: int) -> None:
    """Take the room now: a disk that is full later would end the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)
