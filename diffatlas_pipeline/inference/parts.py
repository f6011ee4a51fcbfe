"""Several processes predict into one folder: each its part of the scans, with a lock and a record of its own.

The record of a part, ``prediction_part_0_of_4.json``, becomes a part of ``prediction.json`` when it is finished, and is
deleted then. That of a part that was killed becomes so with the next prediction into the folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import alone_in, is_held
from diffatlas_pipeline.inference.export import RECORD, read_record, write_record

GATE = ".prediction.lock"  # held by a whole prediction, and by a part while it begins and while it ends
MEND = "Wait for it, or give another `output`."
WAIT_S, WAIT_AT_END_S = 5.0, 120.0  # for parts that begin or end at the same time
_LOCK, _RECORD = re.compile(r"\.prediction_part_(\d+)_of_(\d+)\.lock"), re.compile(r"prediction_part_(\d+)_of_(\d+)\.json")


@dataclass(frozen=True)
class Part:
    """Part ``number``, from 0, of ``count`` disjoint parts of all scans."""

    number: int
    count: int

    @staticmethod
    def chosen(num_parts: int, part_id: int) -> Part | None:
        """None for all scans in one part. UserError for numbers that are not allowed."""
        if num_parts < 1:
            raise UserError(f"`num_parts` {num_parts}: must be at least 1.")
        if not 0 <= part_id < num_parts:
            raise UserError(f"`part_id` {part_id}: must be 0 to {num_parts - 1}, since `num_parts` is {num_parts}.")
        return Part(part_id, num_parts) if num_parts > 1 else None

    def __str__(self) -> str:
        return f"part {self.number} of {self.count}"

    @property
    def record(self) -> str:
        return f"prediction_part_{self.number}_of_{self.count}.json"

    @property
    def lock(self) -> str:
        return f".prediction_part_{self.number}_of_{self.count}.lock"

    def of(self, cases: Sequence[CaseFiles]) -> list[CaseFiles]:
        """Every ``count``-th of the ``cases``, sorted by name: it depends on the names alone."""
        return sorted(cases, key=lambda files: files.case)[self.number :: self.count]


@contextmanager
def alone(folder: Path, part: Part | None) -> Iterator[None]:
    """Be the only process that segments all scans, or this ``part`` of them, into ``folder``; what killed parts left is
    in the record then.

    UserError, which names the other process, if one works there whose scans may be the same: all of them, the same
    part, or a part of another number of parts.
    """
    with ExitStack() as held:
        with ExitStack() as begun:
            gate = alone_in(folder, "a prediction", MEND, GATE, 0 if part is None else WAIT_S)
            (held if part is None else begun).enter_context(gate)
            for other in _parts(folder, _LOCK):
                if part is None or other.count != part.count:
                    with alone_in(folder, f"{other} of a prediction", MEND, other.lock):
                        pass  # its process is dead
            if part is not None:
                held.enter_context(alone_in(folder, f"{part} of a prediction", MEND, part.lock))
            _join_records(folder, part)
        yield


@contextmanager
def finishing(folder: Path, part: Part | None) -> Iterator[None]:
    """In here no other part ends, and the record is that of all parts which have ended, with this one."""
    if part is None:
        yield
        return
    with alone_in(folder, "a prediction", MEND, GATE, WAIT_AT_END_S):
        _join_records(folder, part)
        yield


def entries_of(record: Mapping[str, Any], settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What a ``record`` says by case; earlier releases said once for all cases what they were made with: these
    ``settings``.
    """
    once = {key: record[key] for key in settings if key in record}
    return {case: {"made_with": once, **entry} for case, entry in (record.get("cases") or {}).items()}


def _join_records(folder: Path, own: Part | None) -> None:
    """Bring the records of parts that nobody works at, and of the ``own`` one, into the record of the folder."""
    found = [part for part in _parts(folder, _RECORD) if part == own or not is_held(folder, part.lock)]
    paths = sorted((folder / part.record for part in found), key=lambda path: path.stat().st_mtime)
    if not paths:
        return
    whole = read_record(folder / RECORD)
    cases = entries_of(whole, sorted(whole.keys() - {"cases"}))
    for path in paths:
        record = read_record(path)
        whole |= record
        cases |= record.get("cases") or {}
    write_record(folder / RECORD, whole | {"cases": dict(sorted(cases.items()))})
    for path in paths:
        path.unlink(missing_ok=True)


def _parts(folder: Path, pattern: re.Pattern[str]) -> list[Part]:
    """Of the files in ``folder`` that are named so."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [Part(int(match[1]), int(match[2])) for name in names if (match := pattern.fullmatch(name))]
