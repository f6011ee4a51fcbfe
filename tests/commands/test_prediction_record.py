"""What a prediction records of each segmentation, and what of an earlier one is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline.commands.predict import main
from diffatlas_pipeline.inference.predictor import Predictor, Prepared
from diffatlas_pipeline.methods.base import PlannedSegmentation, Progress
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.volumes.io import read_labels, write_labels, write_scalars
from tests.commands.test_predict import GRID, make_workspace, predict
from tests.model_files import add_fold


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_workspace(tmp_path, monkeypatch)


def test_existing_outputs_are_kept_and_it_is_said(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(workspace)
    timing = json.loads((workspace / "out" / "prediction.json").read_text())["cases"]
    (workspace / "out" / "two.nii.gz").unlink()
    capsys.readouterr()
    predict(workspace)
    printed = capsys.readouterr().out
    assert "1 case(s) were there already and were kept" in printed
    assert "settings" not in printed
    assert json.loads((workspace / "out" / "prediction.json").read_text())["cases"]["one"] == timing["one"]


def test_the_record_says_what_each_segmentation_was_made_with(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted while the second case is sampled; then that one is made in another precision."""
    whole, begun = Predictor.segment, []

    def interrupted(self: Predictor, prepared: Prepared, progress: Progress | None = None) -> PlannedSegmentation:
        begun.append(prepared.seed)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return whole(self, prepared, progress)

    shutil.copy(workspace / "in" / "one.nii.gz", workspace / "in" / "zero.nii.gz")
    monkeypatch.setattr(Predictor, "segment", interrupted)
    with pytest.raises(SystemExit):
        predict(workspace)
    found = json.loads((workspace / "out" / "prediction.json").read_text())["cases"]
    assert found["one"]["status"] == "segmented" and "zero" not in found
    predict(workspace, "--precision", "bfloat16")
    assert "kept ones were made with another model, other settings or another precision" in capsys.readouterr().out
    cases = json.loads((workspace / "out" / "prediction.json").read_text())["cases"]
    precisions = {case: entry["made_with"]["precision"] for case, entry in cases.items()}
    assert precisions["one"] == "float32" and precisions["zero"] == "bfloat16"


def test_the_precision_that_was_taken_is_recorded(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["-i", str(workspace / "in"), "-o", str(workspace / "out"), "--device", "cpu"])
    record = json.loads((workspace / "out" / "prediction.json").read_text())
    assert record["precision"] == record["cases"]["one"]["made_with"]["precision"] in ("float32", "bfloat16")
    capsys.readouterr()
    main(["-i", str(workspace / "in"), "-o", str(workspace / "out"), "--device", "cpu"])
    assert "settings" not in capsys.readouterr().out


def test_what_was_made_otherwise_is_made_again_but_edited_work_is_kept(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also by weights that were trained anew in the same place."""

    def made_with(case: str) -> dict[str, object]:
        return dict(json.loads((workspace / "out" / "prediction.json").read_text())["cases"][case]["made_with"])

    predict(workspace)
    before = made_with("one")
    assert (before["precision"], before["modality"], before["seed"]) == ("float32", None, 0)
    again = "2 case(s) were made with another model or other settings: they are segmented again"
    for options, name, value in ((["--seed", "3"], "seed", 3), (["--modality", "CT"], "modality", "CT"), ([], "seed", 0)):
        capsys.readouterr()
        predict(workspace, *options)
        assert again in capsys.readouterr().out and made_with("one")[name] == value, options
    predict(workspace)
    assert "again" not in capsys.readouterr().out.replace("--overwrite segments them again", "")
    (model,) = (workspace / "workspace" / "results").glob("*/*")
    state = ModelFolder(model).load("fold0").state
    add_fold(model, "fold0", state={name: tensor * 1.1 for name, tensor in state.items()})
    edited = workspace / "out" / "two.nii.gz"
    write_labels(edited, np.ones(GRID.shape, dtype=np.uint8), GRID)
    predict(workspace)
    printed = capsys.readouterr().out
    assert "1 case(s) were made with another model or other settings" in printed
    assert "two: its segmentation was kept, since it was edited, but it was made with another model" in printed
    assert made_with("two") == before, "what it says of a segmentation is what that was made with"
    assert (read_labels(edited).array == 1).all()
    assert made_with("one")["weights"] != before["weights"] and made_with("one") | {"weights": before["weights"]} == before


def test_a_changed_scan_is_segmented_again(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(workspace)
    before = json.loads((workspace / "out" / "prediction.json").read_text())["cases"]
    image = np.random.default_rng(5).random(GRID.shape).astype(np.float32)
    write_scalars(workspace / "in" / "one.nii.gz", image, GRID)
    predict(workspace)
    assert "one: its scan has changed since, so it was segmented again" in capsys.readouterr().out
    after = json.loads((workspace / "out" / "prediction.json").read_text())["cases"]
    assert after["two"] == before["two"] and after["one"]["input"] != before["one"]["input"]
