"""The loop: it learns, and a killed training goes on to the very same weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.methods.diffatlas import DiffAtlas
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.training.checkpoints import LATEST, load_checkpoint, save_checkpoint
from diffatlas_pipeline.training.log import TrainingLog
from diffatlas_pipeline.training.loop import Run, train
from diffatlas_pipeline.training.schedule import Duration
from tests.factories import make_plan, make_recipe

NETWORK = NetworkPlan((8, 16), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3),) * 2, (1, 1), (False, False), 16)
PLAN = make_plan(network=NETWORK, patch_size=(8, 8, 8))
CPU = torch.device("cpu")


def method(recipe: str = "default", optimiser: str = "muon") -> DiffAtlas:
    return DiffAtlas(replace(PLAN, training=replace(PLAN.training, optimiser=optimiser)), make_recipe(recipe))


def batch(iteration: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(iteration)
    ramp = torch.linspace(-1, 1, 8).reshape(1, 1, 8, 1, 1).expand(2, 1, 8, 8, 8)
    shift = torch.rand((2, 1, 1, 1, 1), generator=generator) - 0.5
    distances = torch.cat([ramp + shift, shift - ramp], dim=1).clamp(-1, 1)
    image = -distances[:, :1] + 0.1 * torch.randn((2, 1, 8, 8, 8), generator=generator)
    return {"image": image.clamp(-1, 1), "distances": distances}


@contextmanager
def batches(first: int, stop: int | None = None) -> Iterator[Iterator[dict[str, torch.Tensor]]]:
    def stream() -> Iterator[dict[str, torch.Tensor]]:
        iteration = first
        while True:
            if iteration == stop:
                raise KeyboardInterrupt
            yield batch(iteration)
            iteration += 1

    yield stream()


def run(folder: Path, iterations: int = 12, **changes: object) -> Run:
    settings = {"seed": 3, "iterations": iterations}
    made = Run(folder, Duration(iterations), 3, CPU, settings, precision="float32", quiet=True)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("recipe", "optimiser"), [("default", "muon"), ("paper", "muon"), ("default", "adamw")])
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path, recipe: str, optimiser: str) -> None:
    learnt = method(recipe, optimiser)
    straight = train(learnt, run(tmp_path / "a"), batches, None).weights
    with pytest.raises(KeyboardInterrupt):
        train(learnt, run(tmp_path / "b"), lambda first: batches(first, stop=5), None)
    resumed = train(learnt, run(tmp_path / "b"), batches, None).weights
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    logs = [pd.read_csv(tmp_path / side / "log.csv").drop(columns="seconds") for side in "ab"]
    pd.testing.assert_frame_equal(logs[0], logs[1])


def test_it_goes_on_from_the_previous_checkpoint_when_the_latest_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = train(method(), run(tmp_path / "a"), batches, None).weights
    with pytest.raises(KeyboardInterrupt):
        train(method(), run(tmp_path / "b"), lambda first: batches(first, stop=5), None)
    (tmp_path / "b" / LATEST).write_bytes(b"half a file")
    resumed = train(method(), run(tmp_path / "b"), batches, None).weights
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    said = capsys.readouterr()
    assert f"{LATEST} is damaged" in " ".join((said.out + said.err).split())


def test_it_does_not_start_over_when_all_checkpoints_are_damaged(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(method(), run(tmp_path), lambda first: batches(first, stop=9), None)
    damaged = sorted(tmp_path.glob("checkpoint_*.safetensors"))
    assert len(damaged) == 2
    for path in damaged:
        path.write_bytes(b"half a file")
    with pytest.raises(UserError, match="damaged"):
        train(method(), run(tmp_path), batches, None)
    assert all(path.read_bytes() == b"half a file" for path in damaged)


def test_a_whole_checkpoint_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(method(), run(tmp_path), lambda first: batches(first, stop=5), None)
    tensors, status, _ = load_checkpoint(tmp_path) or pytest.fail("no checkpoint")
    for lacking in ("generator", next(name for name in tensors if name.startswith("network."))):
        save_checkpoint(tmp_path, {name: tensor for name, tensor in tensors.items() if name != lacking}, status)
        with pytest.raises(UserError, match=r"checkpoint does not fit this training .*`overwrite`"):
            train(method(), run(tmp_path), batches, None)


def test_other_settings_are_refused_on_resuming(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(method(), run(tmp_path), lambda first: batches(first, stop=5), None)
    other = run(tmp_path, settings={"seed": 4, "iterations": 12})
    with pytest.raises(UserError, match=r"seed: was 3, now 4.*`overwrite`"):
        train(method(), other, batches, None)


def test_another_plan_alone_is_said_to_be_the_reason(tmp_path: Path) -> None:
    """Release 0.1 wrote other digests: nobody can give the same settings again."""
    settings = {"seed": 3, "iterations": 12, "plan": "55daf08f9a2d"}
    with pytest.raises(KeyboardInterrupt):
        train(method(), run(tmp_path, settings=settings), lambda first: batches(first, stop=5), None)
    with pytest.raises(
        UserError, match=r"plan or recipe was changed, or another release.* `overwrite` to start again"
    ) as stopped:
        train(method(), run(tmp_path, settings=settings | {"plan": "0123456789ab"}), batches, None)
    assert "same settings" not in str(stopped.value)
    with pytest.raises(UserError, match=r"seed: was 3, now 4; plan: was 55daf08f9a2d, now 0123456789ab.*same settings"):
        train(method(), run(tmp_path, settings={"seed": 4, "iterations": 12, "plan": "0123456789ab"}), batches, None)


def test_it_learns(tmp_path: Path) -> None:
    train(method(), run(tmp_path, iterations=150), batches, None)
    losses = pd.read_csv(tmp_path / "log.csv")["loss"]
    assert losses.iloc[-3:].mean() < 0.7 * losses.iloc[:3].mean()
    assert (tmp_path / "progress.png").stat().st_size > 10_000


def test_validation_sees_ema_weights_and_is_logged(tmp_path: Path) -> None:
    seen = []

    def validate(network: torch.nn.Module) -> dict[str, float]:
        seen.append(next(network.parameters()).detach().clone())
        return {"anterior": 0.25 * len(seen), "posterior": 0.5}

    weights = train(method(), run(tmp_path), batches, validate).weights
    log = pd.read_csv(tmp_path / "log.csv")
    assert log["dice_anterior"].dropna().tolist() == [0.25 * (i + 1) for i in range(len(seen))]
    assert not math.isnan(log["dice_anterior"].iloc[-1]), "the end is always validated"
    assert torch.equal(seen[-1], next(iter(weights.values())))


def test_a_lost_label_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(method(), run(tmp_path), batches, lambda network: {"anterior": 0.0, "posterior": 0.9})
    out = capsys.readouterr().out
    assert "anterior" in out and "posterior" not in out


def test_a_time_budget_ends_it(tmp_path: Path) -> None:
    made = replace(run(tmp_path, duration=Duration(10**9, seconds=5.0)), precision="float32")
    train(method(), made, batches, None)
    log = pd.read_csv(tmp_path / "log.csv")
    assert 5.0 <= log["seconds"].iloc[-1] < 30
    assert log["learning_rate"].iloc[-1] < 0.2 * log["learning_rate"].max()


@contextmanager
def broken(first: int) -> Iterator[Iterator[dict[str, torch.Tensor]]]:
    yield iter(lambda: {"image": torch.full((2, 1, 8, 8, 8), math.nan), "distances": torch.zeros(2, 2, 8, 8, 8)}, None)


@pytest.mark.parametrize(("iterations", "counted"), [(100, 10), (3, 3)])
def test_divergence_is_an_error_not_a_silent_nan(tmp_path: Path, iterations: int, counted: int) -> None:
    with pytest.raises(UserError, match=rf"diverged: {counted} batches in a row.*learning_rate"):
        train(method(), run(tmp_path, iterations=iterations), broken, None)


def test_a_batch_without_a_finite_gradient_is_skipped_counted_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def with_one_bad(first: int) -> Iterator[Iterator[dict[str, torch.Tensor]]]:
        bad = {name: tensor * math.nan if name == "image" else tensor for name, tensor in batch(2).items()}
        yield iter([batch(number) if number != 2 else bad for number in range(first, 6)])

    trained = train(method(), run(tmp_path, iterations=6), with_one_bad, None)
    assert trained.skipped == 1 and all(weight.isfinite().all() for weight in trained.weights.values())
    assert "1 of 6 batches had no finite gradient" in capsys.readouterr().out


@pytest.mark.parametrize("damage", [b"\xff\xfe\x00", b"iteration,loss\n1,not a number\n", b"loss\n1\n"])
def test_a_damaged_log_does_not_end_a_resumed_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: bytes
) -> None:
    (tmp_path / "log.csv").write_bytes(damage)
    log = TrainingLog(tmp_path, iteration=5)
    assert log.rows == [] and "log.csv is damaged" in capsys.readouterr().out
