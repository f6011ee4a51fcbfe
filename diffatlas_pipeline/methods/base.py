"""The contract of a method: what it learns or memorises of the training cases, and how it segments a volume."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from diffatlas_pipeline.datasets.codes import codes_of
from diffatlas_pipeline.diffusion.denoiser import Objective
from diffatlas_pipeline.diffusion.levels import MaskLevels
from diffatlas_pipeline.diffusion.solvers import Parts, Progress, Sampler
from diffatlas_pipeline.fields import fraction
from diffatlas_pipeline.methods.segmentation_loss import SHARPNESS
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.scratch import Scratch
from diffatlas_pipeline.volumes.grids import Triple

WindowFunction = Callable[[Tensor], Tensor]
"""Windows (B, c, X, Y, Z) of the patch's size -> (B, k, X, Y, Z)."""

Volumes = Tensor | tuple[Tensor, ...]
"""A volume (c, X, Y, Z), or several of one grid: windows have the channels of all."""


class Stitch(Protocol):
    """Runs a window function over all windows of a volume and blends the results to (k, X, Y, Z): at once, or by
    :meth:`rows`, part by part. ``scratch`` makes what else is as large.
    """

    scratch: Scratch

    def __call__(self, run: WindowFunction, volume: Volumes) -> Tensor: ...

    def rows(self, run: WindowFunction, volume: Volumes) -> Parts: ...


@dataclass(frozen=True)
class LossReport:
    """``total`` is what is minimised (a scalar with gradient); ``parts`` are for the log, NaN where a batch had
    none.
    """

    total: Tensor
    parts: dict[str, float]


@dataclass(frozen=True)
class PlannedSegmentation:
    """Signed distances (K, X, Y, Z) in units of tau, negative inside, mean over draws.

    A voxel belongs to the label of smallest distance where that is negative, else to the background; a method that
    predicts no distances gives numbers that decode to its labels in the same way. ``network_share`` is the weight of
    the network in a mean of its answer and that of atlases. ``generated`` (M, X, Y, Z) in [-1, 1] are the channels that
    the scan lacked, mean over draws, None if it lacked none; ``reconstruction`` (C, X, Y, Z) is the scan as a
    generating method makes it, if that was asked for. ``probabilities`` (K, X, Y, Z) of the labels (of their codes, if
    they overlap) are the mean over draws, None of a single one: its distances tell them. ``rough`` is what was found at
    low resolution before, None where nothing was.
    """

    distances: Tensor
    network_share: float | None = None
    generated: Tensor | None = None
    reconstruction: Tensor | None = None
    probabilities: Tensor | None = None
    rough: PlannedSegmentation | None = None


@dataclass(frozen=True)
class GeneratedPair:
    """A new image (C, x, y, z) in [-1, 1] and its signed distances (K, x, y, z) in units of tau, on the planned
    grid.
    """

    image: Tensor
    distances: Tensor


@dataclass(frozen=True)
class Recipe:
    """How a method learns and segments: each method has a recipe of its own, made of named parts."""


@dataclass(frozen=True)
class LearnedRecipe(Recipe):
    """The recipe of a method that learns: ``any_contrast`` is the share of the training samples that are shown with a
    contrast synthesised from their labels, so that scans of other modalities can be segmented as they are;
    ``given_labels`` the share to which a part of their labels is shown, so that what a reader has drawn can be
    completed. The network has inputs for it only where that is above 0.
    """

    any_contrast: float = field(default=0.0, kw_only=True, metadata=fraction())
    given_labels: float = field(default=0.0, kw_only=True, metadata=fraction())


@dataclass(frozen=True)
class DiffusionRecipe(LearnedRecipe):
    """The recipe of a method that diffuses; that a method does is known by this alone."""

    levels: MaskLevels = field(default_factory=MaskLevels)
    objective: Objective = field(default_factory=Objective)
    sampler: Sampler = field(default_factory=Sampler)


