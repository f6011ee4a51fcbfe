"""A few training scans that a model keeps, so that a scan of another contrast can be compared with what was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from diffatlas_pipeline.methods.base import TrainingCase
from diffatlas_pipeline.training.checkpoints import read_tensors, write_tensors

FILE = "references.safetensors"
COUNT = 4
LARGEST_AXIS = 128  # voxels: with more, a model would be larger than its network


def chosen_references(cases: Sequence[str]) -> list[str]:
    """Up to ``COUNT`` of the training cases, evenly spread over their names."""
    names = sorted(cases)
    return [names[i * len(names) // min(COUNT, len(names))] for i in range(min(COUNT, len(names)))]


def write_references(folder: Path, cases: Iterable[TrainingCase]) -> None:
    """Keep the images of ``cases`` in ``folder``, in half precision; large ones are cropped about their labels."""
    kept = {}
    for case in cases:
        inside = (slice(None), *_about_the_labels(case.distances))
        kept[case.name] = torch.from_numpy(np.ascontiguousarray(case.image[inside], dtype=np.float16))
    temporary = folder / f".{FILE}.tmp"
    write_tensors(temporary, kept, {})
    temporary.replace(folder / FILE)


def read_references(folder: Path) -> tuple[np.ndarray, ...]:
    """The images (C, x, y, z) float16 that :func:`write_references` kept; none for a model without them.

    ValueError if the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return ()
    tensors, _ = read_tensors(path)
    return tuple(tensors[name].numpy() for name in sorted(tensors))


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
