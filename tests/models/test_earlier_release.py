"""Model folders and plans that version 0.1 wrote, before recipes had parts: they load, and give the labels they gave.

``tests/data_of_release_1`` holds two small models of generated balls, trained by that release for a few steps; their
common plan with the recipes of all methods; and scans with the labels that it predicted.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffatlas_pipeline.api.model import load_model
from diffatlas_pipeline.diffusion.levels import NoiseLevels
from diffatlas_pipeline.diffusion.solvers import Sampler
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import from_json, to_json
from diffatlas_pipeline.methods.icf import FeedForwardRecipe
from diffatlas_pipeline.methods.joint_recipe import JointRecipe
from diffatlas_pipeline.methods.registry import check_plan, default_recipes, recipe_of, with_complete_recipes
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.planning.migration import REMOVED
from diffatlas_pipeline.planning.plan import Plan

FOLDER = Path(__file__).parents[1] / "data_of_release_1"
MODELS = ("diffatlas__default", "rba__default")


DEFAULT_OF_OLD = {
    "levels": asdict(NoiseLevels("high", 0.75, image="mixed", clean_image=0.5, equal_level=0.25)),
    "sampler": asdict(Sampler("ddim", steps=1)),
}
"""Where the joint model's recipe has changed since."""


def old_plan() -> dict[str, Any]:
    plan = json.loads((FOLDER / MODELS[0] / "plans.json").read_text(encoding="utf-8"))
    assert plan["version"] == 1
    return plan


def read(raw: dict[str, Any]) -> Plan:
    return from_json(Plan, json.dumps(raw), "plans.json")


@pytest.mark.parametrize("name", MODELS)
def test_an_old_model_gives_the_labels_that_it_gave(name: str) -> None:
    model = load_model(FOLDER / name, "cpu", precision="float32")
    with np.load(FOLDER / "scans_and_labels.npz") as stored:
        for case in ("case00", "case01", "case02"):
            found = model.segment(stored[f"{case}_image"], affine=stored[f"{case}_affine"])
            expected = stored[f"{case}_{name}"]
            assert set(np.unique(expected)) == {0, 3, 7}
            assert np.array_equal(found.labels, expected)


def test_an_old_plan_holds_what_is_planned_now() -> None:
    """All recipes of all methods, also of those that had none; what changed nothing is left out. What was "paper" is
    called "paper-noise" now.
    """
    plan = read(old_plan())
    check_plan(plan, "plans.json")
    now = default_recipes()
    now["diffatlas"]["default"] |= DEFAULT_OF_OLD
    for method in ("diffatlas", "icmd"):
        now[method]["paper"] = now[method].pop("paper-noise")
    assert with_complete_recipes(plan).recipes == now
    old_names = {(one["method"], one["name"]) for one in old_plan()["recipes"]}
    assert ("rba", "syn") in old_names and "syn" not in plan.recipes["rba"]  # needed a package that is not used any more
    assert plan.version == 2 and from_json(Plan, to_json(plan)) == plan


def test_an_old_plan_keeps_its_digest() -> None:
    """What release 0.1 gave for it, without recipes."""
    assert read(old_plan()).digest() == "55daf08f9a2d"


def test_an_old_folder_is_not_taken_for_another_plan(tmp_path: Path) -> None:
    """Writing today's plan into an old model's folder is refused only if the model could not have been trained with
    it.
    """
    folder = tmp_path / "diffatlas__default"
    (folder / "all").mkdir(parents=True)
    for file in ("plans.json", "all/checkpoint_final.json", "all/checkpoint_final.safetensors"):
        (folder / file).write_bytes((FOLDER / MODELS[0] / file).read_bytes())
    plan = read(old_plan())
    ModelFolder.create(folder, plan)
    assert json.loads((folder / "plans.json").read_text(encoding="utf-8"))["version"] == 2
    with pytest.raises(UserError, match="another plan"):
        ModelFolder.create(folder, replace(plan, patch_size=(8, 8, 8)))


def test_every_option_of_old_finds_its_place() -> None:
    mixed = {
        "name": "mine", "prediction": "v", "mask_levels": "schedule", "image_levels": "mixed", "clean_image_fraction": 0.1,
        "equal_level_fraction": 0.2, "start_fraction": 0.3, "own_answer_fraction": 0.4, "input_scaling": "signal",
        "unlabelled_fraction": 0.5, "segmentation_loss": 0.6, "image_loss": 0.7, "solver": "dpmpp_2m", "steps": 8, "eta": 0.9,
        "guidance_level": 0.25, "guidance_noise": "fresh", "draws": 11,
    }  # fmt: skip
    plan = read(old_plan() | {"recipes": [mixed, mixed | {"method": "icmd"}]})
    levels = {"mask": "schedule", "start": 0.3}
    objective = {"prediction": "v", "input_scaling": "signal", "segmentation_weight": 0.6}
    sampler = {"solver": "dpmpp_2m", "steps": 8, "eta": 0.9, "draws": 11}
    assert plan.recipes["diffatlas"]["mine"] == {
        "levels": levels | {"image": "mixed", "clean_image": 0.1, "equal_level": 0.2, "self_conditioning": 0.4},
        "objective": objective | {"image_weight": 0.7},
        "sampler": sampler,
        "guidance": {"level": 0.25, "noise": "fresh"},
        "unlabelled_fraction": 0.5,
    }
    assert plan.recipes["icmd"]["mine"] == {"levels": levels, "objective": objective, "sampler": sampler}
    assert plan.recipes["rba"] == {"default": default_recipes()["rba"]["default"]}


