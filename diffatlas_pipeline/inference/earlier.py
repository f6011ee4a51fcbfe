"""What an earlier run left in an output folder: which segmentations are kept, and which are made again."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.errors import ImageError, UserError
from diffatlas_pipeline.volumes.dicom import files_of
from diffatlas_pipeline.volumes.io import is_series, read_labels

_BLOCK_BYTES = 1 << 22
_BESIDE = ("precision", "given_labels")  # parts may be made on several machines; what is drawn of a case counts, not where
_CHANGED = "its scan has changed since"


@dataclass(frozen=True)
class Decision:
    """Whether a segmentation ``is_kept``, and what the user should know of it ("": nothing); ``made_otherwise``: it is
    made again for no other reason than that.
    """

    is_kept: bool
    warning: str = ""
    made_otherwise: bool = False


def decide(files: CaseFiles, path: Path, known: Mapping[str, Any] | None, made_with: Mapping[str, Any]) -> Decision:
    """What becomes of the file ``path`` that is there for a case, of which the record says ``known``; ``made_with`` is
    what it would be made with now.

    A segmentation of the present scan that was made so is kept, edited or not. One of a scan that has changed since, or
    of another model or other settings, is made again, unless it was edited: then it is kept, with a warning, since the
    work in it would be lost. So is one that no record tells of. What cannot be read is made again.
    """
    if not path.exists():
        return Decision(False)
    try:
        read_labels(path)
    except UserError:
        return Decision(False, "what was there could not be read, and was replaced")
    if known is None or known.get("input") == "":  # it failed then, or was kept without a record
        return Decision(
            True, "its segmentation was kept, but no record tells what it was made from. `overwrite` makes it again"
        )
    # Earlier releases wrote no digests, or counted what else lies beside slices.
    same = "input" not in known or known["input"] in (digest_of_scan(files), digest_of_scan(files, all_beside=True))
    otherwise = differ(known.get("made_with"), made_with, but=_BESIDE)
    if same and not otherwise:
        return Decision(True)
    if known.get("output") == digest_of_file(path):
        return Decision(False, made_otherwise=True) if same else Decision(False, f"{_CHANGED}, so it was segmented again")
    reason = "it was made with another model or other settings" if same else _CHANGED
    why = "since it was edited, but" if "output" in known else "but"
    return Decision(True, f"its segmentation was kept, {why} {reason}. `overwrite` segments it again")


def differ(before: Mapping[str, Any] | None, now: Mapping[str, Any], but: Collection[str] = ()) -> bool:
    """Whether a segmentation was made otherwise than now; what an earlier release did not tell is no difference."""
    return before is None or any(before.get(name, value) != value for name, value in now.items() if name not in but)


def digest_of_scan(files: CaseFiles, all_beside: bool = False) -> str:
    """SHA-256 of the content of all files of a scan, and of which channels they are; with ``all_beside`` also of what
    else lies in the folder of a series.
    """
    whole = hashlib.sha256(repr(files.missing).encode())
    for image in files.images:
        for part in sorted(image.iterdir()) if all_beside and image.is_dir() else _parts(image):
            whole.update(digest_of_file(part).encode())
    return whole.hexdigest()


def _parts(image: Path) -> list[Path]:
    """The files that an image consists of."""
    if not image.is_dir() and not is_series(image):
        return [image, *_data_files(image)]
    try:
        return sorted(files_of(image))  # notes beside its slices are no part of a scan
    except ImageError:
        return sorted(image.iterdir()) if image.is_dir() else [image]


def digest_of_file(path: Path) -> str:
    """SHA-256 of the content of a file; "" if it cannot be read."""
    whole = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                whole.update(block)
    except OSError:
        return ""
    return whole.hexdigest()


def _data_files(header: Path) -> Iterator[Path]:
    """The voxels of a MetaImage header, in the file beside it."""
    if header.suffix.lower() == ".mhd":
        yield from sorted(path for path in header.parent.glob(f"{header.stem}.*raw"))
