"""Plans of earlier releases, as this release writes them.

Version 1 had a list of recipes, each with the same flat options and the name of its method. Options that meant nothing
to a method, or nothing beside another option, are left out: they changed nothing. Options that are gone stay in the
recipe that sets them, so that only who asks for this recipe is refused: see :func:`gone_from`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffatlas_pipeline.errors import UserError

PLAN_VERSION = 2

REMOVED: dict[str, dict[str, Any]] = {
    "diffatlas": {"guidance_interval": [0.0, 1.0], "resampling": 1},
    "icmd": {"resampling": 1},
}
"""Options of sampling that are gone: method -> option -> the value at which it did nothing."""

_MIXED_ONLY = {  # options of NoiseLevels that counted with image_levels "mixed" only
    "clean_image": "clean_image_fraction",
    "equal_level": "equal_level_fraction",
    "start": "start_fraction",
    "self_conditioning": "own_answer_fraction",
}
_DEFAULTS: dict[str, Any] = {  # of version 1, for what a file leaves out
    "prediction": "x0",
    "mask_levels": "high",
    "image_levels": "equal",
    "clean_image_fraction": 0.0,
    "equal_level_fraction": 0.0,
    "start_fraction": 0.0,
    "own_answer_fraction": 0.0,
    "input_scaling": "none",
    "unlabelled_fraction": 0.0,
    "segmentation_loss": 0.0,
    "image_loss": 1.0,
    "solver": "ddim",
    "steps": 1,
    "eta": 0.0,
    "guidance_level": 0.0,
    "guidance_noise": "fixed",
    "draws": 1,
    "method": "diffatlas",
    "guidance_interval": [0.0, 1.0],
    "resampling": 1,
    "random_contrast": 0.0,  # of training only: what was trained with it segments as before, so it is left out
}
_REGISTRATION = {"registration": "deformable", "fusion": "votes", "atlases": 12, "aligned": 24}
_REGISTRATIONS: dict[str, dict[str, Any]] = {  # version 1 knew them by name only
    "default": _REGISTRATION,
    "affine": _REGISTRATION | {"registration": "affine"},
    "majority": _REGISTRATION | {"fusion": "majority"},
    "staple": _REGISTRATION | {"fusion": "staple"},
}


def migrated_plan(raw: dict[str, Any], source: str) -> dict[str, Any]:
    """The data of a ``plans.json`` of version 1 as version 2 has it; of any other version as it is.

    UserError naming ``source`` if it holds something that was no recipe.
    """
    if raw.get("version") != 1:
        return raw
    recipes: dict[str, dict[str, Any]] = {"diffatlas": {}, "icf": {}, "icmd": {}, "rba": {}, "mean": {}}
    listed = raw.get("recipes") or []
    for given in listed if isinstance(listed, list) else [listed]:
        if not isinstance(given, Mapping) or "name" not in given or set(given) - {"name", *_DEFAULTS}:
            raise UserError(f"{source}: does not hold a valid plan (a recipe is {given!r}).")
        recipe = _DEFAULTS | dict(given)
        method, name = str(recipe["method"]), str(recipe["name"])
        if method == "rba" and name not in _REGISTRATIONS:
            continue  # "syn" is gone; others were never known
        gone = {option: recipe[option] for option, neutral in REMOVED.get(method, {}).items() if recipe[option] != neutral}
        recipes.setdefault(method, {})[name] = _parts(recipe) | gone
    for method in ("icf", "rba", "mean"):  # version 1 did not write down that they have one
        recipes[method] = {"default": _parts({"method": method, "name": "default"})} | recipes[method]
    return raw | {"recipes": recipes, "version": PLAN_VERSION}


def gone_from(method: str, name: str, recipe: Mapping[str, Any] | None) -> str:
    """Why the recipe ``name`` of ``method`` cannot be used any more, and what can; "" if it is none that is gone.

    ``recipe`` is what the plan holds of it, None if it holds none.
    """
    if (method, name) == ("rba", "syn") and recipe is None:
        return (
            "Recipe 'syn' of rba was removed, with the package that it needed. Use rba with the recipe default, which "
            "deforms the atlases, too: train it anew, or use release 0.1."
        )
    for option, neutral in REMOVED.get(method, {}).items():
        if recipe is not None and option in recipe:
            return (
                f"Recipe '{name}' of {method} sets {option} to {recipe[option]}. This option was removed: it did not help. Use "
                f"another recipe, or release 0.1; leaving {option} out of the plan is the same as setting it to {neutral}."
            )
    return ""


def _parts(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A flat recipe of version 1 as the parts of its method's own."""
    if recipe["method"] == "rba":
        return dict(_REGISTRATIONS[recipe["name"]])
    if recipe["method"] not in ("diffatlas", "icmd"):
        return {}
    levels = {"mask": recipe["mask_levels"], "start": recipe["start_fraction"]}
    objective = {
        "prediction": recipe["prediction"],
        "input_scaling": recipe["input_scaling"],
        "segmentation_weight": recipe["segmentation_loss"],
    }
    sampler = {name: recipe[name] for name in ("solver", "steps", "eta", "draws")}
    if recipe["method"] == "icmd":
        return {"levels": levels, "objective": objective, "sampler": sampler}
    mixed = recipe["image_levels"] != "equal"
    levels = {"mask": recipe["mask_levels"], "start": 0.0, "image": recipe["image_levels"]} | {
        new: recipe[old] if mixed else 0.0 for new, old in _MIXED_ONLY.items()
    }
    return {
        "levels": levels,
        "objective": objective | {"image_weight": recipe["image_loss"]},
        "sampler": sampler,
        "guidance": {"level": recipe["guidance_level"], "noise": recipe["guidance_noise"]},
        "unlabelled_fraction": recipe["unlabelled_fraction"],
    }
