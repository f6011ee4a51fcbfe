"""What users get wrong most often gives one clear message and a non-zero exit, never a traceback, through the real
commands.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from diffatlas_pipeline.commands import benchmark, evaluate, plan_and_preprocess, predict, train
from tests.planning.raw_data import write_dataset

NAME = "Dataset007_Balls"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one data set, planned, and fold0 trained for two iterations."""
    workspace = tmp_path_factory.mktemp("workspace")
    write_dataset(workspace / "raw", cases=5)
    shared = ["--workspace", str(workspace), "--device", "cpu"]
    plan_and_preprocess.main(["-d", "7", "--workers", "1", *shared])
    train.main(["7", "fold0", "--iterations", "2", "--workers", "0", "--no-validation", *shared])
    return workspace


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "raw", cases=3)
    return tmp_path / "raw" / NAME


def message(capsys: pytest.CaptureFixture[str], command: object, *options: object) -> str:
    """What is printed to stderr by a call that must fail."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command.main([str(option) for option in options])  # type: ignore[attr-defined]
    assert stop.value.code not in (0, None)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def plan(capsys: pytest.CaptureFixture[str], raw: Path) -> str:
    return message(
        capsys, plan_and_preprocess, "-d", "7", "--workspace", raw.parent.parent, "--device", "cpu", "--workers", "1"
    )


def rewrite(path: Path, change: object) -> None:
    image = nib.load(path)
    data, affine = change(np.asarray(image.dataobj), image.affine.copy())  # type: ignore[operator]
    nib.save(nib.Nifti1Image(data, affine), path)


def test_unknown_data_set(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = message(capsys, plan_and_preprocess, "-d", "99", "--workspace", trained, "--device", "cpu")
    assert "'99'" in error and NAME in error
    assert "'99'" in message(capsys, train, "99", "fold0", "--workspace", trained)


def test_missing_channel(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description = json.loads((raw / "dataset.json").read_text())
    description["channel_names"] = {"0": "T1", "1": "T2"}
    (raw / "dataset.json").write_text(json.dumps(description))
    error = plan(capsys, raw)
    assert "_0001" in error and "case00" in error


def test_label_outside_dataset_json(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sorted((raw / "labelsTr").iterdir())[1]
    rewrite(path, lambda data, affine: (np.where(data == data.max(), 77, data).astype(np.uint8), affine))
    error = plan(capsys, raw)
    assert "77" in error and path.name.removesuffix(".nii.gz") in error


def test_image_and_label_on_different_grids(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sorted((raw / "labelsTr").iterdir())[2]

    def shift(data: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        affine[0, 3] += 5
        return data, affine

    rewrite(path, shift)
    error = plan(capsys, raw)
    assert path.name.removesuffix(".nii.gz") in error and "mm" in error


def test_corrupt_file(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sorted((raw / "imagesTr").iterdir())[0]
    path.write_bytes(path.read_bytes()[:200])
    assert path.name in plan(capsys, raw)


def test_untrained_fold(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = trained / "raw" / NAME / "imagesTr"
    error = message(capsys, predict, "-i", images, "-o", tmp_path / "out", "-f", "3", "--workspace", trained)
    assert "fold3" in error and "fold0" in error


def test_empty_input_folder(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    error = message(capsys, predict, "-i", tmp_path / "in", "-o", tmp_path / "out", "--workspace", trained)
    assert str(tmp_path / "in") in error


def test_a_corrupt_scan_does_not_stop_the_others(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    scans = sorted((trained / "raw" / NAME / "imagesTr").iterdir())[:2]
    for scan in scans:
        (tmp_path / "in" / scan.name).write_bytes(scan.read_bytes())
    broken = tmp_path / "in" / scans[0].name
    broken.write_bytes(broken.read_bytes()[:300])
    error = message(capsys, predict, "-i", tmp_path / "in", "-o", tmp_path / "out", "--workspace", trained, "--device", "cpu")
    assert broken.name in error
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1


def test_unwritable_output(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    images = trained / "raw" / NAME / "imagesTr"
    error = message(capsys, predict, "-i", images, "-o", tmp_path / "file" / "out", "--workspace", trained)
    assert str(tmp_path / "file") in error
    labels = trained / "raw" / NAME / "labelsTr"
    error = message(capsys, evaluate, "-p", labels, "-r", labels, "-o", tmp_path / "file" / "out", "--workers", "1")
    assert str(tmp_path / "file") in error


def test_a_workspace_without_a_model(tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = trained / "raw" / NAME / "imagesTr"
    error = message(capsys, predict, "-i", images, "-o", tmp_path / "out", "--workspace", tmp_path)
    assert "DiffAtlas_train" in error


def test_unlabelled_scans_for_a_recipe_that_learns_nothing_of_them(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "7",
        "2-shot",
        "--workspace",
        trained,
        "--device",
        "cpu",
        "--workers",
        "0",
        "--no-validation",
        "--iterations",
        "1",
    ]
    error = message(capsys, train, *options, "--unlabelled-from", "fold0")
    assert "--unlabelled-from: diffatlas (default) learns nothing of unlabelled scans" in error
    path = trained / "preprocessed" / NAME / "plans.json"
    before = path.read_text()
    plan = json.loads(before)
    of_joint = plan["recipes"]["diffatlas"]
    of_joint["unlabelled"] = of_joint["default"] | {"unlabelled_fraction": 0.5}
    try:
        path.write_text(json.dumps(plan))
        error = message(capsys, train, *options, "--recipe", "unlabelled", "--unlabelled-from", "nowhere")
        assert "no such split. There are fold0" in error
        train.main([str(word) for word in [*options, "--recipe", "unlabelled", "--unlabelled-from", "fold0"]])
        assert "2 unlabelled scans are 50% of what it sees" in capsys.readouterr().out
    finally:
        path.write_text(before)


def test_a_plan_with_values_that_cannot_be_trained(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained / "preprocessed" / NAME / "plans.json"
    before = path.read_text()
    plan = json.loads(before)
    recipes = plan["recipes"]["diffatlas"]
    recipes["mine"] = recipes["default"] | {"objective": {"prediction": "noise"}}
    shared = ["--workspace", trained, "--device", "cpu", "--max-time", "1m"]
    try:
        path.write_text(json.dumps(plan | {"patch_size": [17, 17, 17]}))
        for error in (
            message(capsys, train, "7", "all", "--recipe", "mine", *shared),
            message(capsys, benchmark, "-d", "7", "--methods", "icf", "--settings", "full", *shared),
        ):
            assert str(path) in error and "2 value(s)" in error
            assert "objective.prediction 'noise'; must be one of epsilon, v, x0" in error and "patch_size 17 x 17 x 17" in error
    finally:
        path.write_text(before)


def test_more_sampling_steps_than_training_steps(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = trained / "raw" / NAME / "imagesTr"
    options = ["-i", raw, "-o", tmp_path / "out", "--workspace", trained, "--device", "cpu", "--recipe", "default"]
    error = message(capsys, predict, *options, "--steps", "5000")
    assert "--steps 5000" in error and "training steps" in error


def test_prediction_with_a_method_that_is_not_trained(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = trained / "raw" / NAME / "imagesTr"
    options = ["-i", scans, "-o", tmp_path / "out", "--workspace", trained, "--device", "cpu"]
    for method in ("icf", "rba"):
        error = message(capsys, predict, *options, "--method", method)
        assert method in error and "diffatlas" in error and "DiffAtlas_train" in error, error
    assert not (tmp_path / "out").exists()
