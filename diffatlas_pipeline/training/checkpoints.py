"""Checkpoints: one safetensors file for everything a resumed training needs, written atomically, the previous one kept.

The file's metadata carry the progress as JSON and a checksum of the tensors, so a damaged file is told from a good one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diffatlas_pipeline.models.tensors import read_tensors, write_tensors

LATEST = "checkpoint_latest.safetensors"
PREVIOUS = "checkpoint_previous.safetensors"


@dataclass(frozen=True)
class TrainingStatus:
    """Where a training stands. ``settings`` are the options it was started with; ``precision`` is what it was found to
    run best in ("" before the first step), kept because a resumed training is to come to the same result."""

    iteration: int
    elapsed_s: float
    settings: dict[str, Any]
    precision: str = ""


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], progress: TrainingStatus) -> None:
    """Write the latest checkpoint; the one before becomes the previous. At no time is there less than one good file."""
    folder.mkdir(parents=True, exist_ok=True)
    latest, temporary = folder / LATEST, folder / f".{LATEST}.tmp"
    write_tensors(temporary, tensors, {"progress": json.dumps(asdict(progress))})
    if latest.exists():
        latest.replace(folder / PREVIOUS)
    temporary.replace(latest)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], TrainingStatus, str] | None:
    """The latest good checkpoint, its progress, and a warning ("" if none). None if training never got to one.

    A damaged latest file is passed over for the previous one, and the warning says so.
    """
    warning = ""
    for name in (LATEST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            tensors, metadata = read_tensors(path)
            return tensors, TrainingStatus(**json.loads(metadata["progress"])), warning
        except (ValueError, KeyError, TypeError) as error:
            warning += f"{path} is damaged ({error}) and was passed over. "
    if warning:
        raise ValueError(warning + "No good checkpoint is left: start again with `overwrite`.")
    return None


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a training that is over."""
    for name in (LATEST, PREVIOUS):
        (folder / name).unlink(missing_ok=True)
