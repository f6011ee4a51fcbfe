"""DiffAtlas_train through its command: a model that predicts, a kill that is survived, mistakes that are explained."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from diffatlas_pipeline.commands import plan_and_preprocess, predict, train
from diffatlas_pipeline.methods.registry import SYNTHETIC_SHARE
from diffatlas_pipeline.models.folder import WEIGHTS
from diffatlas_pipeline.models.tensors import read_tensors
from diffatlas_pipeline.training.checkpoints import LATEST
from tests.planning.raw_data import change_description, write_dataset

NAME = "Dataset007_Balls"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with six small planned cases."""
    workspace = tmp_path_factory.mktemp("workspace")
    write_dataset(workspace / "raw", cases=6)
    plan_and_preprocess.main(["--workspace", str(workspace), "--device", "cpu", "--workers", "1", "-d", "7"])
    return workspace


def command(workspace: Path, *options: str) -> None:
    train.main(["--workspace", str(workspace), "--device", "cpu", "--workers", "0", *options])


def refused(capsys: pytest.CaptureFixture[str], workspace: Path, *options: str) -> str:
    with pytest.raises(SystemExit) as stop:
        command(workspace, *options)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_from_plan_to_a_model_that_predicts(planned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(planned, "007", "fold0", "--iterations", "6")
    folder = planned / "results" / NAME / "diffatlas__default" / "fold0"
    assert (folder / WEIGHTS).is_file() and (folder / "progress.png").is_file()
    assert not (folder / LATEST).exists()
    metadata = json.loads((folder / "checkpoint_final.json").read_text())
    assert metadata["iterations"] == 6 and metadata["fold"] == "fold0"
    assert metadata["precision"] in ("float32", "bfloat16"), "what was taken, not 'auto'"
    assert set(metadata["training_cases"]).isdisjoint(metadata["validation_cases"])
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    cases = pd.read_csv(folder / "validation" / "cases.csv")
    assert set(cases["case"]) == set(metadata["validation_cases"]) and summary
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith("Next: DiffAtlas_predict") and "--with-atlases is likely" in out.splitlines()[-2]
    predict.main(["-i", str(planned / "raw" / NAME / "imagesTr"), "-o", str(tmp_path), "--workspace", str(planned)])
    assert len(list(tmp_path.glob("*.nii.gz"))) == 6
    command(planned, "007", "0", "--iterations", "6")
    assert "trained already" in capsys.readouterr().out


def test_a_model_of_any_contrast_needs_no_registration(
    planned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has a folder of its own, and says at prediction that another modality is shown as it is."""
    command(planned, "7", "fold0", "--any-contrast", "--iterations", "2", "--num-cases", "2", "--no-validation")
    folder = planned / "results" / NAME / "diffatlas__any-contrast"
    metadata = json.loads((folder / "fold0_2cases" / "checkpoint_final.json").read_text())
    assert metadata["recipe"] == "any-contrast"
    assert (
        json.loads((folder / "plans.json").read_text())["recipes"]["diffatlas"]["any-contrast"]["any_contrast"]
        == SYNTHETIC_SHARE
    )
    capsys.readouterr()
    scan = next((planned / "raw" / NAME / "imagesTr").iterdir())
    predict.main(["-i", str(scan), "-o", str(tmp_path), "-m", str(folder), "--modality", "CT", "--device", "cpu"])
    assert "learnt any contrast: the scans are shown to it as they are" in capsys.readouterr().out
    record = json.loads((tmp_path / "prediction.json").read_text())
    assert (record["adapt_contrast"], record["with_atlases"], record["modality"]) == ("off", False, "CT")
    again = ["--overwrite", "--adapt-contrast", "atlases"]
    predict.main(["-i", str(scan), "-o", str(tmp_path), "-m", str(folder), "--modality", "CT", "--device", "cpu", *again])
    assert "are given the contrast of the training scans" in capsys.readouterr().out


@pytest.mark.slow
def test_all_folds_are_trained_and_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three cases, whose names end like channels, make three folds. What is trained is left as it is, and mistakes are
    told before the first begins.
    """
    raw = write_dataset(tmp_path / "raw", cases=3)
    for path in sorted(raw.rglob("case*")):
        path.rename(path.with_name(path.name.replace("case", "scan_00")))
    plan_and_preprocess.main(["--workspace", str(tmp_path), "--device", "cpu", "--workers", "1", "-d", "7"])
    folder = tmp_path / "results" / NAME / "diffatlas__default"
    assert "give 1 to" in refused(capsys, tmp_path, "7", "all-folds", "--num-cases", "9") and not folder.exists()
    command(tmp_path, "7", "fold1", "--iterations", "2")
    kept = (folder / "fold1" / WEIGHTS).stat().st_mtime_ns
    capsys.readouterr()
    command(tmp_path, "7", "all-folds", "--iterations", "2")
    said = capsys.readouterr().out
    assert (folder / "fold1" / WEIGHTS).stat().st_mtime_ns == kept
    held_out = [pd.read_csv(folder / f"fold{n}" / "validation" / "cases.csv")["case"].unique() for n in range(3)]
    assert sorted(case for cases in held_out for case in cases) == ["scan_0000", "scan_0001", "scan_0002"]
    dice = [json.loads((folder / f"fold{n}" / "validation" / "summary.json").read_text())["mean"]["dice"] for n in range(3)]
    assert f"Cross-validation: mean Dice {sum(dice) / 3:.3f} of 3 held-out cases (fold0 {dice[0]:.3f}, " in said
    assert said.splitlines()[-1].endswith(f"-m {folder} (it averages all folds)")
    predict.main(["-i", str(tmp_path / "raw" / NAME / "imagesTr"), "-o", str(tmp_path / "out"), "--workspace", str(tmp_path)])
    assert json.loads((tmp_path / "out" / "prediction.json").read_text())["folds"] == ["fold0", "fold1", "fold2"]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in a process that is killed: sums of more threads differ in their last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_model(
    planned: Path, one_thread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL in the middle, then the same command: weights equal those of an undisturbed run."""
    options = ["007", "fold1", "--iterations", "20", "--workers", "0", "--device", "cpu", "--no-validation"]
    options += ["--precision", "float32"]  # else each run measures for itself which is faster
    call = [sys.executable, "-c", "from diffatlas_pipeline.commands.train import main; main()", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder = planned / "results" / NAME / "diffatlas__default" / "fold1"
    process = subprocess.Popen([*call, "--workspace", str(planned)], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / LATEST).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)  # meanwhile another one is not allowed
    try:
        assert f"running there already (process {process.pid}" in refused(capsys, planned, "007", "fold1")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (folder / LATEST).exists() and not (folder / WEIGHTS).exists(), "it was to be killed in the middle"
    capsys.readouterr()
    train.main([*options, "--workspace", str(planned)])
    assert "Going on from iteration" in capsys.readouterr().out
    resumed, _ = read_tensors(folder / WEIGHTS)
    train.main([*options, "--workspace", str(planned), "--overwrite"])
    assert "Going on" not in capsys.readouterr().out
    straight, _ = read_tensors(folder / WEIGHTS)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_mistakes_are_explained(planned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such preprocessed data set" in refused(capsys, planned, "9", "fold0")
    assert "There are fold0" in refused(capsys, planned, "7", "fold9")
    assert "default, paper" in refused(capsys, planned, "7", "fold0", "--recipe", "magic")
    assert "known are diffatlas" in refused(capsys, planned, "7", "fold0", "--method", "magic")
    assert "30m" in refused(capsys, planned, "7", "fold0", "--max-time", "soon")
    assert "give 1 to" in refused(capsys, planned, "7", "fold0", "--num-cases", "99")
    assert "at least 1" in refused(capsys, planned, "7", "fold0", "--iterations", "0")
    assert "--any-contrast: rba has no network" in refused(capsys, planned, "7", "fold0", "--method", "rba", "--any-contrast")
    assert "not a device" in refused(capsys, planned, "7", "fold0", "--device", "toaster")
    own = tmp_path / "splits.json"
    own.write_text(json.dumps({"mine": {"train": ["nobody"], "validation": []}}))
    assert "nobody" in refused(capsys, planned, "7", "mine", "--splits-file", str(own))


def test_few_cases_and_own_splits_get_their_own_folder(planned: Path, tmp_path: Path) -> None:
    own = tmp_path / "splits.json"
    cases = sorted(path.name.removesuffix("_0000.nii.gz") for path in (planned / "raw" / NAME / "imagesTr").iterdir())
    own.write_text(json.dumps({"mine": {"train": cases[:3], "validation": []}}))
    command(planned, "7", "mine", "--splits-file", str(own), "--num-cases", "2", "--iterations", "1")
    metadata = planned / "results" / NAME / "diffatlas__default" / "mine_2cases" / "checkpoint_final.json"
    assert len(json.loads(metadata.read_text())["training_cases"]) == 2


def test_a_teacher_labels_scans_for_another_training(planned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "splits.json"
    cases = sorted(path.name.removesuffix("_0000.nii.gz") for path in (planned / "raw" / NAME / "imagesTr").iterdir())
    splits = {"few": {"train": cases[:2], "validation": [cases[5]]}, "pool": {"train": cases, "validation": []}}
    own.write_text(json.dumps(splits))
    few = ["7", "few", "--splits-file", str(own), "--iterations", "2", "--no-validation"]
    said = refused(capsys, planned, *few, "--teacher", "few", "--unlabelled-from", "pool")
    assert "--teacher few: not trained" in said and "Name a trained fold" in said and "`" not in said
    command(planned, *few)
    capsys.readouterr()
    command(planned, *few, "--teacher", "few", "--unlabelled-from", "pool", "--num-unlabelled", "2")
    assert "few labels 2 scans, with 2 training cases as atlases" in capsys.readouterr().out
    folder = planned / "results" / NAME / "diffatlas__default" / "few_taught"
    metadata = json.loads((folder / "checkpoint_final.json").read_text())
    assert metadata["teacher"] == "few" and metadata["training_cases"] == cases[:2]
    assert len(metadata["unlabelled_cases"]) == 2 and set(metadata["unlabelled_cases"]) < set(cases[2:5])
    assert not (folder / "taught").exists()
    teach = [*few, "--teacher", "few", "--overwrite"]
    assert "no scan to be labelled" in refused(capsys, planned, *teach)
    assert "give 1 to 3" in refused(capsys, planned, *teach, "--unlabelled-from", "pool", "--num-unlabelled", "9")
    assert "rba keeps its training cases" in refused(capsys, planned, *teach, "--unlabelled-from", "pool", "--method", "rba")
    assert "give a --teacher" in refused(capsys, planned, *few, "--method", "icf", "--unlabelled-from", "pool")
    assert "only a --teacher registers" in refused(capsys, planned, *few, "--registrations", str(tmp_path / "kept"))
    assert not (folder.parent.parent / "icf__default").exists(), "a model folder without a fold would mislead prediction"
    assert "--num-unlabelled: diffatlas (default) learns nothing" in refused(
        capsys, planned, *few, "--num-unlabelled", "2", "--overwrite"
    )
    assert (folder.parent / "few" / "checkpoint_final.json").is_file(), "what was refused has deleted nothing"
    command(planned, "7", "pool", *few[2:])
    leak = refused(capsys, planned, *few, "--teacher", "pool", "--unlabelled-from", "pool", "--overwrite")
    assert "trained on 1 case(s) that are to validate" in leak


def test_a_student_learns_the_look_of_another_modality(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_dataset(tmp_path / "raw", cases=4, channels=("CT",))
    (raw / "imagesUn").mkdir()
    (raw / "imagesTr" / "case03_0000.nii.gz").rename(raw / "imagesUn" / "scan_0000.nii.gz")
    (raw / "labelsTr" / "case03.nii.gz").unlink()
    change_description(raw, numTraining=3, unlabelled_modality="MRI")
    plan_and_preprocess.main(["--workspace", str(tmp_path), "--device", "cpu", "--workers", "1", "-d", "7"])
    command(tmp_path, "7", "all", "--iterations", "1")
    command(tmp_path, "7", "all", "--iterations", "1", "--teacher", "all")
    folder = tmp_path / "results" / NAME / "diffatlas__default"
    metadata = json.loads((folder / "all_taught" / "checkpoint_final.json").read_text())
    assert metadata["learnt_modalities"] == ["MRI"] and metadata["unlabelled_cases"] == ["scan"]
    scans = ["-i", str(raw / "imagesUn"), "--modality", "MRI", "--workspace", str(tmp_path)]
    adapted = "given the contrast of the training scans"
    capsys.readouterr()
    predict.main([*scans, "-o", str(tmp_path / "teacher"), "-f", "all"])
    assert adapted in capsys.readouterr().out
    predict.main([*scans, "-o", str(tmp_path / "student"), "-f", "all_taught"])
    assert adapted not in capsys.readouterr().out
