"""A method known in closed form, a scan that it segments, and prediction in one call, for tests of prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.inference.result import Maps, Result
from diffatlas_pipeline.methods.base import LearnedMethod, LossReport, PlannedSegmentation, Stitch, case_generator
from diffatlas_pipeline.methods.joint_recipe import JointRecipe
from diffatlas_pipeline.models.folder import TrainedFold
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.volumes.grids import Grid, Volume
from diffatlas_pipeline.volumes.io import write_scalars
from tests.model_files import plan, recipe

CPU = torch.device("cpu")


class Mix(nn.Conv3d):
    """One linear map per voxel, called as every network is: with noise levels, which it does not need."""

    def forward(self, windows: Tensor, level_image: Tensor, level_mask: Tensor) -> Tensor:
        return super().forward(windows)


class Brightness(LearnedMethod):
    """A method known in closed form: the first label is what is bright, the second what is very bright."""

    name = "brightness"
    recipe_type = JointRecipe
    recipes: ClassVar = {"default": recipe()}
    recipe: JointRecipe

    @property
    def input_names(self) -> tuple[str, ...]:
        return self.image_names

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.mask_names

    def build_network(self) -> nn.Module:
        return Mix(1, 2, 1)

    def loss(self, network: nn.Module, image: Tensor, distances: Tensor, generator: torch.Generator) -> LossReport:
        raise NotImplementedError

    def segment(
        self,
        network: nn.Module,
        image: Tensor,
        stitch: Stitch,
        seed: int,
        progress: object = None,
        begin: Tensor | None = None,
    ) -> PlannedSegmentation:
        draws = self.recipe.sampler.draws
        noise = torch.randn(draws, generator=case_generator(seed, 0)) * 1e-3
        distances = stitch(lambda windows: network(windows, torch.zeros(len(windows)), torch.zeros(len(windows))), image)
        return PlannedSegmentation(distances + noise.mean())


def fold(name: str = "fold0", level: float = 0.0, small: Plan | None = None) -> TrainedFold:
    """Weights that make the first label negative where the image is above ``level``, the second where above 0.6."""
    state = {"weight": torch.tensor([-1.0, -3.0]).reshape(2, 1, 1, 1, 1), "bias": torch.tensor([level, 3 * 0.6])}
    return TrainedFold(small or plan(), "brightness", "default", name, state, {})


def scan(shape: tuple[int, int, int] = (20, 24, 30)) -> tuple[np.ndarray, np.ndarray]:
    """A bright ellipsoid with a brighter core on dark noise, and its labels (2 and 7)."""
    centred = np.stack([(i - n / 2.2) / (n / 3.2) for i, n in zip(np.indices(shape), shape, strict=True)])
    radius = np.sqrt((centred**2).sum(axis=0))
    labels = np.where(radius < 0.5, 7, np.where(radius < 1, 2, 0))
    image = np.select([labels == 7, labels == 2], [200.0, 130.0], 10.0) + np.random.default_rng(0).normal(0, 2, shape)
    return image.astype(np.float32), labels


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def affine(order: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for axis in range(3):
        matrix[order[axis], axis] = signs[axis] * spacing[axis]
    matrix[:3, 3] = (5, -7, 11)
    return matrix


def ready(folds: Sequence[TrainedFold] | None = None, **changes: object) -> Predictor:
    """A predictor of the closed form; ``changes`` are those of its recipe."""
    return Predictor(folds or [fold()], CPU, recipe(**changes), precision="float32")


def segmented(predictor: Predictor, volume: Volume, modality: str | None = None, **maps: bool) -> Result:
    """``volume`` prepared, segmented and restored."""
    prepared = predictor.prepare(volume, modality)
    return predictor.restore(predictor.segment(prepared), prepared, Maps(**maps))


def write_scans(folder: Path, *names: str) -> None:
    image, _ = scan()
    for index, name in enumerate(names):
        write_scalars(folder / name, image, Grid.of(image.shape, affine((2, 0, 1), (1, -1, 1), (1.0 + index / 10, 1.2, 0.9))))
