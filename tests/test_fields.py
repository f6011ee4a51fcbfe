"""Fields that know what they may hold."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from diffatlas_pipeline.fields import above, at_least, fraction, one_of, problems_of, within


@dataclass(frozen=True)
class Part:
    name: str = field(default="a", metadata=one_of("a", "b"))
    share: float = field(default=0.5, metadata=fraction())
    free: float = 0.0


@dataclass(frozen=True)
class Whole:
    part: Part = field(default_factory=Part)
    parts: tuple[Part, ...] = ()
    sizes: tuple[tuple[int, int], ...] = field(default=((1, 2),), metadata=at_least(1))
    rate: float = field(default=1.0, metadata=above(0))
    axis: int = field(default=0, metadata=within(0, 2))

    def problems(self) -> Iterator[str]:
        if self.axis and not self.parts:
            yield "an axis needs parts"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, []),
        ({"rate": 1e-9, "axis": 2, "parts": (Part(),), "sizes": ((1, 1),)}, []),
        ({"rate": 0.0}, ["rate 0; must be above 0"]),
        ({"sizes": ((1, 0), (-1, 5))}, ["sizes 0; must be at least 1", "sizes -1; must be at least 1"]),
        ({"axis": 3, "parts": (Part(),)}, ["axis 3; 0 to 2 is allowed"]),
        ({"axis": -1, "parts": (Part(),)}, ["axis -1; 0 to 2 is allowed"]),
        ({"axis": 1}, ["an axis needs parts"]),
        ({"part": Part("c")}, ["part.name 'c'; must be one of a, b"]),
        ({"parts": (Part(), Part(share=1.01))}, ["parts[1].share 1.01; 0 to 1 is allowed"]),
        ({"rate": math.nan}, ["rate nan; must be above 0"]),
        ({"rate": math.inf}, ["rate inf; must be above 0"]),
        ({"part": Part(free=math.nan)}, ["part.free nan; must be a finite number"]),
        ({"part": Part("c", -1.0), "rate": -1.0}, [
            "part.name 'c'; must be one of a, b", "part.share -1; 0 to 1 is allowed", "rate -1; must be above 0",
        ]),
    ],
)  # fmt: skip
def test_every_value_that_is_not_allowed_is_named_with_what_is(changed: dict[str, object], said: list[str]) -> None:
    assert list(problems_of(replace(Whole(), **changed))) == said  # type: ignore[arg-type]


def test_paths_begin_where_the_value_stands() -> None:
    found = list(problems_of(Whole(Part("c"), axis=1), "plan"))
    assert found == ["plan.part.name 'c'; must be one of a, b", "plan: an axis needs parts"]
