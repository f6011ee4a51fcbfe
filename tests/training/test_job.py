"""A whole training in a process of its own: SIGTERM ends it with a checkpoint, and the same command goes on from
there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from diffatlas_pipeline.api.preparation import plan_and_preprocess
from diffatlas_pipeline.commands import train
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import Stopped
from diffatlas_pipeline.training.checkpoints import LATEST, load_checkpoint
from diffatlas_pipeline.training.job import run_training
from diffatlas_pipeline.training.options import TrainingOptions
from tests.planning.raw_data import write_dataset

ITERATIONS = 20


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("workspace")
    write_dataset(place / "raw", cases=3)
    plan_and_preprocess(7, workspace=place, device="cpu", workers=1)
    return place


def words_of(workspace: Path, *words: str) -> list[str]:
    """The arguments of a small training."""
    made = ["7", "fold0", "--iterations", str(ITERATIONS), "--device", "cpu", "--precision", "float32", "--no-validation"]
    return [*made, "--workspace", str(workspace), *words]


def started(workspace: Path, *words: str) -> subprocess.Popen[str]:
    call = [sys.executable, "-m", "diffatlas_pipeline", "train", *words_of(workspace, *words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(  # a group of its own, as a job scheduler signals it: workers hear the signal, too
        call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.slow
def test_sigterm_ends_with_a_checkpoint_from_which_it_goes_on(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = workspace / "results" / "Dataset007_Balls" / "diffatlas__default" / "fold0"
    process = started(workspace)
    deadline = time.monotonic() + 240
    while not (folder / LATEST).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 143, error
    found = load_checkpoint(folder)
    assert found is not None
    iteration = found[1].iteration
    last = error.splitlines()[-1]
    assert last == f"Stopped at iteration {iteration}, with a checkpoint: the same training goes on from there."
    assert "Traceback" not in error and 0 < iteration < ITERATIONS
    assert pd.read_csv(folder / "log.csv")["iteration"].iloc[-1] == iteration
    capsys.readouterr()
    train.main(words_of(workspace, "--workers", "0"))
    assert f"Going on from iteration {iteration} " in capsys.readouterr().out
    assert (folder / "checkpoint_final.safetensors").is_file()


@pytest.mark.parametrize("validation", [True, False])
def test_sigterm_in_the_last_step_ends_it_after_the_fold_is_written(workspace: Path, validation: bool) -> None:
    """A step ends with the log, the picture and the checkpoint: the signal comes after the first of these."""
    fold = workspace / "results" / "Dataset007_Balls" / "diffatlas__default" / f"fold0_seed{1 + validation}"

    def signal_when_logged() -> None:
        while not (fold / "log.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    def outside(*_: object) -> None:
        raise AssertionError("the signal came after the training")

    options = TrainingOptions("7", "fold0", iterations=1, seed=1 + validation, device="cpu", precision="float32", workers=0)
    before, deadline = signal.signal(signal.SIGTERM, outside), time.monotonic() + 120
    sender = threading.Thread(target=signal_when_logged)
    sender.start()
    try:
        with pytest.raises(Stopped) as stopped:
            run_training(replace(options, validation=validation), Workspace.resolve(workspace))
    finally:
        sender.join()
        signal.signal(signal.SIGTERM, before)
    left = ", but its validation cases were not segmented: the same command does that" if validation else ""
    assert str(stopped.value) == f"Stopped. {fold.name} is trained and written{left}."
    assert (fold / "checkpoint_final.safetensors").is_file() and not (fold / "validation").exists()
    again = run_training(replace(options, validation=validation), Workspace.resolve(workspace))
    assert again.was_trained, "what was left over is made, and nothing else"
    assert (fold / "validation" / "summary.json").is_file() is validation
    assert (fold / "calibration.json").is_file() is validation
