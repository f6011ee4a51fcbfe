"""Labels as ``dataset.json`` writes them: numbers, regions (lists of numbers), and a label for what is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffatlas_pipeline.datasets.description import DatasetDescription, LabelClass, LabelSet
from diffatlas_pipeline.errors import DatasetError

BACKGROUND, IGNORE = "background", "ignore"
ORDER = "regions_class_order"
_EXAMPLE = '{"background": 0, "liver": 1, "spleen": 2}'


def read_labels_entry(raw: Mapping[str, Any], path: Path) -> LabelSet:
    """The labels of a parsed ``dataset.json``.

    DatasetError says what is wrong in ``path`` and how to write it.
    """
    entries = raw["labels"]
    if not isinstance(entries, Mapping):
        raise DatasetError(f"{path}: labels is {entries!r}; write it as {_EXAMPLE}.")
    if entries and all(str(key).lstrip("-").isdigit() for key in entries):
        raise DatasetError(f"{path}: labels maps numbers to names; write names to numbers, as {_EXAMPLE}.")
    values = {name: _values(name, value, path) for name, value in entries.items()}
    if values.get(BACKGROUND) != (0,):
        raise DatasetError(f'{path}: labels must hold "background": 0, found {entries.get(BACKGROUND)!r}.')
    foreground = {name: found for name, found in values.items() if name != BACKGROUND and name.lower() != IGNORE}
    ignored = [found for name, found in values.items() if name.lower() == IGNORE]
    if regions := any(len(found) > 1 for found in foreground.values()):
        labels = _regions(foreground, raw.get(ORDER), path)
    else:
        labels = tuple(LabelClass(name, found[0]) for name, found in foreground.items())
    _check(labels, ignored, regions, entries, path)
    return LabelSet(labels, ignored[0][0] if ignored else None)


def labels_entry(description: DatasetDescription) -> dict[str, Any]:
    """The entries "labels", and for regions "regions_class_order", of a ``dataset.json``."""
    values = {label.name: list(label.members) if len(label.members) > 1 else label.value for label in description.labels}
    unknown = {} if description.ignore is None else {IGNORE: description.ignore}
    entry: dict[str, Any] = {"labels": {BACKGROUND: 0, **values, **unknown}}
    if any(label.members for label in description.labels):
        entry[ORDER] = [label.value for label in description.labels]
    return entry


def _values(name: str, value: Any, path: Path) -> tuple[int, ...]:
    several = isinstance(value, Sequence) and not isinstance(value, str)
    found = list(value) if several else [value]
    if not found or any(isinstance(one, bool) or not isinstance(one, int) for one in found):
        raise DatasetError(
            f"{path}: label '{name}' is {value!r}; a whole number is needed, or for a region a list of them, as [1, 2]."
        )
    if len(found) > 1 and name.lower() in (BACKGROUND, IGNORE):
        raise DatasetError(f"{path}: label '{name}' is {value!r}; a single number is needed.")
    return tuple(dict.fromkeys(found))


def _regions(values: Mapping[str, tuple[int, ...]], order: Any, path: Path) -> tuple[LabelClass, ...]:
    """One label per region; ``order`` names the value that the outermost voxels of each have in segmentations."""
    usable = isinstance(order, Sequence) and not isinstance(order, str) and len(order) == len(values)
    if not usable or any(one not in found for one, found in zip(order, values.values(), strict=True)):
        raise DatasetError(
            f"{path}: labels has regions, and {ORDER} is {order!r}. It has to name, for each of {', '.join(values)}, one of "
            f"its numbers: the one of voxels that are in no region after it. Here that may be {_suggested(values)}."
        )
    return tuple(
        LabelClass(name, value, found if len(found) > 1 else ())
        for (name, found), value in zip(values.items(), order, strict=True)
    )


def _suggested(values: Mapping[str, tuple[int, ...]]) -> list[int]:
    """Of each region a value that the fewest other regions have, and no earlier one was given."""
    chosen: list[int] = []
    for found in values.values():
        free = [value for value in found if value not in chosen] or list(found)
        chosen.append(min(free, key=lambda value: sum(value in other for other in values.values())))
    return chosen


def _check(
    labels: Sequence[LabelClass], ignored: Sequence[tuple[int, ...]], regions: bool, entries: Mapping[str, Any], path: Path
) -> None:
    """DatasetError unless each label can be told from the others."""
    taken = [0, *(label.value for label in labels)]
    foreign = {value for label in labels for value in label.values}
    if not labels or len(set(taken)) != len(taken) or 0 in foreign:
        own = f"number in {ORDER}" if regions else "integer"
        raise DatasetError(
            f"{path}: labels is {dict(entries)}; at least one foreground label is needed, each with its own {own}."
        )
    if len({frozenset(label.values) for label in labels}) != len(labels):
        raise DatasetError(f"{path}: labels is {dict(entries)}; two regions have the same numbers. Leave one of them out.")
    if len(ignored) > 1 or any(value in foreign | {0} for found in ignored for value in found):
        raise DatasetError(f"{path}: labels is {dict(entries)}; the ignore label needs a number that no other label has.")
