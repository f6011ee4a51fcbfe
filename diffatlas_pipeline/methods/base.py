"""The contract of a method: what it learns or memorises of the training cases, and how it segments a volume."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from diffatlas_pipeline.data.contrast import randomise_contrast
from diffatlas_pipeline.planning.plan import Plan, Recipe
from diffatlas_pipeline.registration.atlas import Atlas

WindowFunction = Callable[[Tensor], Tensor]
"""Windows (B, c, X, Y, Z) of the patch's size -> (B, k, X, Y, Z)."""

Stitch = Callable[[WindowFunction, Tensor], Tensor]
"""Runs a window function over all windows of a volume (c, X, Y, Z) and blends the results to (k, X, Y, Z)."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LossReport:
    """``total`` is what is minimised (a scalar with gradient); ``parts`` are for the log, NaN where a batch had none."""

    total: Tensor
    parts: dict[str, float]


@dataclass(frozen=True)
class Segmentation:
    """Signed distances (K, X, Y, Z) in units of tau, negative inside, mean over draws; ``spread`` their standard deviation.

    A voxel belongs to the label of smallest distance where that is negative, else to the background; a method that predicts no
    distances gives numbers that decode to its labels in the same way. ``network_share`` is the weight of the network in a mean
    of its answer and that of atlases.
    """

    distances: Tensor
    spread: Tensor | None
    network_share: float | None = None


class Method(ABC):
    """One way to segment by a plan's preprocessed cases; the trainer and predictor never ask which."""

    name: ClassVar[str]
    options: ClassVar[frozenset[str]] = frozenset()
    """The fields of the recipe that may be chosen anew at prediction."""

    def __init__(self, plan: Plan, recipe: Recipe) -> None:
        self.plan = plan
        self.recipe = recipe

    def has_spread(self, network: nn.Module) -> bool:
        """Whether :meth:`segment` with ``network`` tells how far several answers disagree."""
        return self.recipe.draws > 1

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> nn.Module:
        """What :meth:`segment` works with, from a checkpoint. RuntimeError if the tensors do not fit the plan."""

    @abstractmethod
    def segment(
        self, network: nn.Module, image: Tensor, stitch: Stitch, seed: int, progress: Progress | None = None
    ) -> Segmentation:
        """Segment ``image`` (C, X, Y, Z). The result depends on (recipe, image, seed) alone; ``seed`` belongs to the scan."""


class LearnedMethod(Method):
    """A method whose network is trained by gradient descent."""

    learns_images: ClassVar[bool] = False
    """Whether :meth:`loss` also learns of samples without labels, whose distances are NaN."""

    @abstractmethod
    def build_network(self) -> nn.Module:
        """A fresh network with this method's channels."""

    @abstractmethod
    def loss(self, network: nn.Module, image: Tensor, distances: Tensor, generator: torch.Generator) -> LossReport:
        """The loss of a batch: ``image`` (B, C, X, Y, Z) in [-1, 1], ``distances`` (B, K, X, Y, Z) in units of tau."""

    def training_image(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """A batch's ``image`` (B, C, X, Y, Z) with what the recipe does to it in training; every loss begins with it."""
        if not self.recipe.random_contrast:
            return image
        return randomise_contrast(image, self.recipe.random_contrast, generator)

    def restore(self, state: Mapping[str, Tensor]) -> nn.Module:
        network = self.build_network()
        network.load_state_dict(dict(state))
        return network


class MemorisedMethod(Method):
    """A method that needs no training: what it keeps of the training cases is the model."""

    @abstractmethod
    def memorise(self, cases: Iterable[Atlas]) -> dict[str, Tensor]:
        """What the checkpoint holds of whole training cases; :meth:`restore` makes it usable."""


def case_generator(seed: int, draw: int) -> torch.Generator:
    """A CPU generator of noise for one draw of the scan that ``seed`` belongs to, whatever is computed before or beside it."""
    digest = hashlib.sha256(f"{seed}:{draw}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
