"""The methods by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffatlas_pipeline.diffusion.solvers import SOLVERS
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.methods.base import Method
from diffatlas_pipeline.methods.diffatlas import DiffAtlas
from diffatlas_pipeline.methods.icf import FeedForward
from diffatlas_pipeline.methods.icmd import MaskDiffusion
from diffatlas_pipeline.methods.mean_atlas import MeanAtlas
from diffatlas_pipeline.methods.rba import RegistrationAtlas
from diffatlas_pipeline.planning.plan import Plan, Recipe

STEPS_OF_DRAWS = 2

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (DiffAtlas, FeedForward, MaskDiffusion, RegistrationAtlas, MeanAtlas)
}


def create_method(name: str, plan: Plan, recipe: Recipe) -> Method:
    """The method called ``name``. UserError lists the known ones."""
    return known_method(name)(plan, recipe)


def known_method(name: str) -> type[Method]:
    """The class of the method called ``name``. UserError lists the known ones."""
    if name not in METHODS:
        raise UserError(f"Unknown method '{name}': known are {', '.join(METHODS)}.")
    return METHODS[name]


def recipe_of(plan: Plan, method: str, name: str) -> Recipe:
    """The recipe of ``method`` called ``name``. UserError lists the known ones."""
    return plan.recipe(name, method)


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
    given: dict[str, Any] = {"steps": steps, "solver": solver, "draws": draws, "guidance_level": guidance_level}
    given = {name: value for name, value in given.items() if value is not None}
    silent = recipe.input_scaling == "signal" and recipe.steps == 1  # a single step from noise that the network does not hear
    if silent and steps is None and given.get("draws", 1) > 1:
        given["steps"] = STEPS_OF_DRAWS
    lacking = [name for name in given if name not in known_method(recipe.method).options]
    if lacking:
        names = ", ".join(f"`{name}`" for name in lacking)
        raise UserError(f"{names}: the method {recipe.method} has no such option. Leave it out.")
    return replace(recipe, **given)
