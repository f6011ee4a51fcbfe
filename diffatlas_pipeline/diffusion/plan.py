"""The noise schedule, as a plan says it."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffatlas_pipeline.fields import at_least, one_of

SCHEDULES = ("cosine",)


@dataclass(frozen=True)
class DiffusionPlan:
    """Noise schedule: its name, and the number T of training steps it is cut into."""

    schedule: str = field(metadata=one_of(*SCHEDULES))
    training_steps: int = field(metadata=at_least(1))
