"""Solvers: walk a noisy state down a list of levels to clean data, asking nothing but a denoiser.

A denoiser maps (noisy state, noise level) to clean data, part by part: no part of the state is read again after its
clean data have been given, so the state takes its step there at once, and no second array of that size is needed. A
solver is a step rule made by a factory, so that a rule with memory starts afresh for each part of each sample;
:func:`sample` walks it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffatlas_pipeline.diffusion.levels import sampling_levels
from diffatlas_pipeline.diffusion.plan import DiffusionPlan
from diffatlas_pipeline.fields import at_least, fraction, one_of
from diffatlas_pipeline.scratch import EVERYTHING, IN_MEMORY, Index, Scratch, release

Parts = Iterator[tuple[Index, Tensor]]
"""Where each part of a state lies, and its clean data; together they cover the state."""

Denoise = Callable[[Tensor, float], Parts]
"""(noisy state, noise level in [0, 1]) -> the clean state, part by part."""

Step = Callable[[Tensor, Tensor, float, float, Callable[[Tensor], Tensor]], Tensor]
"""(state, clean prediction, level now, lower level next, noise source) -> state at the next level."""

Progress = Callable[[float, int], None]


def whole(denoise: Callable[..., Tensor]) -> Callable[..., Parts]:
    """A denoiser that gives the clean state at once, as one part."""

    def parts(state: Tensor, *levels: float) -> Parts:
        yield EVERYTHING, denoise(state, *levels)

    return parts


def _signal(level: float) -> float:
    return math.cos(level * math.pi / 2)


def _noise(level: float) -> float:
    return math.sin(level * math.pi / 2)


def ddim(eta: float = 0.0) -> Step:
    """DDIM (Song et al. 2021, Eq. 12 and 16): deterministic at eta = 0, the ancestral sampler at eta = 1."""

    def step(state: Tensor, clean: Tensor, level: float, following: float, draw: Callable[[Tensor], Tensor]) -> Tensor:
        signal_now, noise_now = _signal(level), _noise(level)
        signal_next, noise_next = _signal(following), _noise(following)
        eps = (state - signal_now * clean) / noise_now
        deviation = eta * noise_next / noise_now * math.sqrt(max(0.0, 1 - (signal_now / signal_next) ** 2))
        result = signal_next * clean + math.sqrt(max(0.0, noise_next**2 - deviation**2)) * eps
        return result + deviation * draw(state) if deviation > 0 else result

    return step


def ddpm(eta: float = 1.0) -> Step:
    """Ancestral sampling (Ho et al. 2020, Eq. 6, 7; posterior variance beta-tilde), the paper's; it is DDIM with eta =
    1.
    """
    return ddim(1.0)


def dpmpp_2m(eta: float = 0.0) -> Step:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2): deterministic, second order, one denoising per step."""
    previous_clean: Tensor | None = None
    previous_width = 0.0

    def step(state: Tensor, clean: Tensor, level: float, following: float, draw: Callable[[Tensor], Tensor]) -> Tensor:
        nonlocal previous_clean, previous_width
        signal_now, noise_now = _signal(level), _noise(level)
        signal_next, noise_next = _signal(following), _noise(following)
        if noise_next < 1e-9:  # the last step: the log signal-to-noise ratio ends at infinity, where the rule is first order
            return clean
        shrink = noise_next * signal_now / (signal_next * noise_now)  # exp(-h)
        width = -math.log(max(shrink, 1e-12))
        direction = clean
        if previous_clean is not None:
            weight = width / (2 * previous_width)
            direction = (1 + weight) * clean - weight * previous_clean
        previous_clean, previous_width = clean, width
        return noise_next / noise_now * state + signal_next * (1 - shrink) * direction

    return step


SOLVERS: dict[str, Callable[[float], Step]] = {"ddpm": ddpm, "ddim": ddim, "dpmpp_2m": dpmpp_2m}
ANSWERS = ("last", "mean")


