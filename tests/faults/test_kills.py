"""kill -9 in the middle of the work: the same command again comes to the very same files."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline.commands import plan_and_preprocess, train
from tests.faults.processes import killed_after, run
from tests.planning.raw_data import write_dataset

KILLS = int(os.environ.get("DIFFATLAS_TEST_KILLS", "1"))  # of each command; 20 are a long round
SHARED_MEMORY = Path("/dev/shm")


def bytes_below(folder: Path) -> dict[str, bytes]:
    """Of all files but hidden ones: a killed process may leave one half written, which no one reads."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def left_in_memory() -> set[str]:
    names = [path.name for path in SHARED_MEMORY.iterdir()] if SHARED_MEMORY.is_dir() else []
    return {name for name in names if name.startswith(("torch_", "sem."))}


def kill_at_random(seconds: float, command: str, *words: object, alone: bool = False) -> None:
    """Kill the command ``KILLS`` times, somewhere in its ``seconds``, each time going on with what is there."""
    rng = np.random.default_rng(0)
    for _ in range(KILLS):
        killed_after(float(rng.uniform(0.3, 1.0)) * seconds, command, *words, alone=alone)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("workspace")
    write_dataset(place / "raw", cases=6)
    return place


@pytest.fixture(scope="module")
def prepared(workspace: Path) -> float:
    """The seconds that preparing takes."""
    start = time.monotonic()
    done = run("plan_and_preprocess", "-d", 7, "--device", "cpu", "--workers", 1, "--workspace", workspace)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - start


@pytest.mark.slow
def test_killed_while_preprocessing(workspace: Path, prepared: float, tmp_path: Path) -> None:
    shutil.copytree(workspace / "raw", tmp_path / "raw")
    words = ("-d", 7, "--device", "cpu", "--workers", 1, "--workspace", tmp_path)
    kill_at_random(prepared, "plan_and_preprocess", *words)
    plan_and_preprocess.main([str(word) for word in words])
    expected, found = (bytes_below(place / "preprocessed" / "Dataset007_Balls") for place in (workspace, tmp_path))
    assert expected.keys() == found.keys()
    same = [name for name in expected if name != "measured.json"]  # it says when
    assert len(same) > 12 and not [name for name in same if expected[name] != found[name]]


@pytest.mark.slow
def test_killed_while_predicting(workspace: Path, prepared: float, tmp_path: Path) -> None:
    few = ["--iterations", "1", "--workers", "0", "--precision", "float32", "--no-validation"]
    train.main(["7", "fold0", *few, "--device", "cpu", "--workspace", str(workspace)])
    scans = workspace / "raw" / "Dataset007_Balls" / "imagesTr"
    words = ("-i", scans, "--workspace", workspace, "--device", "cpu", "--precision", "float32")
    start = time.monotonic()
    assert run("predict", *words, "-o", tmp_path / "whole").returncode == 0
    kill_at_random(time.monotonic() - start, "predict", *words, "-o", tmp_path / "killed")
    there = {path.name.removesuffix(".nii.gz") for path in (tmp_path / "killed").glob("[!.]*.nii.gz")}
    record = tmp_path / "killed" / "prediction.json"
    known = json.loads(record.read_text(encoding="utf-8"))["cases"] if record.is_file() else {}
    assert {*known} <= there and len(there - {*known}) <= 2, "the record follows each case, or few"
    last = run("predict", *words, "-o", tmp_path / "killed")
    assert last.returncode == 0, last.stderr
    expected, found = (bytes_below(tmp_path / name) for name in ("whole", "killed"))
    assert expected.keys() == found.keys(), expected.keys() ^ found.keys()
    assert all(expected[name] == found[name] for name in expected if name.endswith(".nii.gz"))
    record = json.loads(found["prediction.json"])
    assert len(record["cases"]) == 6 and {case["status"] for case in record["cases"].values()} <= {"segmented", "kept"}


@pytest.mark.slow
@pytest.mark.skipif("DIFFATLAS_TEST_KILLS" not in os.environ, reason="one kill is tests/commands/test_train.py's")
def test_killed_while_training(workspace: Path, prepared: float, tmp_path: Path) -> None:
    before, start = left_in_memory(), time.monotonic()
    expected = trained(workspace, tmp_path / "whole", kill_within_s=0)
    found = trained(workspace, tmp_path / "killed", kill_within_s=time.monotonic() - start)
    assert expected == found
    new, deadline = left_in_memory() - before, time.monotonic() + 60
    while new & left_in_memory() and time.monotonic() < deadline:  # those of other tests go, too
        time.sleep(0.5)
    assert not new & left_in_memory()


def trained(workspace: Path, place: Path, kill_within_s: float) -> bytes:
    """The weights that a training of 40 iterations comes to."""
    shutil.copytree(workspace / "preprocessed", place / "preprocessed")
    words = ["7", "fold0", "--iterations", 40, "--device", "cpu", "--precision", "float32", "--no-validation"]
    words += ["--workers", 1, "--workspace", place]
    if kill_within_s:
        kill_at_random(kill_within_s, "train", *words, alone=True)
    done = run("train", *words)
    assert done.returncode == 0, done.stderr
    fold = place / "results" / "Dataset007_Balls" / "diffatlas__default" / "fold0"
    return (fold / "checkpoint_final.safetensors").read_bytes()
