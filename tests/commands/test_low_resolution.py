"""Coarse to fine through the real commands: a bright ball anywhere in a field of which a patch sees an eighth."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from diffatlas_pipeline.commands import export_model, plan_and_preprocess, predict, train
from diffatlas_pipeline.evaluation.metrics import dice
from diffatlas_pipeline.volumes.io import read_labels

pytestmark = pytest.mark.slow  # the trainings

NUMBER, NAME, FOLD = 1, "Dataset001_Ball", "all"
SIDE, RADIUS = 32, 5


def write_dataset(raw: Path) -> None:
    """Five scans to learn from, and one to segment."""
    rng = np.random.default_rng(0)
    for number in range(6):
        kind = "Tr" if number < 5 else "Ts"
        centre = rng.uniform(RADIUS, SIDE - RADIUS, 3).reshape(3, 1, 1, 1)
        labels = (((np.indices((SIDE,) * 3) - centre) ** 2).sum(axis=0) < RADIUS**2).astype(np.uint8)
        image = (rng.normal(size=labels.shape) * 30 + 300.0 * labels).astype(np.int16)
        for folder, array, name in (("images", image, f"ball_{number}_0000"), ("labels", labels, f"ball_{number}")):
            (raw / f"{folder}{kind}").mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), raw / f"{folder}{kind}" / f"{name}.nii.gz")
    described = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "ball": 1}, "numTraining": 5}
    (raw / "dataset.json").write_text(json.dumps({**described, "file_ending": ".nii.gz"}))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("workspace")
    write_dataset(place / "raw" / NAME)
    plan_and_preprocess.main([str(word) for word in ["-d", NUMBER, "--memory", 0.03, "--workers", 1, *shared(place)]])
    return place


@pytest.fixture(scope="module")
def trained(workspace: Path) -> Path:
    """The folder of the model, with both networks."""
    few = [str(NUMBER), FOLD, "--workers", "0", "--precision", "float32", "--no-validation", *shared(workspace)]
    train.main([*few, "--iterations", "20"])
    train.main([*few, "--iterations", "40", "--low-resolution"])
    return workspace / "results" / NAME / "diffatlas__default"


def shared(workspace: Path) -> list[str]:
    return ["--workspace", str(workspace), "--device", "cpu"]


def segment(workspace: Path, output: Path, *words: str) -> np.ndarray:
    """The labels of the test case."""
    predict.main(["-i", str(workspace / "raw" / NAME / "imagesTs"), "-o", str(output), *words, *shared(workspace)])
    (found,) = output.glob("ball_*.nii.gz")
    return read_labels(found).array


def test_both_plans_are_there_and_said(workspace: Path) -> None:
    folder = workspace / "preprocessed" / NAME
    plan, rough = (json.loads((one / "plans.json").read_text()) for one in (folder, folder / "low_resolution"))
    assert np.prod(plan["patch_size"]) < 0.25 * SIDE**3
    assert rough["spacing_mm"][0] > 1.5 * plan["spacing_mm"][0]
    assert len(list((folder / "low_resolution" / "cases").iterdir())) >= 5


def test_structures_are_found_at_low_resolution_and_segmented_where_they_are(
    workspace: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coarse_to_fine = segment(workspace, tmp_path / "fine")
    assert "Structures are found at low resolution" in capsys.readouterr().out
    record = json.loads((tmp_path / "fine" / "prediction.json").read_text())
    assert record["low_resolution"] is True
    truth = read_labels(next((workspace / "raw" / NAME / "labelsTs").iterdir())).array
    assert dice(coarse_to_fine > 0, truth > 0) > 0.5
    whole = segment(workspace, tmp_path / "whole", "--no-low-resolution")
    assert "Structures are found" not in capsys.readouterr().out
    assert not np.array_equal(whole, coarse_to_fine)
    again = segment(workspace, tmp_path / "fine", "--no-low-resolution")
    assert "made with another model or other settings: they are segmented again" in capsys.readouterr().out
    np.testing.assert_array_equal(again, whole)


def test_a_packed_model_has_both(workspace: Path, trained: Path, tmp_path: Path) -> None:
    export_model.main(["-m", str(trained), "-o", str(tmp_path / "model.zip")])
    packed = zipfile.ZipFile(tmp_path / "model.zip")
    names, card = packed.namelist(), packed.read("MODEL_CARD.md").decode()
    assert "finds the structures in large scans at" in card
    assert f"low_resolution/{FOLD}/checkpoint_final.safetensors" in names
    assert "low_resolution/plans.json" in names and not any("atlases" in name for name in names)
    here = segment(workspace, tmp_path / "here", "-m", str(trained))
    assert np.array_equal(segment(workspace, tmp_path / "there", "-m", str(tmp_path / "model.zip")), here)


def test_what_is_missing_is_said(workspace: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other" / NAME / "diffatlas__default"
    shutil.copytree(trained, other)
    shutil.copytree(other / FOLD, other / "fold1")
    segment(workspace, tmp_path / "one", "-m", str(other), "-f", FOLD, "fold1")
    said = capsys.readouterr().out
    assert "fold1 of" in said and "segmented as a whole" in said

    again = [str(NUMBER), FOLD, "--no-validation"]
    with pytest.raises(SystemExit):
        train.main([*again, "--method", "rba", "--low-resolution", *shared(workspace)])
    assert "rba has no network that could find structures" in capsys.readouterr().err
    for lacking, words, hint in (
        ("low_resolution", [], "Train --low-resolution, too"),
        (FOLD, ["--low-resolution"], "the same command without --low-resolution"),
    ):
        place = tmp_path / lacking
        shutil.copytree(workspace, place)
        shutil.rmtree(place / "results" / NAME / "diffatlas__default" / lacking)
        train.main([*again, *words, *shared(place)])
        assert hint in capsys.readouterr().out
    shutil.rmtree(place / "preprocessed" / NAME / "low_resolution")
    with pytest.raises(SystemExit):
        train.main([*again, "--low-resolution", *shared(place)])
    assert "has no plan for it" in capsys.readouterr().err
