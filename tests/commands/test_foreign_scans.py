"""A scan that does not belong to a model is noticed by the real commands, from training to report."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from diffatlas_pipeline.api.model import load_model
from diffatlas_pipeline.commands import plan_and_preprocess, predict, report, train
from tests.planning.raw_data import write_dataset
from tests.volumes.test_dicom import write_series


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a model of CT, trained on all of six cases."""
    place = tmp_path_factory.mktemp("workspace")
    write_dataset(place / "raw", cases=6, channels=("CT",))
    shared = ["--workspace", str(place), "--device", "cpu"]
    plan_and_preprocess.main(["-d", "7", "--workers", "1", *shared])
    train.main(["7", "all", "--iterations", "2", "--workers", "0", "--precision", "float32", *shared])
    return place


def predicted(workspace: Path, scans: Path, *words: str) -> dict:
    out = workspace / f"out_{scans.name}"
    predict.main(["-i", str(scans), "-o", str(out), "--workspace", str(workspace), "--device", "cpu", *words])
    return json.loads((out / "prediction.json").read_text())


def test_noise_is_noticed_and_shown(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, scans = workspace / "raw" / "Dataset007_Balls", tmp_path / "scans"
    known = json.loads((workspace / "results" / raw.name / "diffatlas__default" / "all" / "known_cases.json").read_text())
    assert sorted(known["cases"]) == [f"case{index:02d}" for index in range(6)]
    assert known["held_out"] is False and {"texture", "mask_error"} < set(known["described"][0])
    scans.mkdir()
    given = nib.load(raw / "imagesTr" / "case00_0000.nii.gz")
    image = given.get_fdata()
    noise = np.random.default_rng(0).normal(image.mean(), image.std(), image.shape).astype(np.float32)
    nib.Nifti1Image(image.astype(np.float32), given.affine).to_filename(scans / "own.nii.gz")
    nib.Nifti1Image(noise, given.affine).to_filename(scans / "noise.nii.gz")
    cases = predicted(workspace, scans)["cases"]
    assert cases["own"]["familiarity"]["score"] < cases["own"]["familiarity"]["limit"] and not cases["own"]["warnings"]
    assert cases["noise"]["familiarity"]["score"] > cases["noise"]["familiarity"]["limit"]
    assert "noise: it may not belong to what the model has learnt" in capsys.readouterr().out
    report.main(["-p", str(workspace / "out_scans"), "-o", str(tmp_path / "report.html")])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Does each scan belong to the model?" in page and f"{cases['noise']['familiarity']['score']:.2f}" in page


def test_an_mr_series_is_segmented_as_such_by_a_model_of_ct(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(0).integers(0, 500, size=(20, 18, 8))
    write_series(tmp_path / "series" / "scan", values, modality="MR")
    record = predicted(workspace, tmp_path / "series", "--adapt-contrast", "off")
    assert record["modality"] == "MRI"
    assert (
        {"sizes", "mask_error"} <= set(record["cases"]["scan"]["familiarity"]["aspects"]) <= {"sizes", "places", "mask_error"}
    )
    assert "the headers say MRI, and the model has learnt CT" in capsys.readouterr().out


def test_a_model_without_known_cases_goes_on_working(workspace: Path) -> None:
    raw = workspace / "raw" / "Dataset007_Balls"
    file = workspace / "results" / raw.name / "diffatlas__default" / "all" / "known_cases.json"
    text, scan = file.read_text(), raw / "imagesTr" / "case00_0000.nii.gz"
    before = load_model(file.parents[1], "cpu").segment(scan)
    file.unlink()
    try:
        after = load_model(file.parents[1], "cpu").segment(scan)
    finally:
        file.write_text(text)
    assert before.familiarity is not None and after.familiarity is None
    assert np.array_equal(before.labels, after.labels)
