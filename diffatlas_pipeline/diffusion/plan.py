"""The noise schedule, as a plan says it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DiffusionPlan:
    """Noise schedule: its name, and the number T of training steps it is cut into."""

    schedule: str
    training_steps: int
