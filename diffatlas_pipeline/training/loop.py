"""The training loop: one method, one stream of batches, one folder of results. It never asks which method it holds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffatlas_pipeline import console
from diffatlas_pipeline.errors import Stopped, UserError
from diffatlas_pipeline.methods.base import LearnedMethod
from diffatlas_pipeline.networks.execution import faster_precision, running_in
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.training.checkpoints import TrainingStatus, load_checkpoint, save_checkpoint
from diffatlas_pipeline.training.log import TrainingLog
from diffatlas_pipeline.training.ranks import ALONE, Ranks
from diffatlas_pipeline.training.schedule import Duration, learning_rate
from diffatlas_pipeline.training.state import TrainingState
from diffatlas_pipeline.training.stopping import until_told_to_stop

EPOCHS = 40  # rows of the log in a training of any length; more where an epoch is long:
SECONDS_BETWEEN_CHECKPOINTS = 600.0  # the most that a killed training loses
MOST_SKIPPED = 10  # batches in a row whose gradient was not finite
COLLAPSE_DICE = 0.01
_PRECISIONS = ("float32", "bfloat16")

Batches = Callable[[int], AbstractContextManager[Iterator[dict[str, Tensor]]]]
"""First iteration -> the batches from there on: {"image": (B, C, X, Y, Z), "distances": (B, K, X, Y, Z)}."""

Validation = Callable[[nn.Module], dict[str, float]]
"""EMA network -> Dice per label of segmentations that were really sampled."""


@dataclass(frozen=True)
class Run:
    """One training: where it writes, for how long, on what. ``settings`` are remembered and compared on resuming;
    without ``checkpoints`` it cannot be resumed, and loses no time to writing them. It begins with the weights
    ``initial``, with fresh ones if None.
    """

    folder: Path
    duration: Duration
    seed: int
    device: torch.device
    settings: dict[str, Any]
    precision: str = "auto"
    compile: bool = False
    quiet: bool = False
    checkpoints: bool = True
    initial: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Trained:
    """What came of a training: EMA weights by name, the iterations and seconds it took, the precision it ran in.

    ``skipped``: batches without a finite gradient, which changed nothing.
    ``waiting_share``: the part of the time for which it waited for batches, after the first.
    ``told_to_stop``: SIGTERM came in the last step, so nothing is to follow but what keeps the result.
    """

    weights: dict[str, Tensor]
    iterations: int
    seconds: float
    precision: str
    skipped: int = 0
    waiting_share: float = 0.0
    told_to_stop: bool = False


def train(method: LearnedMethod, run: Run, batches: Batches, validate: Validation | None, ranks: Ranks = ALONE) -> Trained:
    """Train, or go on where a killed training stopped; one of ``ranks``, each of which calls it with the same.

    Raises UserError if the folder holds a training with other settings, or if training diverges; Stopped after SIGTERM,
    with a checkpoint.
    """
    torch.manual_seed(run.seed)
    plan = method.plan.training
    network = method.build_network() if run.initial is None else method.restore(run.initial)
    state = TrainingState(network, plan, run.seed, run.device)
    done = _resume(run, state)
    log = TrainingLog(run.folder, done.iteration, writes=ranks.leads)
    compiled = _compiled(state.network) if run.compile else state.network
    stepper = _Stepper(method, state, compiled, run.device, done.precision or run.precision, ranks)
    clock = _Clock(done.elapsed_s)
    iteration, saved_s = done.iteration, done.elapsed_s
    progress = run.duration.progress(iteration, saved_s)
    epoch = _epoch(progress)
    bar = console.bar("training", 1.0, done=progress, quiet=run.quiet)
    with bar, until_told_to_stop() as told, batches(iteration) as own:
        stream = _Waited(ranks.deal(own, _shapes(method.plan)))
        while progress < 1:
            rate = learning_rate(plan.learning_rate, progress, plan.warmup_fraction)
            log.collect(stepper.step(next(stream), rate))
            iteration += 1
            progress, stop = ranks.agree(run.duration.progress(iteration, clock.seconds()), told())
            bar.to(progress, f"iteration {iteration}, loss {log.mean('loss'):.3f}")
            ended = _epoch(progress) > epoch
            if ranks.leads and (ended or stop or clock.seconds() - saved_s > SECONDS_BETWEEN_CHECKPOINTS):
                epoch = _epoch(progress)
                dice = validate(state.ema.module) if validate is not None and ended and _is_validated(epoch) else {}
                _say_if_collapsed(dice, progress)
                log.write_row(iteration, clock.seconds(), rate, dice, last=progress >= 1)
                saved_s = clock.seconds()
                if run.checkpoints:
                    status = TrainingStatus(iteration, saved_s, run.settings, stepper.precision)
                    save_checkpoint(run.folder, state.tensors(), status)
            if stop and progress < 1:
                kept = ", with a checkpoint: the same training goes on from there" if run.checkpoints else ""
                raise Stopped(f"Stopped at iteration {iteration}{kept}.")
    stepper.check_end(iteration)
    result = state.ema_weights(), iteration, clock.seconds(), stepper.precision, stepper.skipped
    return Trained(*result, stream.share(), told())


class _Waited:
    """Batches, and how long they were waited for: the first, for which processes have to start, does not count."""

    def __init__(self, batches: Iterator[dict[str, Tensor]]) -> None:
        self._batches, self._waited_s = batches, 0.0
        self._origin: float | None = None

    def __next__(self) -> dict[str, Tensor]:
        start = time.monotonic()
        batch = next(self._batches)
        now = time.monotonic()
        if self._origin is None:
            self._origin = now
        else:
            self._waited_s += now - start
        return batch

    def share(self) -> float:
        """Of the time since the first batch."""
        return 0.0 if self._origin is None else self._waited_s / max(1e-9, time.monotonic() - self._origin)


class _Clock:
    """Seconds of training, over all the times it was resumed."""

    def __init__(self, before_s: float) -> None:
        self._origin = time.monotonic() - before_s

    def seconds(self) -> float:
        return time.monotonic() - self._origin


class _Stepper:
    """One optimisation step: loss, gradient, clipping, update, EMA."""

    def __init__(
        self,
        method: LearnedMethod,
        state: TrainingState,
        network: nn.Module,
        device: torch.device,
        precision: str,
        ranks: Ranks,
    ) -> None:
        self.method, self.state, self.device, self.ranks = method, state, device, ranks
        self.network = ranks.share(network, len(method.output_names))
        self.precision = precision
        self.skipped = self._in_a_row = 0

    def step(self, batch: dict[str, Tensor], rate: float) -> dict[str, float]:
        image, distances = (batch[name].to(self.device, non_blocking=True) for name in ("image", "distances"))
        if self.precision == "auto":
            chosen = _PRECISIONS.index(self._faster_precision(image, distances)) if self.ranks.leads else 0
            self.precision = _PRECISIONS[self.ranks.told(chosen)]
        state, clip = self.state, self.method.plan.training.gradient_clip
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        with running_in(self.precision, self.device):
            report = self.method.loss(self.network, image, distances, state.generator)
        state.optimiser.zero_grad(set_to_none=True)
        report.total.backward()
        self.ranks.sum_gradients(state.network.parameters())
        norm = float(nn.utils.clip_grad_norm_(state.network.parameters(), clip))
        if not math.isfinite(norm):
            self.skipped += 1
            self._in_a_row += 1
            if self._in_a_row >= MOST_SKIPPED:
                raise self._diverged()
            return {}
        self._in_a_row = 0
        state.optimiser.step()
        state.update_ema()
        return {"loss": float(report.total.detach()), "gradient_norm": norm, **report.parts}

    def check_end(self, iterations: int) -> None:
        """UserError if no batch of a short training changed anything; a warning if some did not."""
        if self._in_a_row >= iterations:
            raise self._diverged()
        if self.skipped:
            console.warn(
                f"{self.skipped} of {iterations} batches had no finite gradient and were skipped. If the result is poor, train "
                "again with a lower learning_rate in plans.json, or with `precision` float32."
            )

    def _diverged(self) -> UserError:
        return UserError(
            f"Training diverged: {self._in_a_row} batches in a row had no finite gradient. Start again with `overwrite` and a "
            "lower learning_rate in plans.json, or with `precision` float32."
        )

    def _faster_precision(self, image: Tensor, distances: Tensor) -> str:
        """Measured on a real batch, with noise of its own: the training's is not to depend on how often one
        measures.
        """

        def loss() -> Tensor:
            return self.method.loss(self.state.network, image, distances, torch.Generator().manual_seed(0)).total

        return faster_precision(self.device, self.state.network, loss)


def _resume(run: Run, state: TrainingState) -> TrainingStatus:
    try:
        found = load_checkpoint(run.folder)
    except ValueError as error:
        raise UserError(str(error)) from error
    if found is None:
        return TrainingStatus(0, 0.0, run.settings)
    tensors, progress, warning = found
    if warning:
        console.warn(warning)
    different = [
        f"{name}: was {progress.settings.get(name)}, now {value}"
        for name, value in run.settings.items()
        if progress.settings.get(name) != value
    ]
    if different == [f"plan: was {progress.settings.get('plan')}, now {run.settings.get('plan')}"]:
        raise UserError(
            f"{run.folder} holds an unfinished training that cannot go on: since it began, its plan or recipe was changed, or "
            "another release wrote it. Give `overwrite` to start again."
        )
    if different:
        raise UserError(
            f"{run.folder} holds an unfinished training with other settings ({'; '.join(different)}). "
            "Give the same settings to go on with it, or `overwrite` to start again."
        )
    try:
        state.restore(tensors)
    except ValueError as error:  # whole, but written by something else
        raise UserError(
            f"{run.folder}: its checkpoint does not fit this training ({error}). Give `overwrite` to start again."
        ) from error
    console.say(f"Going on from iteration {progress.iteration} ({progress.elapsed_s / 60:.1f} minutes of training done).")
    return progress


def _shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Of what is in a batch."""
    channels = {"image": len(plan.channels), "distances": plan.dataset.distance_maps}
    return {name: (plan.training.batch_size, count, *plan.patch_size) for name, count in channels.items()}


def _epoch(progress: float) -> int:
    return int(progress * EPOCHS + 1e-9)


def _is_validated(epoch: int) -> bool:
    """Sampling costs time: every fourth epoch, and the last."""
    return epoch % 4 == 0


def _say_if_collapsed(dice: dict[str, float], progress: float) -> None:
    lost = [name for name, value in dice.items() if value < COLLAPSE_DICE]
    if lost and progress >= 0.5:
        console.warn(
            f"validation Dice of {', '.join(lost)} is 0 at {progress:.0%} of the training: not found. "
            "Check the labels of these cases, or train longer."
        )


def _compiled(network: nn.Module) -> nn.Module:
    """torch.compile, or the network as it is if compiling fails."""
    import torch._dynamo

    torch._dynamo.config.suppress_errors = True
    return torch.compile(network)  # type: ignore[return-value]