class Method(ABC):
    """One way to segment by a plan's preprocessed cases; the trainer and predictor never ask which."""

    name: ClassVar[str]
    recipe_type: ClassVar[type[Recipe]]
    recipes: ClassVar[Mapping[str, Recipe]]
    """The recipes that every plan holds, by name; "default" is used when none is named."""

    def __init__(self, plan: Plan, recipe: Recipe) -> None:
        if not isinstance(recipe, self.recipe_type):
            raise TypeError(f"{self.name} has a {self.recipe_type.__name__}, received a {type(recipe).__name__}")
        self.plan = plan
        self.recipe = recipe
        self.codes = codes_of(plan.dataset.labels)
        self.sharpness = SHARPNESS  # logits per tau of the probabilities of several draws; held-out cases may tell another

    @property
    def unlabelled_fraction(self) -> float:
        """Share of the training samples drawn from scans without labels, where there are any: their distances are
        NaN.
        """
        return 0.0

    @property
    def any_contrast(self) -> float:
        """Share of the training samples whose contrast is synthesised from their labels."""
        return self.recipe.any_contrast if isinstance(self.recipe, LearnedRecipe) else 0.0

    @property
    def given_labels(self) -> float:
        """Share of the training samples to which a part of their labels is shown; 0: the network has no input for
        that.
        """
        return self.recipe.given_labels if isinstance(self.recipe, LearnedRecipe) else 0.0

    @property
    def drawn_channels(self) -> int:
        """Inputs that the network has for what is drawn of a scan's labels: one per label, or none."""
        return len(self.plan.dataset.labels) if self.given_labels else 0

    @property
    def needs_all_channels(self) -> str:
        """What would help to segment a scan that lacks channels, where this method cannot; "" where it can."""
        return f"{self.name} needs all of them; diffatlas can generate what is missing."

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> nn.Module:
        """What :meth:`segment` works with, from a checkpoint. RuntimeError if the tensors do not fit the plan."""

    @abstractmethod
    def segment(
        self,
        network: nn.Module,
        image: Tensor,
        stitch: Stitch,
        seed: int,
        progress: Progress | None = None,
        begin: Tensor | None = None,
    ) -> PlannedSegmentation:
        """Segment ``image`` (C, X, Y, Z). The result depends on (recipe, image, seed, begin) alone; ``seed`` belongs to
        the scan.

        A channel of NaN, but for what pads it, is missing; a method with :attr:`needs_all_channels` is given none. A
        method that samples masks begins with the distances ``begin`` (K, X, Y, Z) made noisy, if there are any, which
        are nearly right already; others make no use of them.
        """

    def unexplained(
        self, network: nn.Module, image: Tensor, distances: Tensor, stitch: Stitch, seed: int
    ) -> dict[str, tuple[float, ...]]:
        """How badly ``network`` explains ``image`` (C, X, Y, Z) and the ``distances`` (K, X, Y, Z) that it found in it,
        as "image_error" and "mask_error"; without them for a method that does not model both.
        """
        return {}


class LearnedMethod(Method):
    """A method whose network is trained by gradient descent."""

    @abstractmethod
    def build_network(self) -> nn.Module:
        """A fresh network with this method's channels."""

    @property
    @abstractmethod
    def input_names(self) -> tuple[str, ...]:
        """What each channel that its network sees is: "image CT", "mask liver", "drawn liver"."""

    @property
    @abstractmethod
    def output_names(self) -> tuple[str, ...]:
        """What each channel that its network puts out is."""

    @property
    def image_names(self) -> tuple[str, ...]:
        return tuple(f"image {channel}" for channel in self.plan.dataset.channels)

    @property
    def mask_names(self) -> tuple[str, ...]:
        return tuple(f"mask {label.name}" for label in self.plan.dataset.labels)

    @property
    def drawn_names(self) -> tuple[str, ...]:
        return tuple(f"drawn {label.name}" for label in self.plan.dataset.labels) if self.given_labels else ()

    @abstractmethod
    def loss(self, network: nn.Module, image: Tensor, distances: Tensor, generator: torch.Generator) -> LossReport:
        """The loss of a batch: ``image`` (B, C, X, Y, Z) in [-1, 1], ``distances`` (B, K, X, Y, Z) in units of tau."""

    def restore(self, state: Mapping[str, Tensor]) -> nn.Module:
        network = self.build_network()
        network.load_state_dict(dict(state))
        return network


class GeneratingMethod(LearnedMethod):
    """A method that learns images and masks together, so that it can make new pairs."""

    @property
    @abstractmethod
    def share_for_generation(self) -> float:
        """Share of the training samples that taught to generate: image and mask equally noisy."""

    @abstractmethod
    def generate(
        self,
        network: nn.Module,
        shape: Triple,
        stitch: Stitch,
        sampler: Sampler,
        generator: torch.Generator,
        device: torch.device,
        progress: Progress | None = None,
    ) -> GeneratedPair:
        """A new pair of ``shape`` (x, y, z), whose state is kept on ``device``; the noise is that of ``generator``."""

    @abstractmethod
    def reconstruct(self, network: nn.Module, image: Tensor, distances: Tensor, stitch: Stitch, seed: int) -> Tensor:
        """The image (C, X, Y, Z) that ``network`` makes of ``image`` and the ``distances`` (K, X, Y, Z) found in it
        when both are half noise: what it expects of such a pair, without what it has not learnt.
        """


class MemorisedMethod(Method):
    """A method that needs no training: what it keeps of the training cases is the model."""

    @abstractmethod
    def memorise(self, cases: Iterable[Atlas]) -> dict[str, Tensor]:
        """What the checkpoint holds of whole training cases; :meth:`restore` makes it usable."""


def case_generator(seed: int, draw: int) -> torch.Generator:
    """A CPU generator of noise for one draw of the scan that ``seed`` belongs to, whatever is computed before or beside
    it.
    """
    digest = hashlib.sha256(f"{seed}:{draw}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
