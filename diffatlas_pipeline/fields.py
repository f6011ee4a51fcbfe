"""What a field of a dataclass may hold, said where the field is defined, and what is wrong with a value.

::

    steps: int = field(default=1, metadata=at_least(0))

A rule holds for each number in a tuple. What depends on several fields is checked by the dataclass's own method
``problems``, if it has one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

RULE = "rule"


@dataclass(frozen=True)
class Rule:
    """A test of one number or word, and what it needs in words."""

    holds: Callable[[Any], bool]
    needed: str


Metadata = Mapping[str, Rule]


def rule(holds: Callable[[Any], bool], needed: str) -> Metadata:
    """Metadata of a field whose values pass ``holds``; ``needed`` completes "VALUE; ..."."""
    return {RULE: Rule(holds, needed)}


def one_of(*names: str) -> Metadata:
    """Metadata of a field that holds one of ``names``."""
    return rule(lambda value: value in names, f"must be one of {', '.join(names)}")


def at_least(least: float) -> Metadata:
    """Metadata of a field that holds numbers >= ``least``."""
    return rule(lambda value: value >= least, f"must be at least {least:g}")


def above(bound: float) -> Metadata:
    """Metadata of a field that holds numbers > ``bound``."""
    return rule(lambda value: value > bound, f"must be above {bound:g}")


def within(least: float, most: float) -> Metadata:
    """Metadata of a field that holds numbers in [``least``, ``most``]."""
    return rule(lambda value: least <= value <= most, f"{least:g} to {most:g} is allowed")


def fraction() -> Metadata:
    """Metadata of a field that holds numbers in [0, 1]."""
    return within(0, 1)


def problems_of(value: Any, where: str = "") -> Iterator[str]:
    """One line for each value in the dataclass ``value``, and in those nested in it, that is not allowed, and what is.

    Lines name a field by its path, which begins with ``where``: "training.batch_size 0; must be at least 1". NaN and
    infinity are never allowed.
    """
    for one in dataclasses.fields(value):
        path = f"{where}.{one.name}" if where else one.name
        yield from _of_field(getattr(value, one.name), one.metadata.get(RULE), path)
    if hasattr(value, "problems"):
        yield from (f"{where}: {problem}" if where else problem for problem in value.problems())


def _of_field(value: Any, known: Rule | None, path: str) -> Iterator[str]:
    if dataclasses.is_dataclass(value):
        yield from problems_of(value, path)
    elif isinstance(value, (tuple, list)):
        nested = any(dataclasses.is_dataclass(item) for item in value)
        for index, item in enumerate(value):
            yield from _of_field(item, known, f"{path}[{index}]" if nested else path)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{path} {value:g}; {known.needed if known else 'must be a finite number'}"
    elif known and value is not None and not known.holds(value):  # None: left open, where the type allows it
        yield f"{path} {_shown(value)}; {known.needed}"


def _shown(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else f"{value:g}"
