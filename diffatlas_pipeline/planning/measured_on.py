"""What a fingerprint was measured on, so that an unchanged data set is not checked and measured again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from diffatlas_pipeline import __version__
from diffatlas_pipeline.datasets.description import CaseFiles, RawDataset
from diffatlas_pipeline.errors import DatasetError, UserError
from diffatlas_pipeline.files import from_json, to_json
from diffatlas_pipeline.planning.fingerprint import Fingerprint

FileState = tuple[str, int, int]


@dataclass(frozen=True)
class Record:
    """``measured.json`` beside ``fingerprint.json``: when both were written, by which release, and digests (SHA-256) of
    the raw data set's files and of ``fingerprint.json``.
    """

    since: str
    release: str
    source: str
    fingerprint: str
    version: int = 1


def file_states(files: CaseFiles) -> list[FileState]:
    """(name, bytes, time of the last change in ns) of each file of a case. DatasetError if one is missing."""
    paths = [*files.images, *([files.label] if files.label else [])]
    parts = [part for path in paths for part in (sorted(path.iterdir()) if path.is_dir() else [path])]
    missing = [path for path in parts if not path.exists()]
    if missing:
        raise DatasetError(f"{missing[0]}: no such file. Put it back, or remove the case.")
    return [(part.name, (status := part.stat()).st_size, status.st_mtime_ns) for part in parts]


def source_digest(dataset: RawDataset) -> str:
    """Digest of everything that check and fingerprint depend on: the description, and names and states of all files."""
    cases = [
        (kind, files.case, file_states(files))
        for kind, group in (("training", dataset.training), ("unlabelled", dataset.unlabelled))
        for files in group
    ]
    return _digest(to_json(dataset.description) + json.dumps(cases))


def make_record(source: str, fingerprint: str) -> Record:
    """The record of a data set that was just measured: its :func:`source_digest` before that, the text of its
    fingerprint.
    """
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return Record(now, __version__, source, _digest(fingerprint))


def recorded_fingerprint(record: Path, fingerprint: Path, source: str) -> tuple[Fingerprint, Record] | None:
    """The fingerprint on file and its record; None if the data set, the release or a file has changed, or nothing is
    there.
    """
    try:
        known = from_json(Record, record.read_text(encoding="utf-8"), str(record))
        text = fingerprint.read_text(encoding="utf-8")
        if (known.release, known.source, known.fingerprint) != (__version__, source, _digest(text)):
            return None
        return from_json(Fingerprint, text, str(fingerprint)), known
    except (OSError, UserError, UnicodeDecodeError):
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
