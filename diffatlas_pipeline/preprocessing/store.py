"""Stored cases: image and distance maps as blosc2 arrays, and a small JSON beside them.

``folder`` is always the folder of one preprocessed data set; its cases lie in ``folder/cases`` as
``<case>.image.b2nd``, ``<case>.distances.b2nd`` (labelled cases only) and ``<case>.json``. The JSON is written last, so
a case is either there and complete or not there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import blosc2
import numpy as np

from diffatlas_pipeline.errors import DatasetError
from diffatlas_pipeline.files import read_json, write_text_atomically
from diffatlas_pipeline.preprocessing.spatial import SpatialRecord
from diffatlas_pipeline.volumes.channels import missing_channels
from diffatlas_pipeline.volumes.grids import Triple
from diffatlas_pipeline.volumes.room import check_room

STORE_VERSION = 1
CHUNK = 64  # voxels per axis: a patch touches few chunks, and little is unpacked in vain
BLOCK = 32
LEFT_OVER_S = 3600.0
_HALF_WRITTEN = re.compile(r"\.\d+\..+\.b2nd|\..+\.\d+\.tmp")  # of _write_array and write_text_atomically
FOREGROUND_POINTS = 512  # per label: enough to spread patches over a structure, small enough to sit in the JSON


@dataclass(frozen=True)
class StoredArray:
    """One array file: its shape (C, X, Y, Z) and the SHA-256 of the file."""

    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class CaseFacts:
    """The JSON beside a stored case.

    ``settings`` is a digest of what the arrays were made with, and ``plan`` of the plan's part in it ("" where an
    earlier release wrote them); ``foreground`` holds, per label of the plan, up to ``FOREGROUND_POINTS`` voxels (x, y,
    z) inside it, flattened. ``modality`` is what the scan was said to be, if anything. ``beyond``: the image goes on
    beyond the planned Hounsfield bounds.
    """

    case: str
    record: SpatialRecord
    settings: str
    image: StoredArray
    distances: StoredArray | None
    foreground: tuple[tuple[int, ...], ...] = ()
    version: int = STORE_VERSION
    modality: str | None = None
    beyond: bool = False
    plan: str = ""


@dataclass(frozen=True)
class StoredCase:
    """A case on disk; the arrays are opened at first use and read by slicing, in float16.

    Opening a damaged array raises DatasetError.
    """

    folder: Path
    facts: CaseFacts

    @property
    def case(self) -> str:
        return self.facts.case

    @property
    def record(self) -> SpatialRecord:
        return self.facts.record

    @property
    def shape(self) -> Triple:
        """(x, y, z) at the planned spacing."""
        return self.facts.record.planned_shape

    @cached_property
    def image(self) -> blosc2.NDArray:
        """(C, x, y, z) in [-1, 1], and beyond it where a scan goes beyond the planned Hounsfield bounds."""
        return self._open("image")

    def read_image(self) -> np.ndarray:
        """(C, x, y, z) float32 in [-1, 1]: the whole image as a network sees it."""
        return np.clip(self.read_stored_image(), -1, 1).astype(np.float32)

    def read_stored_image(self) -> np.ndarray:
        """(C, x, y, z) float16 as it is stored, beyond [-1, 1] too."""
        return self._whole("image", self.image)

    @cached_property
    def distances(self) -> blosc2.NDArray | None:
        """(K, x, y, z) in units of tau, or two for each label (:meth:`read_distances`); None for an unlabelled case."""
        return None if self.facts.distances is None else self._open("distances")

    def read_distances(self, labels: int) -> tuple[np.ndarray, np.ndarray]:
        """(K, x, y, z) float32 in units of tau of as many ``labels``, twice: the largest and the smallest distances
        that may be true. They are the same array where all labels are known.
        """
        if self.distances is None:
            raise DatasetError(f"{self.folder}: case '{self.case}' is unlabelled. Leave it out of the split.")
        maps = self._whole("distances", self.distances).astype(np.float32)
        if not np.isfinite(maps).all():
            raise DatasetError(f"{self.folder}: case '{self.case}' has distance maps that are not finite. {_AGAIN}")
        high, low = maps[:labels], maps[labels:]
        return (high, high) if not len(low) or np.array_equal(high, low) else (high, low)

    def _whole(self, kind: str, array: blosc2.NDArray) -> np.ndarray:
        check_room(4 * math.prod(array.shape), _array_path(self.folder, self.case, kind))
        return np.asarray(array[:])

    def foreground(self, label: int) -> np.ndarray:
        """(n, 3) voxels inside the plan's label number ``label``; n = 0 where the case does not have it."""
        points = self.facts.foreground[label] if label < len(self.facts.foreground) else ()
        return np.asarray(points, dtype=np.int64).reshape(-1, 3)

    def verify(self) -> bool:
        """Whether the array files are those that were written (SHA-256)."""
        return self._is_intact("image") and (self.facts.distances is None or self._is_intact("distances"))

    def _is_intact(self, kind: str) -> bool:
        stored: StoredArray | None = getattr(self.facts, kind)
        path = _array_path(self.folder, self.case, kind)
        return stored is not None and path.is_file() and _checksum(path) == stored.sha256

    def _open(self, kind: str) -> blosc2.NDArray:
        """Checked once per process: blosc2 unpacks most damaged files into wrong numbers without a word."""
        path = _array_path(self.folder, self.case, kind)
        if not self._is_intact(kind):
            raise DatasetError(f"{path}: missing, or not as it was written (checksum). {_AGAIN}")
        if not _is_plain_array(path):
            raise DatasetError(f"{path}: holds more than an array of numbers, which opening it could run. Do not use it.")
        array = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
        if array.shape != getattr(self.facts, kind).shape:
            raise DatasetError(f"{path}: is not of the shape that the case's JSON tells. {_AGAIN}")
        return array


