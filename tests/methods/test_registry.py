"""Recipes of a plan as each method's own type, and what a training depends on."""

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import pytest

from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.diffusion.levels import MaskLevels
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import from_json, to_json
from diffatlas_pipeline.methods.base import DiffusionRecipe, LearnedMethod, Recipe
from diffatlas_pipeline.methods.icf import FeedForwardRecipe
from diffatlas_pipeline.methods.icmd import MaskRecipe
from diffatlas_pipeline.methods.joint_recipe import DEFAULT, PAPER, JointRecipe
from diffatlas_pipeline.methods.rba import RegistrationRecipe
from diffatlas_pipeline.methods.registry import (
    METHODS,
    SYNTHETIC_SHARE,
    any_contrast_name,
    check_plan,
    default_recipes,
    drawback_of,
    recipe_of,
    training_digest,
    with_sampling,
    with_written_recipe,
)
from diffatlas_pipeline.networks.unet import UNet
from diffatlas_pipeline.planning.plan import Plan, digest_of
from tests.factories import make_plan, make_recipe, make_recipes, with_options


def plan() -> Plan:
    return make_plan(recipes=default_recipes())


def options_of(recipe: Recipe) -> list[tuple[str, str, Any]]:
    """Every option of ``recipe``: its path, its name, and its value."""
    found = []
    for part in dataclasses.fields(recipe):
        value = getattr(recipe, part.name)
        if dataclasses.is_dataclass(value):
            found += [(f"{part.name}.{one.name}", one.name, getattr(value, one.name)) for one in dataclasses.fields(value)]
        else:
            found.append((part.name, part.name, value))
    return found


def test_recipes_are_read_as_they_were_written() -> None:
    read = from_json(Plan, to_json(plan()))
    assert read == plan()
    for name, method in METHODS.items():
        assert "default" in method.recipes and method.name == name
        for recipe, value in method.recipes.items():
            assert recipe_of(read, name, recipe) == value and type(value) is method.recipe_type
    assert {name for name, method in METHODS.items() if issubclass(method.recipe_type, DiffusionRecipe)} == {
        "diffatlas",
        "icmd",
    }


def test_every_number_of_the_default_and_the_paper_s_recipes() -> None:
    """By measurement (documentation/explanation/what-was-tried.md), and as published; None: the method has no such
    option.
    """
    names = [
        "mask", "start", "image", "clean_image", "equal_level", "self_conditioning", "missing_channel",
        "prediction", "input_scaling", "segmentation_weight", "image_weight",
        "solver", "steps", "eta", "draws", "level", "noise", "unlabelled_fraction",
    ]  # fmt: skip
    expected = {
        ("diffatlas", "default"): (
            "high", 0.55, "mixed", 0.5, 0.4, 0.3, 0, "x0", "signal", 1.0, 0.5, "ddim", 2, 0, 1, 0, "fixed", 0
        ),
        ("diffatlas", "paper"): (
            "schedule", 0, "equal", 0, 0, 0, 0, "x0", "none", 0, 1.0, "ddpm", 0, 1.0, 1, 1.0, "fresh", 0
        ),
        ("icmd", "default"): (
            "high", 0.75, None, None, None, None, None, "x0", "signal", 1.0, None, "ddim", 2, 0, 5, None, None, None
        ),
        ("icmd", "paper"): (
            "schedule", 0, None, None, None, None, None, "x0", "none", 0, None, "ddpm", 0, 1.0, 5, None, None, None
        ),
    }  # fmt: skip
    for (method, recipe), values in expected.items():
        options = {name: value for _, name, value in options_of(recipe_of(plan(), method, recipe))}
        assert options.pop("any_contrast") == options.pop("given_labels") == 0
        refines = (method, recipe) == ("diffatlas", "default")
        assert options.pop("answer") == ("mean" if refines else "last")
        assert options.pop("own_levels", "same") == ("beyond" if refines else "same")
        assert options.pop("error") == ("v" if recipe == "paper" else "output")
        assert options.pop("mask_scale", 1.0) == (0.1 if (method, recipe) == ("diffatlas", "paper") else 1.0)
        assert options == {name: value for name, value in zip(names, values, strict=True) if value is not None}
    for method in ("diffatlas", "icmd"):
        paper, noise = (recipe_of(plan(), method, name) for name in ("paper", "paper-noise"))
        assert isinstance(paper, DiffusionRecipe)
        as_published = replace(paper, objective=replace(paper.objective, prediction="epsilon", error="output"))
        if isinstance(paper, JointRecipe):
            as_published = replace(as_published, levels=replace(paper.levels, mask_scale=1.0))
        assert as_published == noise
    assert recipe_of(plan(), "rba") == RegistrationRecipe("deformable", "votes", atlases=12, aligned=24)


