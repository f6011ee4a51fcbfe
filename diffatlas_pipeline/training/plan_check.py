"""What cannot be trained in a plan that was changed by hand, found before anything is trained or written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diffatlas_pipeline.diffusion.guidance import GUIDANCE_NOISES
from diffatlas_pipeline.diffusion.levels import INPUT_SCALINGS, MASK_LEVELS, SCHEDULES
from diffatlas_pipeline.diffusion.parametrisation import PREDICTIONS
from diffatlas_pipeline.diffusion.solvers import SOLVERS
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.methods.diffatlas import IMAGE_LEVELS
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.planning.plan import Plan, Recipe
from diffatlas_pipeline.preprocessing.distance_maps import STORED_LIMIT

NAMED = {
    "prediction": PREDICTIONS,
    "mask_levels": MASK_LEVELS,
    "image_levels": IMAGE_LEVELS,
    "input_scaling": INPUT_SCALINGS,
    "solver": tuple(SOLVERS),
    "guidance_noise": GUIDANCE_NOISES,
}
FRACTIONS = (
    "clean_image_fraction",
    "equal_level_fraction",
    "start_fraction",
    "own_answer_fraction",
    "unlabelled_fraction",
    "random_contrast",
    "eta",
    "guidance_level",
)
LEAST = {"segmentation_loss": 0, "image_loss": 0, "resampling": 1, "draws": 1}


def check_plan(plan: Plan, source: str) -> None:
    """UserError naming ``source`` and listing each field of ``plan`` with a value that is not allowed, and what is."""
    problems = [*_training(plan), *_augmentation(plan), *_network(plan.network, plan.patch_size)]
    for recipe in plan.recipes:
        problems += [f"recipe {recipe.name} of {recipe.method}: {problem}" for problem in _recipe(recipe, plan)]
    if problems:
        raise UserError(
            f"{source}: {len(problems)} value(s) are not allowed. Change them there, or let `plan_and_preprocess` with "
            "`overwrite` plan again:\n" + "\n".join(f"  - {problem}" for problem in problems)
        )


def _recipe(recipe: Recipe, plan: Plan) -> Iterator[str]:
    for name, known in NAMED.items():
        if (value := getattr(recipe, name)) not in known:
            yield f"{name} '{value}' is unknown; known: {', '.join(known)}"
    for name in FRACTIONS:
        yield from _within(name, getattr(recipe, name), 0, 1)
    for name, least in LEAST.items():
        yield from _within(name, getattr(recipe, name), least)
    yield from _within("steps", recipe.steps, 0, plan.diffusion.training_steps)
    for pair in (("clean_image_fraction", "equal_level_fraction"), ("start_fraction", "own_answer_fraction")):
        together = sum(getattr(recipe, name) for name in pair)
        if together > 1 + 1e-9:
            yield f"{pair[0]} and {pair[1]} are {together:g} together; at most 1"
    if recipe.own_answer_fraction > 0 and (recipe.prediction, recipe.image_levels) != ("x0", "mixed"):
        yield "own_answer_fraction needs prediction 'x0' and image_levels 'mixed'"
    low, high = recipe.guidance_interval
    if not 0 <= low <= high <= 1:
        yield f"guidance_interval {low:g} to {high:g}; 0 <= low <= high <= 1 is needed"


def _training(plan: Plan) -> Iterator[str]:
    training = plan.training
    yield from _within("training.iterations", training.iterations, 1)
    yield from _within("training.batch_size", training.batch_size, 1)
    yield from _within("training.warmup_fraction", training.warmup_fraction, 0, 1)
    yield from _within("training.weight_decay", training.weight_decay, 0)
    yield from _within("training.ema_fraction", training.ema_fraction, 0, 1)
    yield from _within("diffusion.training_steps", plan.diffusion.training_steps, 1)
    if plan.diffusion.schedule not in SCHEDULES:
        yield f"diffusion.schedule '{plan.diffusion.schedule}' is unknown; known: {', '.join(SCHEDULES)}"
    for name, value in (
        ("training.learning_rate", training.learning_rate),
        ("training.gradient_clip", training.gradient_clip),
        ("distance.scale", plan.distance.scale),
    ):
        if not value > 0:
            yield f"{name} {value:g}; must be above 0"


def _augmentation(plan: Plan) -> Iterator[str]:
    augmentation = plan.augmentation
    low, high = augmentation.zoom
    if not low <= high or low * STORED_LIMIT < 1 - 1e-6:
        yield f"augmentation.zoom {low:g} to {high:g}; {1 / STORED_LIMIT:.3f} <= smallest <= largest is needed"
    yield from _within("augmentation.elastic", augmentation.elastic, 0, 1)
    for degrees in augmentation.rotation_degrees:
        yield from _within("augmentation.rotation_degrees", degrees, 0, 180)
    for axis in augmentation.mirror_axes:
        yield from _within("augmentation.mirror_axes", axis, 0, plan.dimensions - 1)


def _network(network: NetworkPlan, patch: tuple[int, int, int]) -> Iterator[str]:
    stages = {name: len(getattr(network, name)) for name in ("widths", "strides", "kernels", "blocks", "attention")}
    if len(set(stages.values())) > 1 or not network.widths:
        yield f"network: one entry per stage is needed, but there are {', '.join(f'{n} {name}' for name, n in stages.items())}"
        return
    yield from _within("network.embedding", network.embedding, 1)
    for value in (*network.widths, *network.blocks):
        yield from _within("network.widths and network.blocks", value, 1)
    for value in (number for triple in (*network.strides, *network.kernels) for number in triple):
        yield from _within("network.strides and network.kernels", value, 1)
    if any(size % 2 == 0 for kernel in network.kernels for size in kernel):
        yield "network.kernels: must be odd"
    total = network.total_stride
    if min(total) > 0 and any(size < 1 or size % stride for size, stride in zip(patch, total, strict=True)):
        needed, found = (" x ".join(map(str, triple)) for triple in (total, patch))
        yield f"patch_size {found}; must be multiples of the network's total stride, {needed}"


def _within(name: str, value: Any, least: float, most: float | None = None) -> Iterator[str]:
    if not value >= least or (most is not None and value > most):  # NaN is not within
        yield f"{name} {value:g}; " + (f"must be at least {least:g}" if most is None else f"{least:g} to {most:g} is allowed")
