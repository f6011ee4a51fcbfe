"""Checkpoints: one safetensors file for everything a resumed training needs, written atomically, the previous one kept.

The file's metadata carry the progress as JSON and a checksum of the tensors, so a damaged file is told from a good one.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffatlas_pipeline.contracts import write_text_atomically

LATEST = "checkpoint_latest.safetensors"
PREVIOUS = "checkpoint_previous.safetensors"
FINAL = "checkpoint_final.safetensors"


@dataclass(frozen=True)
class Progress:
    """Where a training stands. ``settings`` are the options it was started with; ``precision`` is what it was found to run best
    in ("" before the first step), kept because a resumed training is to come to the same result."""

    iteration: int
    elapsed_s: float
    settings: dict[str, Any]
    precision: str = ""


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], progress: Progress) -> None:
    """Write the latest checkpoint; the one before becomes the previous. At no time is there less than one good file."""
    folder.mkdir(parents=True, exist_ok=True)
    latest, temporary = folder / LATEST, folder / f".{LATEST}.tmp"
    write_tensors(temporary, tensors, {"progress": json.dumps(asdict(progress))})
    if latest.exists():
        latest.replace(folder / PREVIOUS)
    temporary.replace(latest)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], Progress, str] | None:
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
            return tensors, Progress(**json.loads(metadata["progress"])), warning
        except (ValueError, KeyError, TypeError) as error:
            warning += f"{path} is damaged ({error}) and was passed over. "
    if warning:
        raise ValueError(warning + "No good checkpoint is left: start again with --overwrite.")
    return None


def write_final(folder: Path, weights: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """The finished model: EMA weights, and ``metadata`` as JSON beside them; then the training checkpoints are deleted."""
    temporary = folder / f".{FINAL}.tmp"
    write_tensors(temporary, weights, {})
    write_text_atomically((folder / FINAL).with_suffix(".json"), json.dumps(metadata, indent=2, ensure_ascii=False) + "\n")
    temporary.replace(folder / FINAL)
    for name in (LATEST, PREVIOUS):
        (folder / name).unlink(missing_ok=True)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Tensors and text, with a checksum, through to the disk."""
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(stored, path, {**metadata, "checksum": _checksum(stored)})
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The inverse of :func:`write_tensors`. Raises ValueError if the file is truncated, changed or not ours."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"not a readable safetensors file: {error}") from error
    if metadata.get("checksum") != _checksum(tensors):
        raise ValueError("its checksum does not match its content")
    return tensors, metadata


def _checksum(tensors: dict[str, Tensor]) -> str:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        data = tensors[name].contiguous()
        value = zlib.crc32(data.reshape(-1).view(torch.uint8).numpy().data if data.numel() else b"", value)
    return f"{value:08x}"
