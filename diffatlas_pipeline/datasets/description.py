"""What a raw data set is: its description, its labels, the files of its cases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MODALITIES = ("CT", "MRI")
"""What a scan can be said to be: intensities in Hounsfield units, or without a unit."""


@dataclass(frozen=True)
class LabelClass:
    """One foreground label: its name and the integer that stands for it in the files."""

    name: str
    value: int


@dataclass(frozen=True)
class DatasetDescription:
    """What ``dataset.json`` says: channels in file order (suffix _0000, _0001, ...), foreground labels, file ending."""

    name: str
    channels: tuple[str, ...]
    labels: tuple[LabelClass, ...]
    file_ending: str


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case: one image per channel, and its label file if it has one.

    ``missing`` are the numbers of channels that it lacks: ``images`` are those of the others. ``modality`` is one of
    ``MODALITIES`` for an unlabelled scan that is said to be of another modality than the others.
    """

    case: str
    images: tuple[Path, ...]
    label: Path | None
    modality: str | None = None
    missing: tuple[int, ...] = ()


@dataclass(frozen=True)
class RawDataset:
    """A raw data set found on disk and listed, not yet opened."""

    folder: Path
    description: DatasetDescription
    training: tuple[CaseFiles, ...]
    test: tuple[CaseFiles, ...] = ()
    unlabelled: tuple[CaseFiles, ...] = ()
