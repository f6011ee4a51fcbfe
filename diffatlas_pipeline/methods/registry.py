"""The methods by name."""

from __future__ import annotations

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.methods.base import Method
from diffatlas_pipeline.methods.diffatlas import DiffAtlas
from diffatlas_pipeline.methods.icf import FeedForward
from diffatlas_pipeline.methods.icmd import MaskDiffusion
from diffatlas_pipeline.methods.mean_atlas import MeanAtlas
from diffatlas_pipeline.methods.rba import RegistrationAtlas
from diffatlas_pipeline.planning.plan import Plan, Recipe

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
