"""Small plans and trained folds on disk for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from diffatlas_pipeline.datasets.description import DatasetDescription, LabelClass
from diffatlas_pipeline.diffusion.plan import DiffusionPlan
from diffatlas_pipeline.methods.joint_recipe import JointRecipe
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.planning.plan import AugmentationPlan, Budget, ChannelPlan, DistancePlan, Plan, TrainingPlan
from tests.factories import make_recipe, make_recipes


def recipe(**options: Any) -> JointRecipe:
    """A joint recipe of two steps whose network hears noise; ``options`` replace some, in whichever part they stand."""
    return make_recipe(**{"steps": 2, "equal_level": 0.0, "image_weight": 1.0, **options})


def plan(patch: tuple[int, int, int] = (16, 16, 16), channels: int = 1, dimensions: int = 3) -> Plan:
    names = tuple(f"MRI{index}" if index else "MRI" for index in range(channels))
    third = 1 if dimensions == 2 else 2
    return Plan(
        dataset=DatasetDescription("Test", names, (LabelClass("small", 2), LabelClass("large", 7)), ".nii.gz"),
        budget=Budget(8, "cpu", "cpu"),
        dimensions=dimensions,
        spacing_mm=(1.0, 1.0, 1.0),
        patch_size=patch,
        channels=tuple(ChannelPlan(name, "percentile", 0.5, 99.5) for name in names),
        distance=DistancePlan(3.0, 1.0),
        network=NetworkPlan((8, 8), ((1, 1, 1), (2, 2, third)), ((3, 3, 3),) * 2, (1, 1), (False, False), 16),
        diffusion=DiffusionPlan("cosine", 20),
        training=TrainingPlan(10, 1, 1e-3, 0.1, 0.0, 1.0, 0.1),
        augmentation=AugmentationPlan((0, 0, 0), (1, 1), (), False),
        recipes=make_recipes(diffatlas={"default": recipe(), "paper": recipe(prediction="epsilon")}),
    )


def add_fold(folder: Path, fold: str, method: str = "diffatlas", recipe: str = "default", state: dict | None = None) -> None:
    """Leave in ``folder`` what training leaves there."""
    metadata = {"method": method, "recipe": recipe, "fold": fold, "iterations": 10}
    ModelFolder(folder).write_fold(fold, state or {"weight": torch.arange(6.0).reshape(2, 3)}, metadata)
