"""The contract of a method: what network it needs, what it learns from a batch, how it segments a volume."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffatlas_pipeline.contracts import Plan, Recipe

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
    """Signed distances (K, X, Y, Z) in units of tau, negative inside, mean over draws; ``spread`` their standard deviation."""

    distances: Tensor
    spread: Tensor | None


class Method(ABC):
    """One way to learn a segmentation from a plan's preprocessed cases; the trainer and predictor never ask which."""

    name: str

    def __init__(self, plan: Plan, recipe: Recipe) -> None:
        self.plan = plan
        self.recipe = recipe

    @abstractmethod
    def build_network(self) -> nn.Module:
        """A fresh network with this method's channels."""

    @abstractmethod
    def loss(self, network: nn.Module, image: Tensor, distances: Tensor, generator: torch.Generator) -> LossReport:
        """The loss of a batch: ``image`` (B, C, X, Y, Z) in [-1, 1], ``distances`` (B, K, X, Y, Z) in units of tau."""

    @abstractmethod
    def segment(
        self,
        network: nn.Module,
        image: Tensor,
        stitch: Stitch,
        settings: Recipe,
        seed: int,
        case: str,
        progress: Progress | None = None,
    ) -> Segmentation:
        """Segment ``image`` (C, X, Y, Z). The result depends on (image, settings, seed, case) alone."""


def case_generator(seed: int, case: str, draw: int) -> torch.Generator:
    """A CPU generator of noise that belongs to one draw of one case, whatever is computed before or beside it."""
    digest = hashlib.sha256(f"{seed}:{case}:{draw}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