def test_noise_cannot_be_put_out_where_the_network_sees_blocks() -> None:
    single, blocks = (
        replace(plan(), network=replace(plan().network, strides=(stem, *plan().network.strides[1:])))
        for stem in ((1, 1, 1), (2, 2, 1))
    )
    for method in ("diffatlas", "icmd"):
        noise = recipe_of(plan(), method, "paper-noise")
        assert "blocks of 2x2x1 voxels" in drawback_of(noise, blocks) and drawback_of(noise, single) == ""
        assert drawback_of(recipe_of(plan(), method, "paper"), blocks) == ""
    assert drawback_of(recipe_of(plan(), "icf"), blocks) == ""


@pytest.mark.parametrize(("method", "inputs", "outputs"), [("diffatlas", 5, 5), ("icmd", 5, 3), ("icf", 2, 4)])
def test_networks_have_the_channels_of_images_and_masks(method: str, inputs: int, outputs: int) -> None:
    """Two images and three labels: of both, of masks beside images, of labels and background."""
    images = tuple(replace(plan().channels[0], name=name) for name in ("T1", "T2"))
    labels = tuple(LabelClass(name, value) for value, name in enumerate("abc", 1))
    both = replace(plan(), channels=images, dataset=replace(plan().dataset, labels=labels))
    made = METHODS[method](both, recipe_of(both, method))
    assert isinstance(made, LearnedMethod)
    network = made.build_network()
    assert isinstance(network, UNet)
    assert (network.stem.in_channels, network.head.out_channels) == (inputs, outputs)
    assert (network.embedding is None) == (method == "icf")


def test_recipes_belong_to_methods() -> None:
    mine = make_plan(recipes=make_recipes(icmd={"default": MaskRecipe()}, icf={}))
    assert recipe_of(mine, "icmd") == MaskRecipe()
    with pytest.raises(UserError, match="Unknown recipe 'paper' of icmd: this plan has default"):
        recipe_of(mine, "icmd", "paper")
    with pytest.raises(UserError, match="Unknown recipe 'default' of icf: this plan has none"):
        recipe_of(mine, "icf")


@pytest.mark.parametrize(
    ("method", "base"), [("diffatlas", "default"), ("diffatlas", "paper"), ("icf", "default"), ("icmd", "mine")]
)
def test_every_learned_recipe_has_one_with_synthetic_contrasts(method: str, base: str) -> None:
    """It need not be in the plan, is another training, and differs in nothing else; one that is in the plan is
    taken.
    """
    mine = make_plan(recipes={**plan().recipes, "icmd": {"mine": dataclasses.asdict(MaskRecipe())}})
    name = any_contrast_name(base)
    recipe = recipe_of(mine, method, name)
    assert recipe == replace(recipe_of(mine, method, base), any_contrast=SYNTHETIC_SHARE)
    assert with_sampling(recipe) == recipe
    assert training_digest(mine, method, base) != training_digest(mine, method, name)
    written = with_written_recipe(mine, method, name)
    assert written.recipes[method][name] == dataclasses.asdict(recipe) and recipe_of(written, method, name) == recipe
    written.recipes[method][name]["any_contrast"] = 0.25
    assert METHODS[method](written, recipe_of(written, method, name)).any_contrast == 0.25


def test_methods_without_a_network_have_no_such_recipe() -> None:
    with pytest.raises(UserError, match="Unknown recipe 'any-contrast' of rba"):
        recipe_of(plan(), "rba", "any-contrast")


def test_an_unknown_option_is_refused_with_its_recipe() -> None:
    recipes = make_recipes()
    recipes["diffatlas"]["default"]["sampler"]["speed"] = 1
    with pytest.raises(UserError, match=r"recipe 'default' of diffatlas: .*unknown fields \['speed'\]"):
        recipe_of(make_plan(recipes=recipes), "diffatlas")
    with pytest.raises(UserError, match="1 value"):
        check_plan(make_plan(recipes=recipes), "plans.json")
    with pytest.raises(UserError, match=r"recipes\.magic: no such method; known: diffatlas"):
        check_plan(make_plan(recipes=make_recipes() | {"magic": {}}), "plans.json")