_AGAIN = "Make it again with `plan_and_preprocess`; only missing and damaged cases are redone."


def write_case(
    folder: Path,
    case: str,
    image: np.ndarray,
    distances: np.ndarray | None,
    record: SpatialRecord,
    settings: str = "",
    plan: str = "",
    modality: str | None = None,
    beyond: bool = False,
    labels: int | None = None,
) -> None:
    """Store ``image`` (C, x, y, z) and ``distances`` (K, x, y, z), or None for an unlabelled case, as float16.

    Where there are more maps than ``labels`` (default: as many), the first are upper and the others lower bounds.
    DatasetError for numbers that are not finite, but in channels that are missing.
    """
    _check_finite(folder, case, image, distances)
    # A reader must never pair old facts with new arrays.
    _facts_path(folder, case).unlink(missing_ok=True)
    _array_path(folder, case, "distances").unlink(missing_ok=True)
    facts = CaseFacts(
        case=case,
        record=record,
        settings=settings,
        plan=plan,
        image=_write_array(_array_path(folder, case, "image"), image),
        distances=None if distances is None else _write_array(_array_path(folder, case, "distances"), distances),
        foreground=() if distances is None else tuple(_inside(channel) for channel in distances[:labels]),
        modality=modality,
        beyond=beyond,
    )
    write_text_atomically(_facts_path(folder, case), json.dumps(dataclasses.asdict(facts), separators=(",", ":")) + "\n")


def open_case(folder: Path, case: str) -> StoredCase:
    """Raises DatasetError when the case is not stored, or its JSON is damaged."""
    path = _facts_path(folder, case)
    if not path.is_file():
        raise DatasetError(f"{path}: case '{case}' is not preprocessed. {_AGAIN}")
    return StoredCase(folder, read_json(CaseFacts, path))


def list_stored(folder: Path) -> list[str]:
    """Names of the complete stored cases, sorted."""
    return sorted(path.name[: -len(".json")] for path in (folder / "cases").glob("*.json") if not path.name.startswith("."))


def remove_left_over(folder: Path) -> None:
    """Remove half-written files of runs that were killed: those that nobody has written to for an hour."""
    for path in (folder / "cases").glob(".*"):
        with suppress(FileNotFoundError):  # another run was faster
            if _HALF_WRITTEN.fullmatch(path.name) and time.time() - path.stat().st_mtime > LEFT_OVER_S:
                path.unlink()


def _check_finite(folder: Path, case: str, image: np.ndarray, distances: np.ndarray | None) -> None:
    missing = missing_channels(image)
    there = [channel for number, channel in enumerate(image) if number not in missing]
    for name, arrays in (("image", there), ("distance maps", [] if distances is None else [distances])):
        if not all(np.isfinite(array).all() for array in arrays):
            raise DatasetError(
                f"{folder}: case '{case}': its {name} would hold numbers that are not finite, so it is not stored. Look at its "
                "spacing and intensities, and at the plan's tau and bounds."
            )


def _facts_path(folder: Path, case: str) -> Path:
    return folder / "cases" / f"{case}.json"


def _array_path(folder: Path, case: str, kind: str) -> Path:
    return folder / "cases" / f"{case}.{kind}.b2nd"


def _write_array(path: Path, array: np.ndarray) -> StoredArray:
    path.parent.mkdir(parents=True, exist_ok=True)
    # blosc2 recognises an array file by its ending, so the temporary name keeps it.
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    temporary.unlink(missing_ok=True)
    chunks = (1, *(min(CHUNK, n) for n in array.shape[1:]))
    blocks = (1, *(min(BLOCK, n) for n in array.shape[1:]))
    stored = np.ascontiguousarray(array, dtype=np.float16)
    try:
        blosc2.asarray(
            stored,
            urlpath=str(temporary),
            mode="w",
            chunks=chunks,
            blocks=blocks,
            cparams={"codec": blosc2.Codec.ZSTD, "clevel": 5, "nthreads": 1},
            dparams={"nthreads": 1},
        )
        if not np.array_equal(blosc2.open(str(temporary), mode="r")[:], stored, equal_nan=True):
            raise RuntimeError("it reads otherwise than it was written")
        checksum = _checksum(temporary)
        temporary.replace(path)
    except (RuntimeError, ValueError) as error:  # what blosc2 says of a full drive
        raise DatasetError(f"{path}: cannot be written ({error}). Make room there; finished cases are kept.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return StoredArray(tuple(int(n) for n in array.shape), checksum)


def _is_plain_array(path: Path) -> bool:
    """Whether the only metalayer of a blosc2 frame is that of its array: blosc2 evaluates expressions, and runs
    functions, that another one holds. (The frame format has the metalayers' map at byte 91, after 87 bytes of fixed
    length.)
    """
    with path.open("rb") as file:
        return file.read(99)[91:] == b"\xde\x00\x01\xa4b2nd"


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _inside(distance: np.ndarray) -> tuple[int, ...]:
    """Voxels with a negative distance, thinned evenly to at most FOREGROUND_POINTS, as one flat list."""
    flat = np.flatnonzero(distance < 0)
    if len(flat) > FOREGROUND_POINTS:
        flat = flat[np.linspace(0, len(flat) - 1, FOREGROUND_POINTS).astype(np.int64)]
    return tuple(int(v) for v in np.stack(np.unravel_index(flat, distance.shape), axis=1).ravel())
