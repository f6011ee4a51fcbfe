"""A few training cases that a model keeps, so that a scan can be registered to what was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from diffatlas_pipeline.methods.base import TrainingCase
from diffatlas_pipeline.training.checkpoints import read_tensors, write_tensors

FILE = "references.safetensors"
COUNT = 12
LARGEST_AXIS = 128  # voxels: with more, a model would be larger than its network
MOST_BYTES = 64 * 2**20  # of all together; the first is kept whatever its size
_IMAGE, _DISTANCES = "image/", "distances/"


def chosen_references(cases: Sequence[str]) -> list[str]:
    """Up to ``COUNT`` of the training cases, evenly spread over their names."""
    names = sorted(cases)
    return [names[i * len(names) // min(COUNT, len(names))] for i in range(min(COUNT, len(names)))]


def write_references(folder: Path, cases: Iterable[TrainingCase]) -> None:
    """Keep ``cases`` in ``folder``, in half precision, as far as there is room; large ones are cropped about their labels."""
    kept: dict[str, torch.Tensor] = {}
    total = 0
    for case in cases:
        inside = (slice(None), *_about_the_labels(case.distances))
        image, distances = _half(case.image[inside]), _half(np.clip(case.distances[inside], -1, 1))
        total += image.nbytes + distances.nbytes
        if kept and total > MOST_BYTES:
            break
        kept |= {_IMAGE + case.name: image, _DISTANCES + case.name: distances}
    temporary = folder / f".{FILE}.tmp"
    write_tensors(temporary, kept, {})
    temporary.replace(folder / FILE)


def read_references(folder: Path) -> tuple[TrainingCase, ...]:
    """The cases that :func:`write_references` kept, in half precision; none for a model without them.

    ValueError if the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return ()
    tensors, _ = read_tensors(path)
    names = sorted(key.removeprefix(_IMAGE) for key in tensors if key.startswith(_IMAGE))
    if not names or any(_DISTANCES + name not in tensors for name in names):
        raise ValueError(f"{path} does not hold images with their distances")
    return tuple(TrainingCase(name, tensors[_IMAGE + name].numpy(), tensors[_DISTANCES + name].numpy()) for name in names)


def _half(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float16))


def _about_the_labels(distances: np.ndarray) -> tuple[slice, slice, slice]:
    """The box of at most ``LARGEST_AXIS`` voxels per axis about the centre of all labels (K, x, y, z)."""
    labelled = np.argwhere((distances < 0).any(axis=0))
    shape = distances.shape[1:]
    centre = labelled.mean(axis=0) if len(labelled) else np.asarray(shape) / 2
    box = []
    for middle, n in zip(centre, shape, strict=True):
        size = min(n, LARGEST_AXIS)
        start = int(np.clip(round(float(middle) - size / 2), 0, n - size))
        box.append(slice(start, start + size))
    return box[0], box[1], box[2]
