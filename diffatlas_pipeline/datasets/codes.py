"""What one integer per voxel says of labels that may overlap: regions, such as a tumour's core within the whole tumour.

A region is a label whose voxels have one of several values in the files. A value so stands for a set of labels, and a
segmentation is found by the set that fits the distances best. Where no labels overlap, each value is one label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffatlas_pipeline.datasets.description import LabelClass

LONGEST_TABLE = 1 << 20


@dataclass(frozen=True)
class Codes:
    """The values that segmentations may have. Of each, ``members`` are the numbers (from 0) of the labels that it
    stands for, and ``spellings`` all values of label files that stand for these, its own among them.
    """

    values: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]
    spellings: tuple[tuple[int, ...], ...]

    @property
    def exclusive(self) -> bool:
        """Whether no voxel has two labels."""
        return all(len(numbers) == 1 for numbers in self.members)

    @property
    def labels(self) -> int:
        """How many labels there are."""
        return 1 + max(max(members) for members in self.members)

    def number(self, array: np.ndarray) -> np.ndarray:
        """Label values of files, of any shape -> uint16: 0 for what is no label, else 1 + the number of the code."""
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        known = {value: code for code, spellings in enumerate(self.spellings, 1) for value in spellings if low <= value <= high}
        if high - low > LONGEST_TABLE:
            numbers = np.zeros(array.shape, dtype=np.uint16)
            for value, code in known.items():
                numbers[array == value] = code
            return numbers
        table = np.zeros(high - low + 1, dtype=np.uint16)
        table[[value - low for value in known]] = list(known.values())
        return np.asarray(table[array.astype(np.int64) - low if low else array])

    def mask(self, numbers: np.ndarray, label: int) -> np.ndarray:
        """Where ``numbers``, as :meth:`number` gives them, have label number ``label`` (from 0)."""
        having = [code for code, members in enumerate(self.members, 1) if label in members]
        return numbers == having[0] if len(having) == 1 else np.isin(numbers, having)

    def scores(self, distances: np.ndarray) -> np.ndarray:
        """``distances`` (..., K, X, Y, Z) of the labels -> (..., V, X, Y, Z) of the codes: the sums over their labels.

        The background's is 0. If a label's log odds are proportional to its distance, independently of the others', the
        code of the smallest score is the most probable one.
        """
        if self.exclusive:
            return distances
        parts = [distances[..., list(members), :, :, :].sum(axis=-4) for members in self.members]
        return np.stack(parts, axis=-4)


def codes_of(labels: Sequence[LabelClass]) -> Codes:
    """The codes of a data set's labels."""
    if not any(label.members for label in labels):
        values = tuple(label.value for label in labels)
        return Codes(values, tuple((number,) for number in range(len(values))), tuple((value,) for value in values))
    spellings: dict[tuple[int, ...], list[int]] = {}
    for value in sorted({value for label in labels for value in label.values}):
        members = tuple(number for number, label in enumerate(labels) if value in label.values)
        spellings.setdefault(members, []).append(value)
    # The outermost first: what only they hold is found where the others' distances are undecided.
    ordered = sorted(spellings, key=lambda members: (len(members), members))
    values = tuple(_shown(spellings[members], [labels[number].value for number in members]) for members in ordered)
    return Codes(values, tuple(ordered), tuple(tuple(spellings[members]) for members in ordered))


def shown_classes(labels: Sequence[LabelClass]) -> tuple[LabelClass, ...]:
    """What each value of a segmentation is called where it has one colour: a region by the name of its outermost
    voxels, voxels of several regions by the innermost one's.
    """
    codes, names = codes_of(labels), list[str]()
    for members in codes.members:
        name = labels[members[-1]].name
        names.append(name if name not in names else " and ".join(labels[number].name for number in members))
    return tuple(LabelClass(name, value) for name, value in zip(names, codes.values, strict=True))


def _shown(spellings: Sequence[int], preferred: Sequence[int]) -> int:
    """The value that stands for several: that of the innermost label which has one of them."""
    return next((value for value in reversed(preferred) if value in spellings), spellings[0])
