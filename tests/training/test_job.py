"""A whole training in a process of its own: SIGTERM ends it with a checkpoint, and the same command goes on from
there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from diffatlas_pipeline.api.preparation import plan_and_preprocess
from diffatlas_pipeline.training.checkpoints import LATEST, load_checkpoint
from tests.planning.raw_data import write_dataset

ITERATIONS = 40


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("workspace")
    write_dataset(place / "raw", cases=3)
    plan_and_preprocess(7, workspace=place, device="cpu", workers=1)
    return place


def started(workspace: Path, *words: str) -> subprocess.Popen[str]:
    call = [sys.executable, "-m", "diffatlas_pipeline", "train", "7", "fold0", "--iterations", str(ITERATIONS)]
    call += ["--device", "cpu", "--precision", "float32", "--no-validation", "--workspace", str(workspace), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(  # a group of its own, as a job scheduler signals it: workers hear the signal, too
        call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.slow
def test_sigterm_ends_with_a_checkpoint_from_which_it_goes_on(workspace: Path) -> None:
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
    out, error = started(workspace).communicate(timeout=240)
    assert f"Going on from iteration {iteration} " in out, error
    assert (folder / "checkpoint_final.safetensors").is_file()
