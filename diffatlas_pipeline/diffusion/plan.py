"""The noise schedule, as a plan says it."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffatlas_pipeline.fields import one_of, within

SCHEDULES = ("cosine",)


MOST_STEPS = 100_000


@dataclass(frozen=True)
class DiffusionPlan:
    """Noise schedule: its name, and the number T of training steps it is cut into."""

    schedule: str = field(metadata=one_of(*SCHEDULES))
    training_steps: int = field(metadata=within(1, MOST_STEPS))