@dataclass(frozen=True)
class Sampler:
    """How a segmentation is sampled: ``draws`` times, with a solver of so many ``steps`` (0: all T of the plan).

    ``eta`` is the noise that "ddim" adds: 0 none, 1 as much as "ddpm". The other solvers ignore it. The ``answer`` is
    the clean state that the walk ends in ("last"), or the mean of the clean predictions of all steps ("mean").
    """

    solver: str = field(default="ddim", metadata=one_of(*SOLVERS))
    steps: int = field(default=1, metadata=at_least(0))
    eta: float = field(default=0.0, metadata=fraction())
    draws: int = field(default=1, metadata=at_least(1))
    answer: str = field(default="last", kw_only=True, metadata=one_of(*ANSWERS))

    def steps_of(self, plan: DiffusionPlan) -> int:
        """The number of steps with the schedule of ``plan``."""
        return self.steps or plan.training_steps

    def walk(
        self,
        denoise: Denoise,
        start: Tensor,
        plan: DiffusionPlan,
        generator: torch.Generator,
        progress: Progress | None = None,
        scratch: Scratch = IN_MEMORY,
        begin: float = 1.0,
    ) -> Tensor:
        """One draw: clean data from ``start`` (any shape), which is overwritten; see :func:`sample`.

        ``start`` is standard normal noise, or a state at the level ``begin``: then the steps above it are left out.
        """
        levels = sampling_levels(plan.schedule, plan.training_steps, self.steps)
        if begin < 1:
            below = begin - 0.5 / self.steps_of(plan)  # a first step of half the usual size at least
            levels = [begin, *(level for level in levels if level < below or level == 0)]
        return sample(denoise, start, levels, SOLVERS[self.solver], self.eta, generator, progress, self.answer, scratch)


def sample(
    denoise: Denoise,
    start: Tensor,
    levels: Sequence[float],
    solver: Callable[[float], Step],
    eta: float,
    generator: torch.Generator,
    progress: Progress | None = None,
    answer: str = "last",
    scratch: Scratch = IN_MEMORY,
) -> Tensor:
    """Walk ``start`` (any shape), a state at the first of the ``levels``, down these; returns clean data of its shape.

    ``start`` is overwritten. What else is as large as it is made by ``scratch``.

    Each clean prediction is the mean of what may have become of a state. What a sample adds to that is chance: the mean
    of the predictions on the way, the ``answer`` "mean", has less of it than the sample itself, the "last".

    Noise is drawn on the CPU, so that a seed gives the same result on every device.
    """
    state, total = start, len(levels) - 1
    summed = scratch.zeros(state.shape).to(state) if answer == "mean" else None
    rules: dict[str, Step] = {}  # one for each part: it may keep what it saw there at the step before
    for index, (level, following) in enumerate(itertools.pairwise(levels)):
        noise = _Noise(state, generator, scratch)
        done = 0
        for where, clean in denoise(state, level):
            if summed is not None:
                summed[where] += clean
            rule = rules.setdefault(str(where), solver(eta))
            state[where] = rule(state[where], clean, level, following, noise.at(where))
            release()
            done += clean.numel()
            if progress is not None:
                progress(index + done / state.numel(), total)
    if summed is None:
        return state
    for where in scratch.slabs(summed.shape):
        summed[where] /= total
    return summed


class _Noise:
    """The noise of one step, like the whole ``state``: drawn when a part of it is first asked for."""

    def __init__(self, state: Tensor, generator: torch.Generator, scratch: Scratch) -> None:
        self._state, self._generator, self._scratch = state, generator, scratch
        self._drawn: Tensor | None = None

    def at(self, where: Index) -> Callable[[Tensor], Tensor]:
        def draw(like: Tensor) -> Tensor:
            if self._drawn is None:
                self._drawn = self._scratch.randn(self._state.shape, self._generator)
            return self._drawn[where].to(like)

        return draw
