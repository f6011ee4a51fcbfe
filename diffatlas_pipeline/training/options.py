"""What is asked of a training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainingOptions:
    """What to train: ``fold`` of ``dataset`` (number, name or path), and how; see :func:`diffatlas_pipeline.train`.

    ``max_time_s`` in seconds; None for it and ``iterations``: as planned. ``any_contrast`` asks for the recipe that is
    ``recipe`` with synthetic contrasts, ``given_labels`` for the one that also learns to complete drawings,
    ``low_resolution`` for the network that finds structures in large scans. It begins with the weights of the model
    ``init_from``.
    """

    dataset: str
    fold: str | None
    method: str = "diffatlas"
    recipe: str = "default"
    any_contrast: bool = False
    given_labels: bool = False
    low_resolution: bool = False
    max_time_s: float | None = None
    iterations: int | None = None
    num_cases: int | None = None
    splits_file: Path | None = None
    unlabelled_from: str | None = None
    num_unlabelled: int | None = None
    teacher: str | None = None
    init_from: Path | None = None
    registrations: Path | None = None
    seed: int = 0
    device: str = "auto"
    workers: int = 1
    precision: str = "auto"
    compile: bool = False
    validation: bool = True
    overwrite: bool = False