def test_shares_that_did_nothing_are_left_out_and_defaults_of_old_are_kept() -> None:
    equal = {"name": "equal", "clean_image_fraction": 0.5, "equal_level_fraction": 1.0, "start_fraction": 0.75}
    plan = read(old_plan() | {"recipes": [equal]})
    levels = plan.recipes["diffatlas"]["equal"]["levels"]
    assert levels == {
        "mask": "high", "start": 0.0, "image": "equal", "clean_image": 0.0, "equal_level": 0.0, "self_conditioning": 0.0
    }  # fmt: skip
    assert recipe_of(plan, "diffatlas", "equal") == JointRecipe()


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [("diffatlas", "guidance_interval", [0.1, 1.0]), ("diffatlas", "resampling", 2), ("icmd", "resampling", 2)],
)
def test_only_the_recipe_that_sets_an_option_that_is_gone_is_refused(method: str, option: str, value: Any) -> None:
    mine = {"name": "mine", "method": method}
    raw = old_plan() | {"recipes": [*old_plan()["recipes"], mine | {option: value}]}
    plan = read(raw)
    check_plan(plan, "plans.json")
    assert plan.digest() == read(old_plan()).digest()
    assert recipe_of(plan, method) == recipe_of(read(old_plan()), method)
    again = from_json(Plan, to_json(with_complete_recipes(plan)))
    for one in (plan, again):
        with pytest.raises(UserError, match=f"Recipe 'mine' of {method} sets {option} to .*This option was removed.*another"):
            recipe_of(one, method, "mine")
    with pytest.raises(UserError, match=r"this plan has default, paper\. Choose"):
        recipe_of(plan, method, "other")
    neutral = read(old_plan() | {"recipes": [mine | {option: REMOVED[method][option]}]})
    assert recipe_of(neutral, method, "mine") is not None


@pytest.mark.parametrize("option", [{"random_contrast": 0.5}, {"resampling": 2}, {"guidance_interval": [0.1, 1.0]}])
def test_an_option_that_did_not_concern_the_segmentation_is_left_out(option: dict[str, Any]) -> None:
    plan = read(
        old_plan() | {"recipes": [{"name": "mine", "method": "icf", **option}, {"name": "mine", "random_contrast": 0.5}]}
    )
    assert recipe_of(plan, "icf", "mine") == FeedForwardRecipe() and recipe_of(plan, "diffatlas", "mine") == JointRecipe()


def test_a_model_beside_a_recipe_that_is_gone_loads_and_one_of_it_says_what_to_use(tmp_path: Path) -> None:
    folder = tmp_path / "diffatlas__default"
    shutil.copytree(FOLDER / MODELS[0], folder)
    mine = {"name": "mine", "method": "diffatlas", "resampling": 2}
    (folder / "plans.json").write_text(json.dumps(old_plan() | {"recipes": [*old_plan()["recipes"], mine]}))
    assert load_model(folder, "cpu", precision="float32").labels
    described = folder / "all/checkpoint_final.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | {"recipe": "mine"}))
    with pytest.raises(UserError, match="Recipe 'mine' of diffatlas sets resampling to 2"):
        load_model(folder, "cpu", precision="float32")


def test_a_model_of_the_removed_registration_says_what_to_use(tmp_path: Path) -> None:
    folder = tmp_path / "rba__syn"
    shutil.copytree(FOLDER / "rba__default", folder)
    described = folder / "all/checkpoint_final.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | {"recipe": "syn"}))
    with pytest.raises(UserError, match=r"Recipe 'syn' of rba was removed.*Use rba with the recipe default"):
        load_model(folder, "cpu", precision="float32")


def test_a_plan_without_recipes_is_read() -> None:
    assert set(read(old_plan() | {"recipes": None}).recipes["rba"]) == {"default"}
    with pytest.raises(UserError, match=r"plans\.json: does not hold a valid plan \(a recipe is 7"):
        read(old_plan() | {"recipes": 7})


@pytest.mark.parametrize("recipe", [{"name": "mine", "speed": 3}, {"prediction": "v"}, 7])
def test_what_was_no_recipe_is_refused(recipe: Any) -> None:
    with pytest.raises(UserError, match=r"plans\.json: does not hold a valid plan"):
        read(old_plan() | {"recipes": [recipe]})


def test_versions_that_nobody_knows_are_refused() -> None:
    with pytest.raises(UserError, match="format version 3, but this release reads version 2"):
        read(old_plan() | {"version": 3})
