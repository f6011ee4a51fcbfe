"""Plans and data made by hand, for tests of every room."""

from __future__ import annotations

from typing import Any

from diffatlas_pipeline.contracts import (
    AugmentationPlan,
    Budget,
    ChannelPlan,
    DatasetDescription,
    DiffusionPlan,
    DistancePlan,
    LabelClass,
    NetworkPlan,
    Plan,
    Recipe,
    TrainingPlan,
)


def make_recipe(name: str = "default", **changes: Any) -> Recipe:
    """Recipe ``paper`` as the paper has it, any other name as the pipeline's default; ``changes`` replace fields."""
    paper = name == "paper"
    fields: dict[str, Any] = {
        "name": name,
        "prediction": "epsilon" if paper else "x0",
        "mask_levels": "schedule" if paper else "high",
        "image_levels": "equal" if paper else "mixed",
        "clean_image_fraction": 0.0 if paper else 0.5,
        "equal_level_fraction": 1.0 if paper else 0.25,
        "segmentation_loss": 0.0 if paper else 0.3,
        "image_loss": 1.0 if paper else 0.25,
        "solver": "ddpm" if paper else "ddim",
        "steps": 0 if paper else 10,
        "eta": 1.0 if paper else 0.0,
        "guidance_level": 1.0 if paper else 0.0,
        "guidance_noise": "fresh",
        "guidance_interval": (0.0, 1.0),
        "resampling": 1,
        "draws": 1,
    }
    return Recipe(**(fields | changes))


def make_plan(**changes: Any) -> Plan:
    """A plan like the hippocampus data set's: 1 mm, one MRI channel, two labels. ``changes`` replace fields of the plan."""
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
        "recipes": (make_recipe("paper"), make_recipe("default")),
        "why": {},
    }
    return Plan(**(fields | changes))
