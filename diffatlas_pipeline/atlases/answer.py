"""What the training cases that a model keeps say of a scan, once they are registered to it."""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffatlas_pipeline import __version__
from diffatlas_pipeline.atlases.appearance import appearance
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.registration.register import AtlasSettings, fuse, register_atlases

FUSION = "mean"  # smooth distances, as the network's are that they are averaged with


@dataclass(frozen=True)
class AtlasAnswer:
    """``appearance`` (C, x, y, z) in [-1, 1] is how the scan would look among the training scans; ``distances`` and ``spread``
    (K, x, y, z) in units of tau are their labels, fused. float32. ``earlier_s``: the seconds that the registration took if that
    was in another run, less those that this one has waited for it; else 0.
    """

    appearance: np.ndarray
    distances: np.ndarray
    spread: np.ndarray
    earlier_s: float = 0.0


def ask_atlases(image: np.ndarray, atlases: Sequence[Atlas], plan: Plan, kept: Path | None = None) -> AtlasAnswer:
    """Register ``atlases`` to ``image`` (C, x, y, z) in [-1, 1], or take what the folder ``kept`` has of an earlier time.

    The answer is the same. Raises UserError if no atlas can be aligned.
    """
    settings = AtlasSettings()
    if kept is None:
        return _register(image, atlases, plan, settings)
    path = kept / f"{_key(image, atlases, plan, settings)}.npz"
    if (known := _read(path)) is not None:
        return known
    asked = time.perf_counter()
    with _alone_with(path):
        if (known := _read(path)) is not None:  # another process has done it meanwhile
            return replace(known, earlier_s=known.earlier_s - (time.perf_counter() - asked))
        start = time.perf_counter()
        answer = _register(image, atlases, plan, settings)
        _write(path, replace(answer, earlier_s=time.perf_counter() - start))
    return answer


def _register(image: np.ndarray, atlases: Sequence[Atlas], plan: Plan, settings: AtlasSettings) -> AtlasAnswer:
    registered = register_atlases(image, atlases, plan.spacing_mm, plan.distance.tau_mm, settings)
    fused = fuse(registered, plan.spacing_mm, plan.distance.tau_mm, FUSION)
    return AtlasAnswer(appearance(registered), fused.distances, fused.spread)


def _key(image: np.ndarray, atlases: Sequence[Atlas], plan: Plan, settings: AtlasSettings) -> str:
    """Digest of all that the answer depends on."""
    digest = hashlib.sha256(repr((__version__, plan.spacing_mm, plan.distance, settings, FUSION)).encode())
    frames = (np.empty(0) if atlas.frame is None else atlas.frame for atlas in atlases)
    for array in (image, *(part for atlas in atlases for part in (atlas.image, atlas.distances)), *frames):
        digest.update(repr((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


@contextmanager
def _alone_with(path: Path) -> Iterator[None]:
    """Wait for other processes that are making ``path``; the system ends the wait if they die. No wait where it has no such
    locks (Windows, some network drives): then the work is done twice.
    """
    lock = path.with_suffix(".lock")
    with ExitStack() as held:
        with suppress(ImportError, OSError):
            import fcntl

            path.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(held.enter_context(lock.open("w")), fcntl.LOCK_EX)
        try:
            yield
        finally:
            with suppress(OSError):  # a lock that stays is no trouble; losing the segmentation would be
                lock.unlink(missing_ok=True)


def _read(path: Path) -> AtlasAnswer | None:
    """What was written; None if there is nothing, or nothing that can be read."""
    try:
        with np.load(path, allow_pickle=False) as found:
            return AtlasAnswer(found["appearance"], found["distances"], found["spread"], float(found["earlier_s"]))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _write(path: Path, answer: AtlasAnswer) -> None:
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    with suppress(OSError):  # a full disk must not cost the segmentation
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            np.savez(temporary, **vars(answer))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
