"""Noise levels: how noisy a state is, from 0 (clean) to 1 (pure noise), and the schedules that step through them.

A variance-preserving state at cumulative signal power alpha_bar (Eq. 1: z_t = sqrt(alpha_bar) z_0 + sqrt(1 - alpha_bar)
eps) has the level u with sqrt(alpha_bar) = cos(pi/2 u). Networks and solvers know levels only, so that a schedule can
change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from diffatlas_pipeline.diffusion.plan import SCHEDULES, DiffusionPlan
from diffatlas_pipeline.fields import above, fraction, one_of

COSINE_OFFSET = 0.008  # Nichol & Dhariwal 2021, Eq. 17: keeps the first steps from being too small
LARGEST_BETA = 0.999

MASK_LEVELS = ("schedule", "high")
IMAGE_LEVELS = ("equal", "mixed")
OWN_LEVELS = ("same", "beyond")


@dataclass(frozen=True)
class MaskLevels:
    """How noisy the mask is in training.

    ``mask``: "schedule" is the level of a random one of the plan's T steps, "high" 1 - u^2 with u uniform in [0, 1). A
    share ``start`` of the samples lies at the first step of sampling instead: level 1.
    """

    mask: str = field(default="high", metadata=one_of(*MASK_LEVELS))
    start: float = field(default=0.0, metadata=fraction())

    def draw_mask(self, plan: DiffusionPlan, count: int, generator: torch.Generator) -> Tensor:
        """``count`` random levels, float32 (count,)."""
        drawn = mask_levels(self.mask, plan, count, generator)
        if self.start:
            at_start = torch.rand(count, generator=generator) < self.start
            drawn = torch.where(at_start, torch.ones(()), drawn)
        return drawn


@dataclass(frozen=True)
class DrawnLevels:
    """Levels of mask and image (B,) of a batch, and which samples' mask is the network's own first answer (B,),
    bool.
    """

    mask: Tensor
    image: Tensor
    own: Tensor

    def to(self, device: torch.device) -> DrawnLevels:
        """The same on ``device``."""
        return DrawnLevels(self.mask.to(device), self.image.to(device), self.own.to(device))


@dataclass(frozen=True)
class NoiseLevels(MaskLevels):
    """How noisy mask and image of a joint state are in training.

    ``image``: "equal" is the mask's level. "mixed" is clean for a share ``clean_image``, as noisy as the mask for a
    share ``equal_level``, and uniformly below the mask for the rest. Before these, a share ``start`` is set at the
    first step of sampling (clean image, mask of pure noise), and a share ``self_conditioning`` at a later one: clean
    image, and the network's own first answer made noisy in place of the true mask, at any level. Both are used with
    "mixed" only. ``own_levels`` tells how the network hears of them: by the level of a true mask as noisy ("same"), or
    "beyond" 1, by :func:`level_of_own`, so that it need not take its own answer for evidence. Of a share
    ``missing_channel`` of all samples of several channels some are hidden: as noisy as the mask, as in the segmentation
    of a scan that lacks them. ``mask_scale`` times the plan's scale is the mask's in the joint state: the smaller, the
    earlier it drowns in noise, and the clearer is an equally noisy image when a sampler decides on it.
    """

    image: str = field(default="equal", metadata=one_of(*IMAGE_LEVELS))
    clean_image: float = field(default=0.0, metadata=fraction())
    equal_level: float = field(default=0.0, metadata=fraction())
    self_conditioning: float = field(default=0.0, metadata=fraction())
    missing_channel: float = field(default=0.0, metadata=fraction())
    own_levels: str = field(default="same", metadata=one_of(*OWN_LEVELS))
    mask_scale: float = field(default=1.0, metadata=above(0))

    @property
    def tells_own(self) -> bool:
        """Whether the network knows its own answer from a true mask."""
        return self.self_conditioning > 0 and self.own_levels == "beyond"

    @property
    def equal_share(self) -> float:
        """Share of the samples whose image is as noisy as the mask."""
        return 1.0 if self.image == "equal" else (1 - self.start - self.self_conditioning) * self.equal_level

    def problems(self) -> Iterator[str]:
        """What does not go together."""
        for pair in (("clean_image", "equal_level"), ("start", "self_conditioning")):
            together = sum(getattr(self, name) for name in pair)
            if together > 1 + 1e-9:
                yield f"{pair[0]} and {pair[1]} are {together:g} together; at most 1"

    def draw(self, plan: DiffusionPlan, count: int, generator: torch.Generator) -> DrawnLevels:
        """Random levels of ``count`` samples."""
        mask = mask_levels(self.mask, plan, count, generator)
        own = torch.zeros(count, dtype=torch.bool)
        if self.image == "equal":
            return DrawnLevels(mask, mask, own)
        kind, below = torch.rand(count, generator=generator), torch.rand(count, generator=generator)
        if self.start or self.self_conditioning:
            step = torch.rand(count, generator=generator)
            at_start = step < self.start
            own = ~at_start & (step < self.start + self.self_conditioning)
            mask = torch.where(at_start, torch.ones(()), torch.where(own, below, mask))
            kind = torch.where(at_start | own, torch.zeros(()) - 1, kind)
        image = torch.where(kind < self.clean_image + self.equal_level, mask, mask * below)
        return DrawnLevels(mask, torch.where(kind < self.clean_image, torch.zeros(()), image), own)

    def draw_hidden(self, count: int, channels: int, generator: torch.Generator) -> Tensor:
        """Which ``channels`` of which of ``count`` samples are hidden, bool (count, channels): never all of a sample,
        and as often one as any other number. Nothing is drawn where nothing can be hidden.
        """
        hidden = torch.zeros((count, channels), dtype=torch.bool)
        if channels == 1 or not self.missing_channel:
            return hidden
        chosen = torch.rand(count, generator=generator) < self.missing_channel
        number = torch.randint(1, channels, (count, 1), generator=generator)
        rank = torch.rand((count, channels), generator=generator).argsort(dim=1).argsort(dim=1)
        return (rank < number) & chosen[:, None]


def level_of_own(level: Tensor) -> Tensor:
    """What stands for the noise ``level`` (any shape) of an own answer: 2 - level. Pure noise is the same for both."""
    return 2 - level


def signal(level: Tensor) -> Tensor:
    """sqrt(alpha_bar) at ``level``, any shape."""
    return torch.cos(level * (math.pi / 2))


def noise(level: Tensor) -> Tensor:
    """sqrt(1 - alpha_bar) at ``level``, any shape."""
    return torch.sin(level * (math.pi / 2))


def cosine_alpha_bar(steps: int) -> np.ndarray:
    """alpha_bar_1 .. alpha_bar_T of the cosine schedule (Nichol & Dhariwal 2021, Eq. 17), float64 of length
    ``steps``.
    """
    time = np.arange(steps + 1, dtype=np.float64) / steps
    wanted = np.cos((time + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
    beta = np.minimum(1 - wanted[1:] / wanted[:-1], LARGEST_BETA)
    return np.cumprod(1 - beta)


def schedule_levels(schedule: str, steps: int) -> np.ndarray:
    """Levels of steps 1 .. T of a schedule, increasing, float64 of length ``steps``. Raises ValueError for an unknown
    name.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"noise schedule '{schedule}' is unknown; known: {', '.join(SCHEDULES)}")
    return np.arccos(np.sqrt(cosine_alpha_bar(steps))) * (2 / math.pi)


