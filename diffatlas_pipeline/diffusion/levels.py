"""Noise levels: how noisy a state is, from 0 (clean) to 1 (pure noise), and the schedules that step through them.

A variance-preserving state at cumulative signal power alpha_bar (Eq. 1: z_t = sqrt(alpha_bar) z_0 + sqrt(1 - alpha_bar) eps)
has the level u with sqrt(alpha_bar) = cos(pi/2 u). Networks and solvers know levels only, so that a schedule can change.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from diffatlas_pipeline.diffusion.plan import DiffusionPlan

COSINE_OFFSET = 0.008  # Nichol & Dhariwal 2021, Eq. 17: keeps the first steps from being too small
LARGEST_BETA = 0.999

SCHEDULES = ("cosine",)
MASK_LEVELS = ("schedule", "high")
INPUT_SCALINGS = ("none", "signal")


def signal(level: Tensor) -> Tensor:
    """sqrt(alpha_bar) at ``level``, any shape."""
    return torch.cos(level * (math.pi / 2))


def noise(level: Tensor) -> Tensor:
    """sqrt(1 - alpha_bar) at ``level``, any shape."""
    return torch.sin(level * (math.pi / 2))


def cosine_alpha_bar(steps: int) -> np.ndarray:
    """alpha_bar_1 .. alpha_bar_T of the cosine schedule (Nichol & Dhariwal 2021, Eq. 17), float64 of length ``steps``."""
    time = np.arange(steps + 1, dtype=np.float64) / steps
    wanted = np.cos((time + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
    beta = np.minimum(1 - wanted[1:] / wanted[:-1], LARGEST_BETA)
    return np.cumprod(1 - beta)


def schedule_levels(schedule: str, steps: int) -> np.ndarray:
    """Levels of steps 1 .. T of a schedule, increasing, float64 of length ``steps``. Raises ValueError for an unknown name."""
    if schedule not in SCHEDULES:
        raise ValueError(f"noise schedule '{schedule}' is unknown; known: {', '.join(SCHEDULES)}")
    return np.arccos(np.sqrt(cosine_alpha_bar(steps))) * (2 / math.pi)


def sampling_levels(schedule: str, training_steps: int, steps: int) -> list[float]:
    """The decreasing levels that ``steps`` sampling steps pass through, from the schedule's noisiest to 0: steps + 1 numbers.

    ``steps`` = 0 or ``training_steps`` visits every training step; fewer are spread evenly over them.
    """
    all_levels = np.concatenate([[0.0], schedule_levels(schedule, training_steps)])
    chosen = np.linspace(training_steps, 0, (steps or training_steps) + 1).round().astype(int)
    return [float(all_levels[index]) for index in chosen]


def mask_levels(name: str, plan: DiffusionPlan, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random training levels of the mask, float32 (count,): "schedule" is one of the plan's T, "high" 1 - u^2.

    Raises ValueError for an unknown name.
    """
    if name == "schedule":
        known = torch.from_numpy(schedule_levels(plan.schedule, plan.training_steps)).float()
        return known[torch.randint(len(known), (count,), generator=generator)]
    if name == "high":
        return 1 - torch.rand(count, generator=generator).square()
    raise ValueError(f"mask_levels '{name}' is unknown; known: {', '.join(MASK_LEVELS)}")


def scaled_input(scaling: str, noisy: Tensor, level: Tensor) -> Tensor:
    """What a network is shown of a ``noisy`` state at ``level``: with ``scaling`` "none" the state itself.

    "signal" is, but for a constant, the best linear guess at a clean state of unit variance: a z of z = a z0 + b eps. Raises
    ValueError for an unknown name.
    """
    if scaling == "none":
        return noisy
    if scaling == "signal":
        return noisy * signal(level)
    raise ValueError(f"input_scaling '{scaling}' is unknown; known: {', '.join(INPUT_SCALINGS)}")


def add_noise(clean: Tensor, eps: Tensor, level: Tensor) -> Tensor:
    """Eq. 1: the state at ``level`` (broadcast against ``clean``) from clean data and standard normal noise."""
    return signal(level) * clean + noise(level) * eps
