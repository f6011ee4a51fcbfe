"""Plans and data made by hand, for tests of every room."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from diffatlas_pipeline.datasets.description import DatasetDescription, LabelClass
from diffatlas_pipeline.diffusion.denoiser import JointObjective
from diffatlas_pipeline.diffusion.guidance import Guidance
from diffatlas_pipeline.diffusion.levels import NoiseLevels
from diffatlas_pipeline.diffusion.plan import DiffusionPlan
from diffatlas_pipeline.diffusion.solvers import Sampler
from diffatlas_pipeline.methods.base import Recipe
from diffatlas_pipeline.methods.joint_recipe import PAPER, JointRecipe
from diffatlas_pipeline.methods.registry import default_recipes
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.planning.plan import (
    AugmentationPlan,
    Budget,
    ChannelPlan,
    DistancePlan,
    Plan,
    PlanRecipes,
    TrainingPlan,
)
from diffatlas_pipeline.volumes.grids import Grid, LabelVolume, Triple, TripleMm, Volume

RecipeType = TypeVar("RecipeType", bound=Recipe)


def with_options(recipe: RecipeType, **options: Any) -> RecipeType:
    """``recipe`` with ``options`` replaced, in whichever of its parts they stand: their names are unique."""
    own = {field.name for field in dataclasses.fields(recipe)}
    changes: dict[str, Any] = {name: options.pop(name) for name in list(options) if name in own}
    for name in own:
        part = getattr(recipe, name)
        if dataclasses.is_dataclass(part):
            found = {one.name: options.pop(one.name) for one in dataclasses.fields(part) if one.name in options}
            changes[name] = dataclasses.replace(part, **found)  # type: ignore[type-var]
    assert not options, f"no such options: {options}"
    return dataclasses.replace(recipe, **changes)


def make_recipe(name: str = "default", **options: Any) -> JointRecipe:
    """Recipe ``paper`` as the paper has it; any other name: 10 steps of a network that hears noise. ``options``
    replace.
    """
    default = JointRecipe(
        NoiseLevels(image="mixed", clean_image=0.5, equal_level=0.25),
        JointObjective(segmentation_weight=0.3, image_weight=0.25),
        Sampler(steps=10),
        Guidance(0.0, "fresh"),
    )
    return with_options(PAPER if name == "paper" else default, **options)


def make_recipes(**given: dict[str, Recipe]) -> PlanRecipes:
    """The recipes of a plan: those of every method, those of the methods ``given`` replaced."""
    return default_recipes() | {
        method: {name: dataclasses.asdict(recipe) for name, recipe in recipes.items()} for method, recipes in given.items()
    }


def make_plan(**changes: Any) -> Plan:
    """A plan like the hippocampus data set's: 1 mm, one MRI channel, two labels. ``changes`` replace fields of the
    plan.
    """
    fields: dict[str, Any] = {
        "dataset": DatasetDescription(
            name="Dataset004_Hippocampus",
            channels=("MRI",),
            labels=(LabelClass("anterior", 1), LabelClass("posterior", 2)),
            file_ending=".nii.gz",
        ),
        "budget": Budget(memory_gb=4.0, device="cpu", preset="cpu"),
        "dimensions": 3,
        "spacing_mm": (1.0, 1.0, 1.0),
        "patch_size": (40, 56, 40),
        "channels": (ChannelPlan("MRI", "percentile", 0.5, 99.5),),
        "distance": DistancePlan(tau_mm=3.0, scale=1.0),
        "network": NetworkPlan(
            widths=(48, 96, 160),
            strides=((2, 2, 2), (2, 2, 2), (2, 2, 2)),
            kernels=((3, 3, 3), (3, 3, 3), (3, 3, 3)),
            blocks=(2, 2, 2),
            attention=(False, False, False),
            embedding=128,
        ),
        "diffusion": DiffusionPlan(schedule="cosine", training_steps=300),
        "training": TrainingPlan(
            iterations=1000,
            batch_size=2,
            learning_rate=1e-3,
            warmup_fraction=0.05,
            weight_decay=1e-2,
            gradient_clip=1.0,
            ema_fraction=0.05,
        ),
        "augmentation": AugmentationPlan(
            rotation_degrees=(15.0, 15.0, 15.0), zoom=(0.8, 1.25), mirror_axes=(0,), intensity=True
        ),
        "recipes": make_recipes(diffatlas={"paper": make_recipe("paper"), "default": make_recipe("default")}),
        "why": {},
    }
    return Plan(**(fields | changes))


def make_grid(shape: Triple, spacing_mm: TripleMm = (1.0, 1.0, 1.0)) -> Grid:
    """A canonical grid at an odd place."""
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = (-11.0, 7.5, 3.25)
    return Grid.of(shape, affine)


def make_case(
    shape: Triple = (36, 50, 34), spacing_mm: TripleMm = (1.0, 1.0, 1.0), seed: int = 0
) -> tuple[Volume, LabelVolume]:
    """A noisy scan with one tilted ellipsoid, cut into two touching labels 1 (front) and 2 (back)."""
    rng = np.random.default_rng(seed)
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    radius_mm = np.asarray(shape) * np.asarray(spacing_mm) * (0.22, 0.3, 0.2)
    shift_mm = rng.uniform(-0.5, 0.5, 3) * (np.asarray(shape) > 1)
    x, y, z = x - shift_mm[0], y - shift_mm[1], z - shift_mm[2]
    inside = ((x + 0.2 * y) / radius_mm[0]) ** 2 + (y / radius_mm[1]) ** 2 + (z / radius_mm[2]) ** 2 < 1
    labels = np.where(inside, np.where(y + 0.3 * x > 1, 1, 2), 0).astype(np.int16)
    image = 100 + 60 * (labels == 1) + 40 * (labels == 2) + rng.normal(0, 8, shape)
    grid = make_grid(shape, spacing_mm)
    return Volume(image[None].astype(np.float32), grid, "made.nii.gz"), LabelVolume(labels, grid, "made_label.nii.gz")


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two masks."""
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def store_cases(folder: Path, plan: Plan, shapes: list[Triple]) -> list[str]:
    """Preprocess and store one made case per shape; returns their names."""
    from diffatlas_pipeline.preprocessing.case import prepare_image, prepare_labels
    from diffatlas_pipeline.preprocessing.store import write_case

    names = []
    for seed, shape in enumerate(shapes):
        volume, labels = make_case(shape, plan.spacing_mm, seed)
        image, record = prepare_image(volume, plan, beyond=True)
        names.append(f"case_{seed:03d}")
        distances = prepare_labels(labels, record, plan)
        write_case(folder, names[-1], image, distances, record, plan=plan.stored_digest(), beyond=True)
    return names
