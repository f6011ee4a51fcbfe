"""How far training has come, and the learning rate there."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from diffatlas_pipeline.errors import UserError

_FLOOR = 0.01


@dataclass(frozen=True)
class Duration:
    """Training ends after ``iterations``, or, if ``seconds`` is set, after that much training time, whichever comes
    first.
    """

    iterations: int
    seconds: float | None = None

    def progress(self, iteration: int, elapsed_s: float) -> float:
        """Share of the training that is done, 0 to 1, after ``iteration`` steps and ``elapsed_s`` seconds of
        training.
        """
        share = iteration / self.iterations
        if self.seconds is not None:
            share = max(share, elapsed_s / self.seconds)
        return min(1.0, share)


def seconds_of(text: str) -> float:
    """'90s', '30m', '1.5h' or plain seconds. UserError otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match or float(match.group(1)) <= 0:
        raise UserError(f"`max_time` {text}: not a duration. Write for example 90s, 30m or 2h.")
    return float(match.group(1)) * {"": 1, "s": 1, "m": 60, "h": 3600}[match.group(2)]


def learning_rate(base: float, progress: float, warmup: float) -> float:
    """Linear warm-up over the first ``warmup`` share of training, then a half cosine down to 1 % of ``base``."""
    if progress < warmup:
        return base * max(progress / warmup, _FLOOR)
    share = (progress - warmup) / max(1e-9, 1 - warmup)
    return base * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * share)))


def ema_decay(updates: int, fraction: float) -> float:
    """Decay of a moving average whose horizon is ``fraction`` of the updates so far.

    A horizon that grows with training forgets the first weights in a run of any length (power-function EMA, Karras et
    al. 2024, section 3.1).
    """
    return 1 - 1 / max(1.0, fraction * updates)
