"""Planning and training from a notebook: the same files as the commands make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from diffatlas_pipeline import UserError, plan_and_preprocess, train
from diffatlas_pipeline.commands import train as command
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.models.tensors import read_tensors
from diffatlas_pipeline.training.job import run_training
from diffatlas_pipeline.training.options import TrainingOptions
from tests.planning.raw_data import write_dataset

NAME = "Dataset007_Balls"
WEIGHTS = "checkpoint_final.safetensors"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("workspace")
    write_dataset(place / "raw", cases=5)
    folder = plan_and_preprocess(7, workspace=place, device="cpu", workers=1)
    assert folder == place / "preprocessed" / NAME and (folder / "plans.json").is_file()
    return place


def test_the_command_trains_the_same_weights(workspace: Path, tmp_path: Path) -> None:
    options = {"iterations": 3, "workers": 0, "device": "cpu", "validation": False, "precision": "float32"}
    model = train(7, 0, workspace=workspace, **options)  # type: ignore[arg-type]
    assert model == workspace / "results" / NAME / "diffatlas__default"
    from_notebook, _ = read_tensors(model / "fold0" / WEIGHTS)
    words = ["--iterations", "3", "--workers", "0", "--device", "cpu", "--no-validation", "--precision", "float32"]
    command.main(["7", "fold0", *words, "--overwrite", "--workspace", str(workspace)])
    from_command, _ = read_tensors(model / "fold0" / WEIGHTS)
    assert from_notebook.keys() == from_command.keys()
    assert all(torch.equal(from_notebook[name], from_command[name]) for name in from_command)


def test_what_is_trained_already_is_left_as_it_is(workspace: Path) -> None:
    options = TrainingOptions("7", "1", iterations=1, workers=0, device="cpu", validation=False)
    made = run_training(options, Workspace.resolve(workspace))
    assert made.fold == "fold1" and not made.was_trained and made.better_with_atlases
    before = (made.model / "fold1" / WEIGHTS).stat().st_mtime_ns
    again = run_training(options, Workspace.resolve(workspace))
    assert again.was_trained and again.model == made.model
    assert (made.model / "fold1" / WEIGHTS).stat().st_mtime_ns == before


def test_time_is_given_in_seconds_or_in_words(workspace: Path) -> None:
    for fold, time in ((2, "1s"), (3, 1.0)):
        model = train(7, fold, max_time=time, workspace=workspace, workers=0, device="cpu", validation=False)
        metadata = json.loads((model / f"fold{fold}" / "checkpoint_final.json").read_text())
        assert metadata["max_time_s"] == 1.0 and metadata["seconds"] >= 1


def test_messages_name_parameters(workspace: Path) -> None:
    with pytest.raises(UserError, match="`num_cases` 99: fold0 has 4 training cases"):
        train(7, 0, num_cases=99, workspace=workspace)
    with pytest.raises(UserError, match="`memory_gb` 0: a number above 0"):
        plan_and_preprocess(7, memory_gb=0, workspace=workspace)
    with pytest.raises(UserError, match="`device` toaster: a plan is for a kind of device"):
        plan_and_preprocess(7, device="toaster", workspace=workspace)
    with pytest.raises(UserError, match=r"Run `plan_and_preprocess\('8'\)` first"):
        train(8, 0, workspace=workspace)