def test_sampling_options_replace_the_recipe_s() -> None:
    recipe = make_recipe(steps=2)
    assert with_sampling(recipe) == recipe
    expected = with_options(recipe, steps=7, solver="ddpm", level=0.5)
    assert with_sampling(recipe, steps=7, solver="ddpm", guidance_level=0.5) == expected
    assert with_sampling(MaskRecipe(), steps=3, draws=2) == with_options(MaskRecipe(), steps=3, draws=2)


@pytest.mark.parametrize(
    ("recipe", "given", "said"),
    [
        (DEFAULT, {"steps": -1}, "`steps` -1: must be at least 1"),
        (DEFAULT, {"solver": "euler"}, "`solver` euler: unknown; choose one of ddpm"),
        (DEFAULT, {"draws": 0}, "`draws` 0: must be at least 1"),
        (DEFAULT, {"guidance_level": 1.5}, "`guidance_level` 1.5: must lie between"),
        (FeedForwardRecipe(), {"steps": 3}, "`steps`: the method icf has no such option"),
        (
            RegistrationRecipe(),
            {"draws": 3, "guidance_level": 0.1},
            "`draws`, `guidance_level`: the method rba has no such option",
        ),
        (MaskRecipe(), {"guidance_level": 0.5}, "`guidance_level`: the method icmd has no such option"),
    ],
)
def test_sampling_options_that_are_not_allowed(recipe: Recipe, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_sampling(recipe, **given)


def test_several_draws_take_a_second_step_where_one_step_hears_no_noise() -> None:
    def steps(recipe: JointRecipe, **given: Any) -> int:
        sampled = with_sampling(recipe, **given)
        assert isinstance(sampled, JointRecipe)
        return sampled.sampler.steps

    silent = make_recipe(steps=1, input_scaling="signal")
    assert steps(silent, draws=5) == 2 and steps(silent, draws=5, steps=1) == 1
    assert steps(silent) == 1 and steps(make_recipe(steps=1), draws=5) == 1
    assert steps(with_options(silent, steps=4), draws=5) == 4


def test_a_training_depends_on_its_own_recipe_and_the_plan_but_not_on_reasons() -> None:
    whole = plan()
    known = training_digest(whole, "diffatlas")
    others = replace(whole, recipes=make_recipes(icmd={"default": MaskRecipe()}), why={"a": "b"})
    assert training_digest(others, "diffatlas") == known and others.digest() == whole.digest()
    assert training_digest(others, "icmd") != training_digest(whole, "icmd")
    assert training_digest(whole, "icf") != known != training_digest(whole, "diffatlas", "paper")
    assert training_digest(from_json(Plan, to_json(whole)), "diffatlas") == known
    different = [
        replace(whole, recipes=make_recipes(diffatlas={"default": with_options(DEFAULT, segmentation_weight=0.7)})),
        replace(whole, patch_size=(8, 8, 8)),
        replace(whole, training=replace(whole.training, batch_size=5)),
    ]
    assert len({known, *(training_digest(one, "diffatlas") for one in different)}) == 4


def test_an_option_at_its_default_changes_no_digest() -> None:
    """A file that does not say it is the same."""
    recipes = make_recipes(diffatlas={"default": PAPER})
    shorter = make_recipes(diffatlas={"default": PAPER})
    del shorter["diffatlas"]["default"]["unlabelled_fraction"], shorter["diffatlas"]["default"]["levels"]["start"]
    one, other = (training_digest(make_plan(recipes=given), "diffatlas") for given in (recipes, shorter))
    assert one == other


def test_a_part_added_later_changes_no_digest() -> None:
    @dataclass(frozen=True)
    class Earlier:
        steps: int

    @dataclass(frozen=True)
    class Later(Earlier):
        solver: str = "ddim"
        levels: MaskLevels = dataclasses.field(default_factory=MaskLevels)

    assert digest_of(Later(3)) == digest_of(Earlier(3)) != digest_of(Later(3, levels=MaskLevels(start=0.5)))
