"""What a raw data set is: its description, its labels, the files of its cases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffatlas_pipeline.volumes.io import FILE_ENDINGS

MODALITIES = ("CT", "MRI")
"""What a scan can be said to be: intensities in Hounsfield units, or without a unit."""


@dataclass(frozen=True)
class LabelClass:
    """One foreground label: its name and the integer that stands for it in the files.

    A region has several there, its ``members``; ``value`` is the one that its outermost voxels have in segmentations.
    """

    name: str
    value: int
    members: tuple[int, ...] = ()

    @property
    def values(self) -> tuple[int, ...]:
        """All that stand for it."""
        return self.members or (self.value,)

    def mask(self, array: np.ndarray) -> np.ndarray:
        """Where label values, an array of any shape, are this label."""
        return array == self.values[0] if len(self.values) == 1 else np.isin(array, self.values)


@dataclass(frozen=True)
class LabelSet:
    """What a voxel of a label file may be: background, one of ``labels`` (or several, if they overlap), or not known,
    which has the value ``ignore`` (None: all are known).
    """

    labels: tuple[LabelClass, ...]
    ignore: int | None = None


@dataclass(frozen=True)
class DatasetDescription:
    """What ``dataset.json`` says: channels in file order (suffix _0000, _0001, ...), foreground labels, file ending.

    ``ignore`` is the value of voxels in label files whose label is not known, None where all are.
    """

    name: str
    channels: tuple[str, ...]
    labels: tuple[LabelClass, ...]
    file_ending: str
    ignore: int | None = None

    @property
    def label_set(self) -> LabelSet:
        """Its labels, and what is not known."""
        return LabelSet(self.labels, self.ignore)

    @property
    def label_values(self) -> tuple[int, ...]:
        """The values that label files may have: 0 and those of labels, but not the ignore label's."""
        return (0, *dict.fromkeys(value for label in self.labels for value in label.values))

    @property
    def distance_maps(self) -> int:
        """How many are stored of a case: one a label, or two, upper and lower bounds, where labels may be unknown."""
        return len(self.labels) * (1 if self.ignore is None else 2)

    def problems(self) -> Iterator[str]:
        """What may not be: files are named by what it says."""
        if self.file_ending not in FILE_ENDINGS:
            yield f"file_ending '{self.file_ending}'; must be one of {', '.join(FILE_ENDINGS)}"
        values = [0, *(label.value for label in self.labels)]
        if not self.labels or len(set(values)) != len(values):
            yield "labels; at least one is needed, each with its own number other than 0"
        regions = any(label.members for label in self.labels)
        if wrong := [label.name for label in self.labels if 0 in label.values or label.value not in label.values]:
            yield f"labels; the number of {', '.join(wrong)} must be one of its members, which are not 0"
        if regions and len({frozenset(label.values) for label in self.labels}) != len(self.labels):
            yield "labels; two regions have the same members"
        if self.ignore is not None and self.ignore in self.label_values:
            yield f"ignore {self.ignore}; no label may have this number"
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
