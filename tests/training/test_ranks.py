"""Several processes that train together compute what one computes, and end together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffatlas_pipeline.commands import _ranks
from diffatlas_pipeline.commands import train as command
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.training.checkpoints import LATEST, load_checkpoint
from diffatlas_pipeline.training.loop import train
from diffatlas_pipeline.training.ranks import ALONE
from tests.training.rank_program import gradients
from tests.training.test_job import started, words_of, workspace  # noqa: F401 (a fixture)
from tests.training.test_loop import batches, method, run

ITERATIONS = 20


def together(folder: Path, iterations: int = ITERATIONS, count: int = 2) -> None:
    """Train in ``folder`` by so many processes."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = [sys.executable, "-m", "tests.training.rank_program", str(folder), str(iterations)]
    started = [
        subprocess.Popen(
            words, env={**os.environ, **world, "RANK": str(rank)}, stderr=subprocess.PIPE, encoding="utf-8", errors="replace"
        )
        for rank in range(count)
    ]
    for process in started:
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """Gradients of the first step; losses and weights of twenty, with own answers among the samples."""
    alone = train(method(), run(tmp_path / "one", ITERATIONS), batches, None).weights
    together(tmp_path / "two")
    first, second = (load_file(tmp_path / "two" / f"rank{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first), "bitwise the same weights in both"
    logs = [pd.read_csv(tmp_path / side / "log.csv").drop(columns="seconds") for side in ("one", "two")]
    assert list(logs[0].columns) == list(logs[1].columns)
    np.testing.assert_allclose(logs[0], logs[1], rtol=2e-3, atol=2e-4)
    for name, weights in alone.items():
        atol = 2e-2 if name.endswith("bias") else 2e-3  # the gradient of one before a normalisation is rounding alone
        torch.testing.assert_close(first[name], weights, rtol=1e-2, atol=atol, msg=name)
    expected, *found = gradients(), *(load_file(tmp_path / f"gradients{rank}.safetensors") for rank in range(2))
    for name, gradient in expected.items():
        assert torch.equal(found[0][name], found[1][name])
        torch.testing.assert_close(found[0][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_one_process_is_not_slowed_down() -> None:
    network = nn.Conv3d(1, 1, 1)
    assert ALONE.share(network, 1) is network and ALONE.agree(0.25, True) == (0.25, True) and ALONE.told(3) == 3
    one: list[dict[str, Tensor]] = [{"image": torch.ones(1)}]
    assert [*ALONE.deal(iter(one), {})] == one


def children_of(number: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes in /proc")
def test_a_killed_one_ends_all_and_the_training_goes_on_with_another_number(
    workspace: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = workspace / "results" / "Dataset007_Balls" / "diffatlas__default" / "fold0"
    process = started(workspace, "--iterations", "30", "--num-gpus", "2", "--workers", "0")
    wait_for(folder / LATEST, process)
    both = children_of(process.pid)
    assert len(both) == 2
    os.kill(both[1], signal.SIGKILL)
    start = time.monotonic()
    out, error = process.communicate(timeout=120)
    assert time.monotonic() - start < 60 and process.returncode == 2
    assert "2 processes share each batch" in out
    assert "Process 2 of 2 was killed (signal 9)" in error and "Traceback" not in error
    assert not any(Path(f"/proc/{number}").exists() for number in both)
    found = load_checkpoint(folder)
    assert found is not None and 0 < found[1].iteration < 30
    capsys.readouterr()
    command.main(words_of(workspace, "--iterations", "30", "--workers", "0"))
    assert f"Going on from iteration {found[1].iteration} " in capsys.readouterr().out
    assert (folder / "checkpoint_final.safetensors").is_file()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system must tell that a process is stopped")
def test_one_that_stands_still_is_killed_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ranks, "LOOK_S", 0.1)
    monkeypatch.setattr(_ranks, "ENDING_S", 0.5)

    def start(command: str, words: object, rank: int, *_: object) -> subprocess.Popen[bytes]:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
        if rank == 1:
            os.kill(child.pid, signal.SIGSTOP)
        return child

    monkeypatch.setattr(_ranks, "_start", start)
    began = time.monotonic()
    with pytest.raises(UserError, match="Process 2 of 2 was stopped by a signal and stood still, so the others were ended"):
        _ranks.run_ranks("train", [], 2, on_cpu=True)
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_and_too_many_are_refused(
    workspace: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = workspace / "results" / "Dataset007_Balls" / "diffatlas__default" / "fold0_seed1"
    process = started(workspace, "--iterations", "30", "--num-gpus", "2", "--seed", "1")
    wait_for(folder / LATEST, process)
    process.terminate()
    _, error = process.communicate(timeout=120)
    assert process.returncode == 143 and "Traceback" not in error, error
    found = load_checkpoint(folder)
    assert found is not None and 0 < found[1].iteration < 30
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command.main(words_of(workspace, "--iterations", "2", "--num-gpus", "9", "--seed", "2"))
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert "--num-gpus 9: the plan's batches have" in error and error.count("Error") == 1 and "Traceback" not in error
