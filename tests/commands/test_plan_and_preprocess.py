from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline.commands.plan_and_preprocess import main
from diffatlas_pipeline.datasets.description import DatasetDescription
from diffatlas_pipeline.datasets.splits import load_splits
from diffatlas_pipeline.files import from_json
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.planning.fingerprint import Fingerprint
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.preprocessing.store import list_stored, open_case
from tests.model_files import plan as model_plan
from tests.planning.raw_data import ball_case, write_dataset, write_nifti

NAME = "Dataset007_Balls"


def command(workspace: Path, *options: str) -> None:
    main(["--workspace", str(workspace), "--device", "cpu", "--workers", "1", *options])


def refused(capsys: pytest.CaptureFixture[str], workspace: Path, *options: str) -> str:
    with pytest.raises(SystemExit) as stop:
        command(workspace, *options)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "raw", cases=6)
    return tmp_path


def test_from_raw_data_to_stored_cases(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(workspace, "-d", "7")
    folder = workspace / "preprocessed" / NAME
    output = capsys.readouterr().out
    assert (
        output.splitlines()[-1].endswith(f"Next: DiffAtlas_train 007 fold0 --workspace {workspace}") and str(folder) in output
    )
    assert "patch size" in output and "median over 6 cases" in output
    plan = from_json(Plan, (folder / "plans.json").read_text())
    description = from_json(DatasetDescription, (folder / "dataset.json").read_text())
    fingerprint = from_json(Fingerprint, (folder / "fingerprint.json").read_text())
    assert plan.dataset == description == fingerprint.description
    cases = [case.case for case in fingerprint.cases]
    assert sorted(list_stored(folder)) == cases
    splits = load_splits(folder / "splits.json", cases)
    assert set(splits) >= {"fold0", "fold1", "fold2", "fold3", "fold4", "all", "2-shot", "2-shot-seed1", "4-shot"}
    stored = open_case(folder, "case00")
    assert stored.verify() and np.asarray(stored.image[:]).shape[0] == 1
    assert np.asarray(stored.distances[:]).shape[0] == 2  # type: ignore[index]


def test_splits_that_a_data_set_brings_win_over_the_planned_ones(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = {"2-shot": {"train": ["case04", "case05"], "validation": ["case00"]}}
    file = workspace / "raw" / NAME / "splits.json"
    file.write_text(json.dumps(own))
    command(workspace, "-d", "007")
    splits = json.loads((workspace / "preprocessed" / NAME / "splits.json").read_text())
    assert splits["2-shot"] == own["2-shot"] and "4-shot" in splits
    file.write_text(json.dumps({"2-shot": {"train": ["nobody"], "validation": []}}))
    assert f"{file}: split '2-shot' names nobody" in refused(capsys, workspace, "-d", "007")


def test_the_same_again_resumes_and_another_plan_needs_overwrite(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(workspace, "-d", "007")
    folder = workspace / "preprocessed" / NAME
    plan = (folder / "plans.json").read_bytes()
    own = {"mine": {"train": ["case00"], "validation": ["case01"]}, "fold0": {"train": ["case02"], "validation": []}}
    (folder / "splits.json").write_text(json.dumps(own))
    kept, lost = folder / "cases/case00.image.b2nd", folder / "cases/case01.image.b2nd"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    command(workspace, "-d", NAME)
    assert (folder / "plans.json").read_bytes() == plan
    assert kept.stat().st_mtime_ns == before and lost.is_file()
    splits = json.loads((folder / "splits.json").read_text())
    assert own.items() <= splits.items() and {"fold1", "2-shot"} <= set(splits)
    message = refused(capsys, workspace, "-d", "7", "--memory-gb", "4")
    assert "another plan" in message and "budget" in message and "--overwrite" in message
    assert (folder / "plans.json").read_bytes() == plan
    command(workspace, "-d", "7", "--memory-gb", "4", "--overwrite")
    assert from_json(Plan, (folder / "plans.json").read_text()).budget.memory_gb == 4
    assert kept.stat().st_mtime_ns > before


def test_the_plan_of_an_earlier_release_is_the_same_plan(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It gave other reasons, and did not know an option that has been added since; its cases are kept."""
    command(workspace, "-d", "007")
    folder = workspace / "preprocessed" / NAME
    plan = (folder / "plans.json").read_text()
    kept = folder / "cases/case00.image.b2nd"
    before = kept.stat().st_mtime_ns
    old = json.loads(plan)
    old["why"]["spacing"] = "of old"
    for recipe in old["recipes"]["diffatlas"].values():
        assert recipe["levels"].pop("missing_channel") == 0
    (folder / "plans.json").write_text(json.dumps(old))
    command(workspace, "-d", "007")
    assert (folder / "plans.json").read_text() == plan and kept.stat().st_mtime_ns == before
    for change, said in (({"spacing_mm": [9.0, 9.0, 9.0]}, "spacing_mm"), ({"new": 1}, "this release does not know")):
        (folder / "plans.json").write_text(json.dumps(json.loads(plan) | change))
        assert said in refused(capsys, workspace, "-d", "007")


def test_an_unchanged_data_set_is_not_measured_again(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, raw = workspace / "preprocessed" / NAME, workspace / "raw" / NAME

    def measured(*options: str) -> bool:
        """Whether the command opened the raw files again; it must say so, and the files it writes must not differ."""
        command(workspace, "-d", "7", *options)
        output = capsys.readouterr().out
        assert ("unchanged since 20" in output) != ("checked 6" in output and "measured in" in output)
        return "unchanged since" not in output

    assert measured()
    first = {name: (folder / name).read_bytes() for name in ("plans.json", "fingerprint.json", "measured.json")}
    assert not measured()
    assert first == {name: (folder / name).read_bytes() for name in first}

    (folder / "fingerprint.json").write_bytes(first["fingerprint.json"].replace(b'"MRI"', b'"CT"'))
    assert measured() and (folder / "fingerprint.json").read_bytes() == first["fingerprint.json"]
    (folder / "measured.json").write_text("{")
    assert measured() and not measured()
    os.utime(raw / "labelsTr/case02.nii.gz", ns=(1, 1))  # another file under the same name
    assert measured() and not measured()
    assert measured("--overwrite") and not measured()
    (raw / "imagesTr/case02_0000.nii.gz").write_bytes(b"no image")
    assert "case02" in refused(capsys, workspace, "-d", "7")


def test_splits_follow_changed_cases_only_when_overwriting(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(workspace, "-d", "7")
    raw = workspace / "raw" / NAME
    (raw / "imagesTr/case05_0000.nii.gz").unlink()
    (raw / "labelsTr/case05.nii.gz").unlink()
    description = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps(description | {"numTraining": 5}))
    command(workspace, "-d", "7", "--overwrite")
    splits = load_splits(workspace / "preprocessed" / NAME / "splits.json", [f"case0{i}" for i in range(5)])
    assert "case05" not in splits["all"].train


def test_several_data_sets_and_a_path(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = write_dataset(workspace / "elsewhere", cases=1, name="Dataset008_One", dimensions=2, shape=(40, 44, 1))
    command(workspace, "-d", "7", "-d", str(elsewhere))
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert "DiffAtlas_train 007" in lines[0] and f"DiffAtlas_train {elsewhere} fold0" in lines[1]
    plan = from_json(Plan, (workspace / "preprocessed/Dataset008_One/plans.json").read_text())
    assert plan.dimensions == 2 and plan.patch_size[2] == 1
    assert "nothing is left to validate" in plan.why["folds"]


def test_a_bad_data_set_does_not_stop_the_others(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(workspace / "raw", cases=2, name="Dataset001_Damaged")
    (workspace / "raw/Dataset001_Damaged/imagesTr/case01_0000.nii.gz").write_bytes(b"no image")
    with pytest.raises(SystemExit) as stop:
        command(workspace, "-d", "1", "-d", "9", "-d", "7")
    output, error = capsys.readouterr()
    assert stop.value.code == 2
    assert error.startswith("Error: 2 of 3 data sets cannot be used; the others are done.\n")
    assert "1 of 2 cases" in error and "case01" in error and "no such raw data set" in error
    assert output.count("listed at the end") == 2 and "DiffAtlas_train 007 fold0" in output.splitlines()[-1]
    assert len(list_stored(workspace / "preprocessed" / NAME)) == 6
    assert not (workspace / "preprocessed/Dataset001_Damaged").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-d", "9"], "no such raw data set"),
        (["-d", "7", "--preset", "huge"], "Unknown preset 'huge'"),
        (["-d", "7", "--memory-gb", "0"], "above 0"),
        (["-d", "7", "--memory-gb", "0.0001"], "--memory-gb"),
        (["-d", "7", "--workers", "0"], "at least 1"),
    ],
)
def test_wrong_options_are_one_line(
    workspace: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    error = refused(capsys, workspace, *options)
    assert error.startswith("Error: ") and message in error and "Traceback" not in error
    assert not (workspace / "preprocessed").exists()


def test_bad_cases_are_refused_before_anything_is_written(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = workspace / "raw" / NAME
    (raw / "imagesTr/case01_0000.nii.gz").write_bytes(b"no image")
    write_nifti(raw / "labelsTr/case02.nii.gz", ball_case()[1], np.diag([1.0, 1.0, 3.0, 1.0]))
    write_nifti(raw / "labelsTr/case03.nii.gz", ball_case()[1] + np.uint8(1), np.eye(4))
    error = refused(capsys, workspace, "-d", "7")
    assert all(case in error for case in ("3 of 6 cases", "case01", "case02", "case03"))
    assert not (workspace / "preprocessed").exists()


def test_a_folder_must_carry_a_number(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move(workspace / "raw" / NAME, workspace / "Balls")
    assert "DatasetXXX_Name" in refused(capsys, workspace, "-d", str(workspace / "Balls"))


def test_an_unwritable_workspace_is_explained(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "preprocessed").write_text("a file in the way")
    assert "cannot be written" in refused(capsys, workspace, "-d", "7")


def test_help_is_quick_and_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["-h"])
    assert stop.value.code == 0 and "DiffAtlas_plan_and_preprocess -d 001" in capsys.readouterr().out


def test_a_plan_like_that_of_a_model(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = model_plan()
    model = ModelFolder.create(workspace / "model", made).path
    command(workspace, "-d", "7", "--like", str(shutil.make_archive(str(workspace / "packed"), "zip", model)))
    plan = from_json(Plan, (workspace / "preprocessed" / NAME / "plans.json").read_text())
    assert (plan.network, plan.patch_size, plan.distance) == (made.network, made.patch_size, made.distance)
    assert plan.dataset != made.dataset and "as in the plan that this one is to be like" in capsys.readouterr().out
    command(workspace, "-d", "7", "--like", str(model))
    assert "another plan is already there" in refused(capsys, workspace, "-d", "7")
    assert "is not a model folder" in refused(capsys, workspace, "-d", "7", "--like", str(workspace))
    assert "no such file or folder" in refused(capsys, workspace, "-d", "7", "--like", str(workspace / "model.zip"))
