"""What a raw data set is: its description, its labels, the files of its cases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diffatlas_pipeline.volumes.io import FILE_ENDINGS

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

    def problems(self) -> Iterator[str]:
        """What may not be: files are named by what it says."""
        if self.file_ending not in FILE_ENDINGS:
            yield f"file_ending '{self.file_ending}'; must be one of {', '.join(FILE_ENDINGS)}"
        values = [0, *(label.value for label in self.labels)]
        if not self.labels or len(set(values)) != len(values):
            yield "labels; at least one is needed, each with its own number other than 0"
        if len({label.name for label in self.labels}) != len(self.labels):
            yield "labels; each needs its own name"


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
    """A raw data set found on disk and listed, not yet opened; ``left_out`` are files in its folders that are no
    images with its ending.
    """

    folder: Path
    description: DatasetDescription
    training: tuple[CaseFiles, ...]
    test: tuple[CaseFiles, ...] = ()
    unlabelled: tuple[CaseFiles, ...] = ()
    left_out: tuple[str, ...] = ()
