"""Named tensors in a safetensors file with a checksum, so that a damaged file is told from a good one."""

from __future__ import annotations

import json
import os
import re
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Tensors and text, with a checksum, through to the disk. OSError if it cannot be written."""
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        save_file(stored, path, {**metadata, "checksum": f"{checksum(stored)}-{_checksum_of_text(metadata)}"})
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code.group(1)), os.strerror(int(code.group(1))), str(path)) from error
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
    # Earlier releases wrote the first half alone.
    of_tensors, dash, of_text = metadata.pop("checksum", "").partition("-")
    if of_tensors != checksum(tensors) or (dash and of_text != _checksum_of_text(metadata)):
        raise ValueError("its checksum does not match its content")
    return tensors, metadata


def checksum(tensors: dict[str, Tensor]) -> str:
    """Eight hexadecimal digits of the names and values of ``tensors``."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        data = tensors[name].contiguous()
        value = zlib.crc32(data.reshape(-1).view(torch.uint8).numpy().data if data.numel() else b"", value)
    return f"{value:08x}"


def _checksum_of_text(metadata: dict[str, str]) -> str:
    return f"{zlib.crc32(json.dumps(metadata, sort_keys=True).encode()):08x}"
