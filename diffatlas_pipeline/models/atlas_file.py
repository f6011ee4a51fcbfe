"""The file of a trained fold that holds its atlases: a few training cases, which scans can be registered to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from diffatlas_pipeline.models.tensors import read_tensors, write_tensors
from diffatlas_pipeline.registration.atlas import Atlas, names_of, pack, unpack

FILE = "atlases.safetensors"
OLD_FILE = "references.safetensors"  # its name up to release 0.1


def write_atlases(folder: Path, atlases: Sequence[Atlas]) -> None:
    """Keep ``atlases`` in ``folder``."""
    arrays = {name: torch.from_numpy(array) for atlas in atlases for name, array in pack(atlas).items()}
    temporary = folder / f".{FILE}.tmp"
    write_tensors(temporary, arrays, {})
    temporary.replace(folder / FILE)


def read_atlases(folder: Path) -> tuple[Atlas, ...]:
    """The atlases that :func:`write_atlases` kept, in half precision; none for a model without them.

    ValueError naming the file if it is damaged.
    """
    path = _path(folder)
    if path is None:
        return ()
    try:
        tensors, _ = read_tensors(path)
        atlases = unpack({name: tensor.numpy() for name, tensor in tensors.items()})
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error})") from error
    if not atlases:
        raise ValueError(f"{path}: damaged (it does not hold images with their distances)")
    return atlases


def count_atlases(folder: Path) -> int:
    """How many there are, by the names in the file alone. ValueError naming the file if it is damaged."""
    path = _path(folder)
    if path is None:
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            return len(names_of(file.keys()))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged ({error})") from error


def _path(folder: Path) -> Path | None:
    return next((folder / name for name in (FILE, OLD_FILE) if (folder / name).is_file()), None)
