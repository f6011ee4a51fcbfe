"""By the real commands: a training chooses the post-processing on its validation cases, prediction does it, and it is
passed on with the model.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from diffatlas_pipeline.api.model import load_model
from diffatlas_pipeline.api.sharing import export_model, install_model
from diffatlas_pipeline.commands import plan_and_preprocess, predict, train
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.models.package import MANIFEST
from tests.planning.raw_data import write_dataset

CASES = [f"case{index:02d}" for index in range(8)]
SPECK, HOLE = (slice(1, 4), slice(1, 4), slice(1, 4)), (slice(11, 13), slice(13, 15), slice(9, 11))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a mean atlas of four cases, whose labels have a speck and a hole that those of the four
    validation cases have not.
    """
    place = tmp_path_factory.mktemp("workspace")
    raw = write_dataset(place / "raw", cases=8, channels=("CT",))
    for case in CASES[:4]:
        path = raw / "labelsTr" / f"{case}.nii.gz"
        image = nib.load(path)
        labels = np.asarray(image.dataobj).copy()
        labels[SPECK], labels[HOLE] = 7, 0
        nib.save(nib.Nifti1Image(labels, image.affine), path)
    (place / "splits.json").write_text(json.dumps({"half": {"train": CASES[:4], "validation": CASES[4:]}}))
    shared = ["--workspace", str(place), "--device", "cpu"]
    plan_and_preprocess.main(["-d", "7", "--workers", "1", *shared])
    train.main(["7", "half", "--splits-file", str(place / "splits.json"), "--method", "mean", *shared])
    return place


def model_of(workspace: Path) -> Path:
    return workspace / "results" / "Dataset007_Balls" / "mean__default"


def segment(workspace: Path, output: Path, *words: str) -> dict[str, Any]:
    """The record of a prediction of one validation case."""
    scan = workspace / "raw" / "Dataset007_Balls" / "imagesTr" / "case05_0000.nii.gz"
    predict.main(["-i", str(scan), "-o", str(output), "-m", str(model_of(workspace)), "--device", "cpu", *words])
    return dict(json.loads((output / "prediction.json").read_text()))


def labels_in(output: Path) -> np.ndarray:
    return np.asarray(nib.load(output / "case05.nii.gz").dataobj)


def test_validation_cases_choose_and_are_scored_as_predictions_are(workspace: Path) -> None:
    fold = model_of(workspace) / "half"
    chosen = json.loads((fold / "postprocessing.json").read_text())["measured"]
    taken = {(one["label"], one["step"]): one for one in chosen if one["taken"]}
    assert set(taken) == {("small", "largest_component"), ("large", "filled_holes")} and len(chosen) == 4
    scores = pd.read_csv(fold / "validation" / "cases.csv").groupby("label")["dice"].mean()
    for (label, _), one in taken.items():
        assert (one["cases"], one["better"], one["worse"]) == (4, 4, 0)
        assert one["dice_before"] < one["dice_after"] == pytest.approx(scores[label])


def test_prediction_does_it_says_it_and_may_leave_it_out(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = ["--save-distance-maps", "--save-probabilities"]
    record = segment(workspace, tmp_path / "done", *maps)
    said = capsys.readouterr().out
    assert "(without it: --no-postprocessing): largest component of small; holes filled of large." in said
    assert "as sharp as in training" not in said
    plain = segment(workspace, tmp_path / "plain", *maps, "--no-postprocessing")
    assert "Post-processing" not in capsys.readouterr().out
    taken = {"small": ["largest_component"], "large": ["filled_holes"]}
    assert record["postprocessing"] == record["cases"]["case05"]["made_with"]["postprocessing"] == taken
    assert plain["postprocessing"] == {}
    done, left = labels_in(tmp_path / "done"), labels_in(tmp_path / "plain")
    assert (left[SPECK] == 7).any() and not done[SPECK].any() and (left[HOLE] == 0).any() and (done[HOLE] == 3).all()
    np.testing.assert_array_equal((done != left).sum(), (left[SPECK] == 7).sum() + (left[HOLE] == 0).sum())
    volumes = [one["cases"]["case05"]["volumes"]["small"] for one in (record, plain)]
    assert [one["volume_ml"] for one in volumes] == pytest.approx([(found == 7).sum() / 1000 for found in (done, left)])
    assert volumes[0]["intervals_ml"] and not volumes[1]["intervals_ml"], "validation volumes were post-processed"
    for name in ("small", "large"):
        both = [np.asarray(nib.load(top / f"distance_maps/case05_{name}.nii.gz").dataobj) for top in tmp_path.iterdir()]
        np.testing.assert_array_equal(*both)
    for labels, top in ((done, "done"), (left, "plain")):
        with np.load(tmp_path / top / "probabilities" / "case05.npz", allow_pickle=False) as kept:
            np.testing.assert_array_equal(kept["values"][kept["probabilities"].argmax(axis=0)], labels)


def test_a_model_of_before_does_nothing(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither file has been written by earlier releases; and a record of theirs names no post-processing."""
    fold = model_of(workspace) / "half"
    kept = {path: path.read_text() for path in (fold / "postprocessing.json", fold / "calibration.json")}
    try:
        (fold / "postprocessing.json").unlink()
        old = {key: value for key, value in json.loads(kept[fold / "calibration.json"]).items() if key != "sharpness"}
        (fold / "calibration.json").write_text(json.dumps(old))
        record = segment(workspace, tmp_path, "--save-probabilities")
        assert "The probabilities are as sharp as in training" in capsys.readouterr().out
        del record["cases"]["case05"]["made_with"]["postprocessing"]
        (tmp_path / "prediction.json").write_text(json.dumps(record))
        segment(workspace, tmp_path)
        assert "other settings" not in capsys.readouterr().out and (labels_in(tmp_path)[SPECK] == 7).any()
    finally:
        for path, text in kept.items():
            path.write_text(text)
    segment(workspace, tmp_path)
    assert "made with another model or other settings: they are segmented again" in capsys.readouterr().out


def test_it_travels_with_the_model_and_a_hostile_one_is_refused(workspace: Path, tmp_path: Path) -> None:
    archive = tmp_path / "model.zip"
    export_model(model_of(workspace), archive, with_scans=True)
    place = install_model(archive, workspace=tmp_path / "elsewhere")
    said = "largest component of small; holes filled of large"
    assert load_model(place, "cpu").postprocessing == load_model(archive, "cpu").postprocessing == said
    assert load_model(place, "cpu", postprocessing=False).postprocessing == ""
    hostile = tmp_path / "hostile.zip"
    name = "half/postprocessing.json"
    with zipfile.ZipFile(archive) as before, zipfile.ZipFile(hostile, "w") as after:
        content = before.read(name).replace(b"filled_holes", b"../../etc")
        manifest = json.loads(before.read(MANIFEST))
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        changed = {name: content, MANIFEST: json.dumps(manifest).encode()}
        for entry in before.namelist():
            after.writestr(entry, changed.get(entry, before.read(entry)))
    with pytest.raises(UserError, match=r"postprocessing\.json: unknown step '\.\./\.\./etc'; known are"):
        install_model(hostile, workspace=tmp_path / "new")
    assert not (tmp_path / "new").exists()
