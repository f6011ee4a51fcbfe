"""The ignore label through the real commands: annotated slices alone teach and are scored."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from diffatlas_pipeline.commands import check, evaluate, plan_and_preprocess, predict, train
from diffatlas_pipeline.evaluation.metrics import dice
from diffatlas_pipeline.preprocessing.store import open_case
from tests.planning.raw_data import ball_case, change_description, write_dataset, write_nifti

NAME = "Dataset007_Balls"
IGNORE = 9
PARTLY = ("case00", "case01", "case02")  # the others are annotated completely
CASES = 5

pytestmark = pytest.mark.slow  # the trainings


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Balls of which most are annotated in every fourth slice, and a fifth one completely."""
    place = tmp_path_factory.mktemp("workspace")
    folder = write_dataset(place / "raw", cases=CASES)
    change_description(folder, labels={"background": 0, "large": 3, "small": 7, "ignore": IGNORE})
    for case in PARTLY:
        path = folder / "labelsTr" / f"{case}.nii.gz"
        labels = np.asarray(nib.load(path).dataobj).copy()
        labels[:, :, np.arange(labels.shape[2]) % 4 != 1] = IGNORE
        write_nifti(path, labels, np.eye(4))
    splits = [{"train": [*PARTLY], "val": ["case03", "case04"]}, {"train": ["case03", "case04"], "val": ["case00", "case01"]}]
    (place / "splits.json").write_text(json.dumps(splits))
    shared = ["--workspace", str(place), "--device", "cpu"]
    plan_and_preprocess.main(["-d", "7", "--workers", "1", *shared])
    few = ["--workers", "0", "--precision", "float32", "--splits-file", str(place / "splits.json"), *shared]
    train.main(["7", "fold0", "--iterations", "60", "--no-validation", *few])
    train.main(["7", "fold1", "--iterations", "2", *few])
    return place


def test_planning_measures_structures_where_they_are_annotated(workspace: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "raw", cases=CASES)
    plan_and_preprocess.main(["-d", "7", "--workers", "1", "--workspace", str(tmp_path), "--device", "cpu"])
    partly, whole = (json.loads((place / "preprocessed" / NAME / "plans.json").read_text()) for place in (workspace, tmp_path))
    assert partly["dataset"]["ignore"] == IGNORE
    assert partly["distance"]["tau_mm"] == pytest.approx(whole["distance"]["tau_mm"], rel=0.2)
    stored = open_case(workspace / "preprocessed" / NAME, "case00")
    high, low = stored.read_distances(2)
    truth = ball_case(seed=0)[1]
    assert ((high < 0) <= (truth == np.array([3, 7]).reshape(2, 1, 1, 1))).all()
    assert ((low < 0) >= (truth == np.array([3, 7]).reshape(2, 1, 1, 1))).all()
    assert np.array_equal((high < 0)[..., 1::4], (low < 0)[..., 1::4])
    high, low = open_case(workspace / "preprocessed" / NAME, "case04").read_distances(2)
    assert low is high


def test_annotated_slices_teach_whole_structures(workspace: Path, tmp_path: Path) -> None:
    raw, model = workspace / "raw" / NAME, workspace / "results" / NAME / "diffatlas__default"
    words = ["-i", str(raw / "imagesTr"), "-o", str(tmp_path), "-m", str(model), "-f", "fold0", "--device", "cpu"]
    predict.main(words)
    for seed, case in ((3, "case03"), (4, "case04")):
        found, truth = np.asarray(nib.load(tmp_path / f"{case}.nii.gz").dataobj), ball_case(seed=seed)[1]
        assert set(np.unique(found)) <= {0, 3, 7}
        assert dice(found == 3, truth == 3) > 0.7  # were other slices background, it would be far less
        between = np.arange(truth.shape[2]) % 4 == 3
        assert dice(found[:, :, between] == 3, truth[:, :, between] == 3) > 0.7
    evaluate.main(["-p", str(tmp_path), "-r", str(raw / "labelsTr"), "--workers", "1"])
    rows = pd.read_csv(tmp_path / "evaluation" / "cases.csv").set_index(["case", "label"])
    found, given = (np.asarray(nib.load(path).dataobj) for path in (tmp_path / "case00.nii.gz", raw / "labelsTr/case00.nii.gz"))
    known = given != IGNORE
    assert rows.loc[("case00", "large"), "dice"] == pytest.approx(dice((found == 3) & known, given == 3))
    assert rows.loc[("case00", "large"), "volume_reference_ml"] == pytest.approx((given == 3).sum() / 1000)
    summary = json.loads((tmp_path / "evaluation" / "summary.json").read_text())
    assert summary["warnings"] == []


def test_cases_that_are_known_in_part_validate_but_are_no_atlases(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fold = workspace / "results" / NAME / "diffatlas__default" / "fold1"
    assert len(json.loads((fold / "validation" / "summary.json").read_text())["pairs"]) == 2
    assert (fold / "atlases.safetensors").is_file() and not (fold.parent / "fold0" / "atlases.safetensors").exists()
    words = [
        "--workers",
        "0",
        "--splits-file",
        str(workspace / "splits.json"),
        "--workspace",
        str(workspace),
        "--device",
        "cpu",
    ]
    with pytest.raises(SystemExit) as stopped:
        train.main(["7", "fold0", "--method", "rba", *words])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "each of the 3 training cases" in said and "completely" in said
    with pytest.raises(SystemExit) as stopped:
        train.main(["7", "fold0", "--recipe", "paper-noise", *words])
    assert stopped.value.code == 2 and "known in part" in capsys.readouterr().err


def test_the_data_set_is_in_order(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check.main(["-d", "7", "--workers", "1", "--workspace", str(workspace)])
    assert f"no problem in {CASES} cases" in capsys.readouterr().out
