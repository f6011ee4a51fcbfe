"""Plans changed by hand are refused with field, value and what is allowed."""

from dataclasses import replace
from typing import Any

import pytest

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.methods.registry import (
    METHODS,
    check_plan,
    recipe_of,
)
from diffatlas_pipeline.planning.plan import Plan
from tests.factories import make_plan, make_recipes, with_options
from tests.methods.test_registry import options_of, plan


def changed(part: str, **values: Any) -> Plan:
    whole = plan()
    return replace(whole, **{part: replace(getattr(whole, part), **values)})


def with_recipe(method: str = "diffatlas", **options: Any) -> Plan:
    mine = with_options(METHODS[method].recipes["default"], **options)
    return make_plan(recipes=make_recipes(**{method: {"default": METHODS[method].recipes["default"], "mine": mine}}))


EVERY = [(method, *option) for method, one in METHODS.items() for option in options_of(one.recipes["default"])]


def test_what_the_planner_makes_is_allowed() -> None:
    check_plan(plan(), "plans.json")
    check_plan(make_plan(), "plans.json")


@pytest.mark.parametrize(("method", "path", "name", "value"), EVERY, ids=[f"{method} {path}" for method, path, *_ in EVERY])
def test_each_option_of_a_recipe_is_looked_at(method: str, path: str, name: str, value: Any) -> None:
    wrong = "nonsense" if isinstance(value, str) else -1
    with pytest.raises(UserError, match=f"plans.json: 1 value.*\n.*recipe mine of {method}: {path} .*{wrong}"):
        check_plan(with_recipe(method, **{name: wrong}), "plans.json")
    with pytest.raises(UserError, match=f"Recipe 'mine' of {method}: {path} .*{wrong}"):
        recipe_of(with_recipe(method, **{name: wrong}), method, "mine")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"start": 0.8, "self_conditioning": 0.3}, "levels: start and self_conditioning are 1.1 together"),
        ({"clean_image": 0.9}, "levels: clean_image and equal_level are 1.3 together"),
        ({"self_conditioning": 0.1, "prediction": "v"}, "levels.self_conditioning needs objective.prediction 'x0'"),
        ({"level": float("nan")}, "guidance.level nan; 0 to 1 is allowed"),
        ({"steps": 301}, "sampler.steps 301; 0 to 300, the training steps, is allowed"),
        ({"prediction": "noise"}, "objective.prediction 'noise'; must be one of epsilon, v, x0"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_plan(with_recipe(**options), "plans.json")


@pytest.mark.parametrize(
    ("part", "values", "said"),
    [
        ("training", {"batch_size": 0}, "training.batch_size 0; must be at least 1"),
        ("training", {"iterations": 0}, "training.iterations 0; must be at least 1"),
        ("training", {"learning_rate": 0.0}, "training.learning_rate 0; must be above 0"),
        ("training", {"learning_rate": float("nan")}, "training.learning_rate nan; must be above 0"),
        ("training", {"gradient_clip": 0.0}, "training.gradient_clip 0; must be above 0"),
        ("training", {"weight_decay": -0.1}, "training.weight_decay -0.1; must be at least 0"),
        ("training", {"warmup_fraction": 1.5}, "training.warmup_fraction 1.5; 0 to 1"),
        ("training", {"ema_fraction": -0.5}, "training.ema_fraction -0.5; 0 to 1"),
        ("distance", {"scale": -1.0}, "distance.scale -1; must be above 0"),
        ("distance", {"tau_mm": 0.0}, "distance.tau_mm 0; must be above 0"),
        ("distance", {"tau_mm": float("nan")}, "distance.tau_mm nan; must be above 0"),
        ("diffusion", {"schedule": "linear"}, "diffusion.schedule 'linear'; must be one of cosine"),
        ("diffusion", {"training_steps": 0}, "diffusion.training_steps 0"),
        ("augmentation", {"zoom": (0.5, 1.2)}, "augmentation: zoom 0.5 to 1.2; 0.667"),
        ("augmentation", {"zoom": (1.2, 0.9)}, "augmentation: zoom 1.2 to 0.9"),
        ("augmentation", {"elastic": 1.5}, "augmentation.elastic 1.5; 0 to 1"),
        ("augmentation", {"rotation_degrees": (0.0, 181.0, 0.0)}, "augmentation.rotation_degrees 181; 0 to 180"),
        ("augmentation", {"mirror_axes": (3,)}, "augmentation.mirror_axes 3; 0 to 2"),
        ("network", {"widths": (32, 64)}, "network: one entry per stage is needed, but there are 2 widths, 3 strides"),
        ("network", {"widths": (32, 0, 64)}, "network.widths 0"),
        ("network", {"blocks": (1, 1, 0)}, "network.blocks 0"),
        ("network", {"embedding": 0}, "network.embedding 0"),
        ("network", {"kernels": ((3, 3, 3), (2, 3, 3), (3, 3, 3))}, "network.kernels 2; must be odd"),
        ("network", {"strides": ((2, 2, 2), (2, 2, 2), (0, 2, 2))}, "network.strides 0"),
        ("budget", {"device": "tpu"}, "budget.device 'tpu'; must be one of cpu, cuda, mps"),
    ],
)
def test_each_part_that_may_be_changed_is_looked_at(part: str, values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_plan(changed(part, **values), "plans.json")


def test_parts_of_the_plan_fit_together() -> None:
    with pytest.raises(UserError, match=r"patch_size 40 x 50 x 40; .* 8 x 8 x 8"):
        check_plan(replace(plan(), patch_size=(40, 50, 40)), "plans.json")
    with pytest.raises(UserError, match=r"augmentation\.mirror_axes 2; 0 to 1 is allowed"):
        flat = replace(plan(), dimensions=2)
        check_plan(replace(flat, augmentation=replace(flat.augmentation, mirror_axes=(2,))), "plans.json")
    channel = replace(plan().channels[0], scheme="z-score")
    with pytest.raises(UserError, match=r"channels\[0\].scheme 'z-score'; must be one of ct, fixed, percentile"):
        check_plan(replace(plan(), channels=(channel,)), "plans.json")


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        (
            {"scheme": "ct", "lower": 300.0, "upper": 300.0},
            r"channels\[0\]: lower 300, upper 300; the upper one must be larger",
        ),
        ({"scheme": "fixed", "lower": 1.0, "upper": -1.0}, "the upper one must be larger"),
        ({"scheme": "percentile", "lower": -0.5, "upper": 99.5}, "percentiles are 0 to 100"),
        ({"scheme": "ct", "lower": float("nan"), "upper": 1.0}, r"channels\[0\].lower nan; must be a finite number"),
    ],
)
def test_bounds_of_a_channel_that_would_make_all_alike(bounds: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_plan(replace(plan(), channels=(replace(plan().channels[0], **bounds),)), "plans.json")


def test_spacing_is_positive() -> None:
    with pytest.raises(UserError, match="spacing_mm -5; must be above 0"):
        check_plan(replace(plan(), spacing_mm=(1.0, -5.0, 1.0)), "plans.json")


def test_all_that_is_wrong_is_listed_at_once() -> None:
    wrong = replace(with_recipe(solver="euler", draws=0), distance=replace(plan().distance, scale=0.0))
    with pytest.raises(UserError, match="3 value") as stop:
        check_plan(wrong, "a/plans.json")
    assert all(word in str(stop.value) for word in ("a/plans.json", "euler", "draws 0", "distance.scale 0"))
