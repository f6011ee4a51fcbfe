"""Dataclasses from plain data: what does not fit is named by the path of its field."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import from_plain
from diffatlas_pipeline.methods.registry import check_plan, default_recipes
from tests.factories import make_plan


@dataclass(frozen=True)
class Part:
    steps: int = 1
    eta: float = 0.0
    solver: str = "ddim"


@dataclass(frozen=True)
class Whole:
    size: tuple[int, int]
    parts: tuple[Part, ...]
    named: dict[str, Part] = field(default_factory=dict)
    sampler: Part = field(default_factory=Part)
    limit: float | None = None
    place: Path = Path()
    compiled: bool = False


RIGHT: dict[str, Any] = {"size": [1, 2], "parts": [{}, {"steps": 3}], "named": {"a": {"eta": 1}}, "limit": 2, "place": "a/b"}


def test_plain_data_become_the_dataclass() -> None:
    whole = from_plain(Whole, RIGHT)
    assert whole == Whole((1, 2), (Part(), Part(3)), {"a": Part(eta=1.0)}, limit=2.0, place=Path("a/b"))
    assert isinstance(whole.limit, float) and isinstance(whole.named["a"].eta, float)
    assert from_plain(Whole, RIGHT | {"limit": None}).limit is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sampler": {"steps": "3"}}, "sampler.steps: expected int, found '3'"),
        ({"sampler": {"steps": True}}, "sampler.steps: expected int, found true"),
        ({"sampler": {"steps": 1.5}}, "sampler.steps: expected int, found 1.5"),
        ({"sampler": {"eta": "0.5"}}, "sampler.eta: expected float, found '0.5'"),
        ({"sampler": {"eta": None}}, "sampler.eta: expected float, found null"),
        ({"sampler": {"eta": False}}, "sampler.eta: expected float, found false"),
        ({"sampler": {"solver": 3}}, "sampler.solver: expected str, found 3"),
        ({"sampler": {"speed": 3}}, "sampler: unknown fields ['speed']"),
        ({"sampler": None}, "sampler: expected named values, found null"),
        ({"limit": "2"}, "limit: expected float, found '2'"),
        ({"compiled": 1}, "compiled: expected bool, found 1"),
        ({"place": 7}, "place: expected str, found 7"),
        ({"size": [1, "2"]}, "size[1]: expected int, found '2'"),
        ({"size": [1]}, "size: expected 2 values, found 1"),
        ({"size": "12"}, "size: expected a list, found '12'"),
        ({"parts": [{}, {"eta": []}]}, "parts[1].eta: expected float, found []"),
        ({"named": {"a": {"steps": None}}}, "named.a.steps: expected int, found null"),
        ({"named": []}, "named: expected named values, found []"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as stopped:
        from_plain(Whole, RIGHT | wrong, "mine.json")
    assert str(stopped.value) == f"mine.json: does not hold a valid Whole ({said})."


def test_what_lacks_is_named() -> None:
    with pytest.raises(UserError, match=r"Whole: does not hold a valid Whole \(missing fields \['size', 'parts'\]\)"):
        from_plain(Whole, {})


def test_a_recipe_changed_by_hand_is_named_once() -> None:
    recipes = default_recipes()
    recipes["diffatlas"]["default"]["sampler"]["steps"] = "3"
    with pytest.raises(UserError) as stopped:
        check_plan(make_plan(recipes=recipes), "plans.json")
    _, line = str(stopped.value).splitlines()
    assert (
        line == "  - recipe 'default' of diffatlas: does not hold a valid JointRecipe (sampler.steps: expected int, found '3')"
    )