def sampling_levels(schedule: str, training_steps: int, steps: int) -> list[float]:
    """The decreasing levels that ``steps`` sampling steps pass through, from the schedule's noisiest to 0: steps + 1
    numbers.

    ``steps`` = 0 or ``training_steps`` visits every training step; fewer are spread evenly over them.
    """
    all_levels = np.concatenate([[0.0], schedule_levels(schedule, training_steps)])
    chosen = np.linspace(training_steps, 0, (steps or training_steps) + 1).round().astype(int)
    return [float(all_levels[index]) for index in chosen]


def mask_levels(name: str, plan: DiffusionPlan, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random training levels of the mask, float32 (count,): "schedule" is one of the plan's T, "high" 1 -
    u^2.

    Raises ValueError for an unknown name.
    """
    if name == "schedule":
        known = torch.from_numpy(schedule_levels(plan.schedule, plan.training_steps)).float()
        return known[torch.randint(len(known), (count,), generator=generator)]
    if name == "high":
        return 1 - torch.rand(count, generator=generator).square()
    raise ValueError(f"levels.mask '{name}' is unknown; known: {', '.join(MASK_LEVELS)}")


def add_noise(clean: Tensor, eps: Tensor, level: Tensor) -> Tensor:
    """Eq. 1: the state at ``level`` (broadcast against ``clean``) from clean data and standard normal noise."""
    return signal(level) * clean + noise(level) * eps
