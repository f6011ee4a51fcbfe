"""What the atlases of a model say of a scan, once they are registered to it; kept in a folder for other runs, if asked
for.
"""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from diffatlas_pipeline import __version__
from diffatlas_pipeline.atlases.appearance import appearance
from diffatlas_pipeline.datasets.codes import codes_of
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.registration.register import AtlasSettings, fuse, register_atlases

FUSION = "mean"  # smooth distances, as the network's are that they are averaged with


@dataclass(frozen=True)
class AtlasAnswer:
    """What registered atlases say of a scan; float32.

    ``appearance`` (C, x, y, z) in [-1, 1]: how it would look among the training scans. ``distances`` (K, x, y, z) in
    units of tau: their labels, fused. ``register_s``: the seconds that the registration took; it was ``kept`` if that
    was at an earlier time.
    """

    appearance: np.ndarray
    distances: np.ndarray
    register_s: float = 0.0
    kept: bool = False


def ask_atlases(image: np.ndarray, atlases: Sequence[Atlas], plan: Plan, kept: Path | None = None) -> AtlasAnswer:
    """Register ``atlases`` to ``image`` (C, x, y, z) in [-1, 1], or take what the folder ``kept`` has of an earlier
    time.

    The answer is the same. Raises UserError if no atlas can be aligned.
    """
    settings = AtlasSettings(overlapping=not codes_of(plan.dataset.labels).exclusive)
    if kept is None:
        return _register(image, atlases, plan, settings)
    path = kept / f"{_key(image, atlases, plan, settings)}.npz"
    if (known := _read(path)) is not None:
        return known
    with _alone_with(path):
        if (known := _read(path)) is not None:  # another process has done it meanwhile
            return known
        answer = _register(image, atlases, plan, settings)
        _write(path, answer)
    return answer


def registrations_folder(given: str | Path) -> Path:
    """The folder in which registrations are kept. UserError if something else is there."""
    folder = Path(given).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"`registrations` {folder}: not a folder. Give one, it is made if it is not there.")
    return folder


def _register(image: np.ndarray, atlases: Sequence[Atlas], plan: Plan, settings: AtlasSettings) -> AtlasAnswer:
    start = time.perf_counter()
    registered = register_atlases(image, atlases, plan.spacing_mm, plan.distance.tau_mm, settings)
    fused = fuse(registered, plan.spacing_mm, plan.distance.tau_mm, FUSION, settings.overlapping)
    return AtlasAnswer(appearance(registered), fused.distances, time.perf_counter() - start)


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
    """Wait for other processes that are making ``path``; the system frees the lock of one that dies.

    Where a folder cannot be written or has no locks (some network drives), nobody waits: the work is done twice.
    """
    with ExitStack() as held:
        with suppress(OSError, NotImplementedError):
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(path.with_suffix(".lock"), fallback_to_soft=False))
        yield


def _read(path: Path) -> AtlasAnswer | None:
    """What was written; None if there is nothing, or nothing that can be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                return None  # not ours: what is compressed may be of any size
        with np.load(path, allow_pickle=False) as found:
            return AtlasAnswer(found["appearance"], found["distances"], float(found["register_s"]), kept=True)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _write(path: Path, answer: AtlasAnswer) -> None:
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    with suppress(OSError):  # a full disk must not cost the segmentation
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            np.savez(temporary, **{name: value for name, value in vars(answer).items() if name != "kept"})
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
