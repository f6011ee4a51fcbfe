"""The methods by name."""

from __future__ import annotations

from diffatlas_pipeline.contracts import Plan, Recipe
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.methods.base import Method
from diffatlas_pipeline.methods.diffatlas import DiffAtlas

METHODS: dict[str, type[Method]] = {DiffAtlas.name: DiffAtlas}


def create_method(name: str, plan: Plan, recipe: Recipe) -> Method:
    """The method called ``name``. UserError lists the known ones."""
    if name not in METHODS:
        raise UserError(f"Unknown method '{name}': known are {', '.join(METHODS)}.")
    return METHODS[name](plan, recipe)
