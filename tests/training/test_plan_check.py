"""A plan changed by hand is refused with the field, what was found and what is allowed."""

from dataclasses import replace
from typing import Any

import pytest

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.planning.recipes import default_recipes
from diffatlas_pipeline.training.plan_check import FRACTIONS, LEAST, NAMED, check_plan
from tests.factories import make_plan


def plan() -> Plan:
    return make_plan(recipes=default_recipes())


def changed(part: str, **values: Any) -> Plan:
    whole = plan()
    return replace(whole, **{part: replace(getattr(whole, part), **values)})


def with_recipe(method: str = "diffatlas", **values: Any) -> Plan:
    whole = plan()
    mine = replace(whole.recipe("default", method), name="mine", **values)
    return replace(whole, recipes=(*whole.recipes, mine))


def test_what_the_planner_makes_is_allowed() -> None:
    check_plan(plan(), "plans.json")
    check_plan(make_plan(), "plans.json")


@pytest.mark.parametrize("method", ["diffatlas", "icmd"])
@pytest.mark.parametrize("name", [*NAMED, *FRACTIONS, *LEAST])
def test_each_option_of_a_recipe_is_looked_at(name: str, method: str) -> None:
    wrong = "nonsense" if name in NAMED else -1
    with pytest.raises(UserError, match=f"plans.json: 1 value.*\n.*recipe mine of {method}: {name} .*{wrong}"):
        check_plan(with_recipe(method, **{name: wrong}), "plans.json")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"start_fraction": 0.8, "own_answer_fraction": 0.3}, "1.1 together"),
        ({"clean_image_fraction": 0.9}, "1.15 together"),
        ({"own_answer_fraction": 0.1, "prediction": "v"}, "needs prediction 'x0'"),
        ({"guidance_interval": (0.8, 0.2)}, "guidance_interval 0.8 to 0.2"),
        ({"guidance_level": float("nan")}, "guidance_level nan; 0 to 1 is allowed"),
        ({"steps": -1}, "steps -1; 0 to 300 is allowed"),
        ({"steps": 301}, "steps 301; 0 to 300 is allowed"),
        ({"prediction": "noise"}, "known: epsilon, v, x0"),
    ],
)
def test_options_that_do_not_go_together(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_plan(with_recipe(**values), "plans.json")


@pytest.mark.parametrize(
    ("part", "values", "said"),
    [
        ("training", {"batch_size": 0}, "training.batch_size 0; must be at least 1"),
        ("training", {"learning_rate": 0.0}, "training.learning_rate 0; must be above 0"),
        ("training", {"warmup_fraction": 1.5}, "training.warmup_fraction 1.5; 0 to 1"),
        ("distance", {"scale": -1.0}, "distance.scale -1"),
        ("diffusion", {"schedule": "linear"}, "'linear' is unknown; known: cosine"),
        ("diffusion", {"training_steps": 0}, "diffusion.training_steps 0"),
        ("augmentation", {"zoom": (0.5, 1.2)}, "augmentation.zoom 0.5 to 1.2; 0.667"),
        ("augmentation", {"zoom": (1.2, 0.9)}, "augmentation.zoom 1.2 to 0.9"),
        ("augmentation", {"mirror_axes": (3,)}, "augmentation.mirror_axes 3; 0 to 2"),
        ("network", {"widths": (32, 64)}, "one entry per stage is needed, but there are 2 widths, 3 strides"),
        ("network", {"widths": (32, 0, 64)}, "network.widths and network.blocks 0"),
        ("network", {"kernels": ((3, 3, 3), (2, 3, 3), (3, 3, 3))}, "network.kernels: must be odd"),
        ("network", {"strides": ((2, 2, 2), (2, 2, 2), (0, 2, 2))}, "network.strides and network.kernels 0"),
    ],
)
def test_each_part_that_may_be_changed_is_looked_at(part: str, values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_plan(changed(part, **values), "plans.json")


def test_a_patch_is_a_multiple_of_the_total_stride() -> None:
    with pytest.raises(UserError, match=r"patch_size 40 x 50 x 40; .* 8 x 8 x 8"):
        check_plan(replace(plan(), patch_size=(40, 50, 40)), "plans.json")


def test_all_that_is_wrong_is_listed_at_once() -> None:
    wrong = replace(with_recipe(solver="euler", draws=0), distance=replace(plan().distance, scale=0.0))
    with pytest.raises(UserError, match="3 value") as stop:
        check_plan(wrong, "a/plans.json")
    assert all(word in str(stop.value) for word in ("a/plans.json", "euler", "draws 0", "distance.scale 0"))


def test_recipes_of_every_method_are_looked_at() -> None:
    whole = plan()
    mine = replace(whole.recipe("default", "icf"), name="mine", random_contrast=5.0)
    with pytest.raises(UserError, match="recipe mine of icf: random_contrast 5"):
        check_plan(replace(whole, recipes=(*whole.recipes, mine)), "plans.json")
