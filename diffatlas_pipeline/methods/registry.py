"""The methods by name, and the recipes of a plan as each method's own type."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

from diffatlas_pipeline.diffusion.solvers import SOLVERS
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.fields import problems_of
from diffatlas_pipeline.files import from_plain
from diffatlas_pipeline.methods.base import DiffusionRecipe, LearnedRecipe, Method, Recipe
from diffatlas_pipeline.methods.diffatlas import DiffAtlas
from diffatlas_pipeline.methods.icf import FeedForward
from diffatlas_pipeline.methods.icmd import MaskDiffusion
from diffatlas_pipeline.methods.joint_recipe import JointRecipe
from diffatlas_pipeline.methods.mean_atlas import MeanAtlas
from diffatlas_pipeline.methods.rba import RegistrationAtlas
from diffatlas_pipeline.planning.migration import gone_from
from diffatlas_pipeline.planning.plan import Plan, PlanRecipes, digest_of

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (DiffAtlas, FeedForward, MaskDiffusion, RegistrationAtlas, MeanAtlas)
}
ANY_CONTRAST = "any-contrast"
SYNTHETIC_SHARE = 1 / 3  # of the samples, in such a recipe; more costs Dice in the learnt modality
GIVEN_LABELS = "given-labels"
SHOWN_SHARE = 0.75  # of the samples, in such a recipe; the others keep it able to segment without a drawing
# Of the samples of several channels, with some hidden: few, for scans that have all are segmented a little worse the
# more there are (what-was-tried.md).
HIDDEN_SHARE = 0.1
STEPS_OF_DRAWS = 2  # with a single one from noise that the network does not hear, all draws would be the same


def create_method(name: str, plan: Plan, recipe: Recipe) -> Method:
    """The method called ``name``. UserError lists the known ones."""
    return known_method(name)(plan, recipe)


def known_method(name: str) -> type[Method]:
    """The class of the method called ``name``. UserError lists the known ones."""
    if name not in METHODS:
        raise UserError(f"Unknown method '{name}': known are {', '.join(METHODS)}.")
    return METHODS[name]


def default_recipes(channels: int = 1) -> PlanRecipes:
    """The recipes that every plan holds, by method and name, as plain data.

    That of diffatlas called "default" also learns to do without some of several ``channels``. Plans of a single one are
    the same as if there were no such thing.
    """
    recipes = {
        method.name: {name: dataclasses.asdict(recipe) for name, recipe in method.recipes.items()}
        for method in METHODS.values()
    }
    if channels > 1:
        recipes[DiffAtlas.name]["default"]["levels"]["missing_channel"] = HIDDEN_SHARE
    return recipes


def recipe_of(plan: Plan, method: str, name: str = "default") -> Recipe:
    """The recipe of ``method`` called ``name``. UserError lists the known ones, or says what in it is not allowed."""
    recipe = _read(plan, method, name)
    if problems := [*_problems_of_recipe(recipe, plan)]:
        raise UserError(f"Recipe '{name}' of {method}: {'; '.join(problems)}.")
    return recipe


def with_complete_recipes(plan: Plan) -> Plan:
    """``plan`` with every option of every recipe written out, also those that its file leaves at their defaults."""
    recipes = {
        method: {
            name: given if gone_from(method, name, given) else dataclasses.asdict(_read(plan, method, name))
            for name, given in known.items()
        }
        for method, known in plan.recipes.items()
    }
    return replace(plan, recipes=recipes)


def with_written_recipe(plan: Plan, method: str, name: str) -> Plan:
    """``plan`` with the recipe of ``method`` called ``name`` written out, also if only its name implied it."""
    recipes = {**plan.recipes.get(method, {}), name: dataclasses.asdict(recipe_of(plan, method, name))}
    return replace(plan, recipes={**plan.recipes, method: recipes})


def usable_recipes(plan: Plan, method: str) -> list[str]:
    """Names of the recipes of ``method`` in ``plan`` but those that only an earlier release could use."""
    return [name for name, given in plan.recipes.get(method, {}).items() if not gone_from(method, name, given)]


def check_plan(plan: Plan, source: str) -> None:
    """UserError naming ``source`` and listing each field of ``plan`` with a value that is not allowed, and what is.

    A recipe that only an earlier release could use is no reason: it is refused when it is asked for.
    """
    problems = list(problems_of(plan))
    for method in plan.recipes:
        if method not in METHODS:
            problems.append(f"recipes.{method}: no such method; known: {', '.join(METHODS)}")
            continue
        for name in usable_recipes(plan, method):
            try:
                recipe = _read(plan, method, name)
            except UserError as error:
                problems.append(str(error).removesuffix("."))
                continue
            problems += [f"recipe {name} of {method}: {problem}" for problem in _problems_of_recipe(recipe, plan)]
    if problems:
        raise UserError(
            f"{source}: {len(problems)} value(s) are not allowed. Change them there, or let `plan_and_preprocess` with "
            "`overwrite` plan again:\n" + "\n".join(f"  - {problem}" for problem in problems)
        )


def with_sampling(
    recipe: Recipe,
    steps: int | None = None,
    solver: str | None = None,
    draws: int | None = None,
    guidance_level: float | None = None,
) -> Recipe:
    """``recipe`` with the given sampling options instead of its own.

    Where all draws would be the same for want of a second step, several draws take one more, unless ``steps`` is given.
    UserError for a value that is not allowed, or an option that the recipe's method does not have.
    """
    if steps is not None and steps < 0:
        raise UserError(f"`steps` {steps}: must be at least 1, or 0 for all training steps.")
    if solver is not None and solver not in SOLVERS:
        raise UserError(f"`solver` {solver}: unknown; choose one of {', '.join(SOLVERS)}.")
    if draws is not None and draws < 1:
        raise UserError(f"`draws` {draws}: must be at least 1.")
    if guidance_level is not None and not 0 <= guidance_level <= 1:
        raise UserError(f"`guidance_level` {guidance_level}: must lie between 0 (clean image) and 1 (as noisy as the mask).")
    given: dict[str, Any] = {"steps": steps, "solver": solver, "draws": draws}
    given = {name: value for name, value in given.items() if value is not None}
    lacking = [] if isinstance(recipe, DiffusionRecipe) else list(given)
    if guidance_level is not None and not isinstance(recipe, JointRecipe):
        lacking.append("guidance_level")
    if lacking:
        names = ", ".join(f"`{name}`" for name in lacking)
        raise UserError(f"{names}: the method {_method_of(recipe)} has no such option. Leave it out.")
    if not isinstance(recipe, DiffusionRecipe):
        return recipe
    silent = recipe.objective.input_scaling == "signal" and recipe.sampler.steps == 1
    if silent and steps is None and given.get("draws", 1) > 1:
        given["steps"] = STEPS_OF_DRAWS
    changed = replace(recipe, sampler=replace(recipe.sampler, **given))
    if guidance_level is not None and isinstance(changed, JointRecipe):
        changed = replace(changed, guidance=replace(changed.guidance, level=guidance_level))
    return changed


def drawback_of(recipe: Recipe, plan: Plan) -> str:
    """Why a training with ``recipe`` cannot succeed with the network of ``plan``; "" if nothing speaks against it."""
    block = plan.network.strides[0]
    if not isinstance(recipe, DiffusionRecipe) or recipe.objective.prediction != "epsilon" or max(block) == 1:
        return ""
    return (
        f"the planned network sees blocks of {'x'.join(map(str, block))} voxels, and cannot put out the noise of each voxel "
        "(objective.prediction epsilon). Take a recipe that puts out clean data (x0), such as 'paper', or plan for a GPU"
    )


def training_digest(plan: Plan, method: str, recipe: str = "default") -> str:
    """Twelve hexadecimal digits that tell plans apart by what a training of ``method`` with ``recipe`` depends on.

    Other recipes do not count.
    """
    return digest_of((plan.digest(), method, recipe, recipe_of(plan, method, recipe)))


def any_contrast_name(recipe: str) -> str:
    """The name of ``recipe`` where it also learns from synthetic contrasts: "any-contrast", "paper-any-contrast".

    Every plan has these for its recipes of learned methods, also where its file does not list them.
    """
    return ANY_CONTRAST if recipe == "default" else f"{recipe}-{ANY_CONTRAST}"


def given_labels_name(recipe: str) -> str:
    """The name of ``recipe`` where it also learns to complete drawings: "given-labels", "any-contrast-given-labels".

    Every plan has these, too.
    """
    return GIVEN_LABELS if recipe == "default" else f"{recipe}-{GIVEN_LABELS}"


def _twin_of(name: str) -> tuple[str, dict[str, float]] | None:
    """The recipe that ``name`` is a twin of, and the options in which they differ; None if it does not say so."""
    for suffix, options in ((GIVEN_LABELS, {"given_labels": SHOWN_SHARE}), (ANY_CONTRAST, {"any_contrast": SYNTHETIC_SHARE})):
        if name == suffix:
            return "default", options
        if name.endswith(f"-{suffix}"):
            return name.removesuffix(f"-{suffix}"), options
    return None


def _read(plan: Plan, method: str, name: str) -> Recipe:
    recipes = plan.recipes.get(method, {})
    if name not in recipes and (twin := _twin_of(name)) and _is_known(plan, method, twin[0]):
        recipe = _read(plan, method, twin[0])
        if isinstance(recipe, LearnedRecipe):
            return replace(recipe, **twin[1])
    if gone := gone_from(method, name, recipes.get(name)):
        raise UserError(gone)
    if name not in recipes:
        known = ", ".join(usable_recipes(plan, method)) or "none"
        raise UserError(f"Unknown recipe '{name}' of {method}: this plan has {known}. Choose one of these.")
    return from_plain(known_method(method).recipe_type, recipes[name], f"recipe '{name}' of {method}")


def _is_known(plan: Plan, method: str, name: str) -> bool:
    """Whether ``plan`` has the recipe ``name``, itself or as a twin."""
    twin = _twin_of(name)
    return name in plan.recipes.get(method, {}) or (twin is not None and _is_known(plan, method, twin[0]))


def _problems_of_recipe(recipe: Recipe, plan: Plan) -> list[str]:
    problems = list(problems_of(recipe))
    most = plan.diffusion.training_steps
    if isinstance(recipe, DiffusionRecipe) and recipe.sampler.steps > most:
        problems.append(f"sampler.steps {recipe.sampler.steps}; 0 to {most}, the training steps, is allowed")
    return problems


def _method_of(recipe: Recipe) -> str:
    return next(name for name, method in METHODS.items() if method.recipe_type is type(recipe))
