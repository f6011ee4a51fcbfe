"""Volumes come with intervals, by the real commands: held-out cases are segmented, and a new scan profits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffatlas_pipeline.api.model import load_model
from diffatlas_pipeline.commands import plan_and_preprocess, predict, report, train
from diffatlas_pipeline.errors import UserError
from tests.planning.raw_data import write_dataset

CASES = [f"case{index:02d}" for index in range(8)]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a mean atlas of four cases, validated on four others."""
    place = tmp_path_factory.mktemp("workspace")
    write_dataset(place / "raw", cases=8, channels=("CT",))
    (place / "splits.json").write_text(json.dumps({"half": {"train": CASES[:4], "validation": CASES[4:]}}))
    shared = ["--workspace", str(place), "--device", "cpu"]
    plan_and_preprocess.main(["-d", "7", "--workers", "1", *shared])
    train.main(["7", "half", "--splits-file", str(place / "splits.json"), "--method", "mean", *shared])
    return place


def model_of(workspace: Path) -> Path:
    return workspace / "results" / "Dataset007_Balls" / "mean__default"


def test_the_errors_of_the_validation_cases_make_the_intervals(workspace: Path, tmp_path: Path) -> None:
    kept = json.loads((model_of(workspace) / "half" / "calibration.json").read_text())["volumes"]
    assert kept["cases"] == CASES[4:]
    scored = pd.read_csv(model_of(workspace) / "half" / "validation" / "cases.csv").set_index(["case", "label"])
    images = workspace / "raw" / "Dataset007_Balls" / "imagesTr"
    predict.main(["-i", str(images), "-o", str(tmp_path), "-m", str(model_of(workspace)), "--device", "cpu"])
    cases = json.loads((tmp_path / "prediction.json").read_text())["cases"]
    for number, label in enumerate(cases["case00"]["volumes"]):  # in the order of the plan
        ratios = scored.xs(label, level="label").eval("volume_reference_ml / volume_prediction_ml")
        np.testing.assert_allclose([row[number] for row in kept["log_ratios"]], np.log(ratios), rtol=1e-6)
        found = cases["case00"]["volumes"][label]
        (low, high), (lower, higher) = found["intervals_ml"]["50%"], found["intervals_ml"]["90%"]
        assert 0 < lower < low < high < higher
        assert np.sqrt(lower * higher) == pytest.approx(found["volume_ml"] * np.exp(np.log(ratios).mean()))
    report.main(["-p", str(tmp_path), "-o", str(tmp_path / "report.html")])
    small = cases["case00"]["volumes"]["small"]
    low, high = small["intervals_ml"]["90%"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"{small['volume_ml']:.2f} ({low:.2f} to {high:.2f})" in page and "in nine of ten cases" in page


def test_a_notebook_chooses_the_coverage(workspace: Path) -> None:
    model = load_model(model_of(workspace), "cpu")
    scan = workspace / "raw" / "Dataset007_Balls" / "imagesTr" / "case00_0000.nii.gz"
    found = model.segment(scan)
    half, most = found.volume_intervals_ml(0.5), found.volume_intervals_ml()
    assert set(half) == set(most) == {"small", "large"}
    assert all(most[name][0] < half[name][0] < half[name][1] < most[name][1] for name in half)
    with pytest.raises(UserError, match="between 0 and 1"):
        found.volume_intervals_ml(90)
    other = model.segment(scan, modality="MRI", adapt_contrast="off")
    assert other.volume_intervals_ml() == {}, "the held-out cases are of CT"


def test_a_model_without_held_out_cases_tells_volumes_alone(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model_of(workspace) / "half" / "calibration.json").rename(tmp_path / "kept.json")
    try:
        scan = workspace / "raw" / "Dataset007_Balls" / "imagesTr" / "case00_0000.nii.gz"
        words = ["-i", str(scan), "-o", str(tmp_path), "-m", str(model_of(workspace)), "--device", "cpu"]
        predict.main([*words, "--save-uncertainty"])
    finally:
        (tmp_path / "kept.json").rename(model_of(workspace) / "half" / "calibration.json")
    volumes = json.loads((tmp_path / "prediction.json").read_text())["cases"]["case00"]["volumes"]
    assert volumes["large"]["volume_ml"] > 0 and not volumes["large"]["intervals_ml"]
    assert "no validation cases have told how often it errs" in capsys.readouterr().out
