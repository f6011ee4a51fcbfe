from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffatlas_pipeline import parallel, processes
from diffatlas_pipeline.datasets.description import LabelClass, LabelSet
from diffatlas_pipeline.errors import DatasetError, ImageError, UserError
from diffatlas_pipeline.evaluation.evaluate import evaluate_folders, find_labels, read_labels_json
from diffatlas_pipeline.evaluation.summary_table import results_table
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import write_labels

SHAPE = (12, 10, 8)
SPACING = np.diag([1.0, 2.0, 0.5, 1.0])


def cubes(shift: int = 0, values: tuple[int, ...] = (3, 7)) -> np.ndarray:
    """Two cubes of 4 x 3 x 3 voxels."""
    array = np.zeros(SHAPE, dtype=np.int16)
    array[1 + shift : 5 + shift, 1:4, 1:4] = values[0]
    array[1 + shift : 5 + shift, 5:8, 4:7] = values[1]
    return array


def write(folder: Path, case: str, array: np.ndarray, ending: str = ".nii.gz", affine: np.ndarray = SPACING) -> None:
    write_labels(folder / f"{case}{ending}", array, Grid.of(array.shape, affine))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    predictions, references = tmp_path / "predictions", tmp_path / "labelsTs"
    for case, shift in (("a", 0), ("b", 1), ("c", 2)):
        write(predictions, case, cubes(shift))
        write(references, case, cubes())
    return predictions, references


def test_known_scores_per_case_label_and_mean(folders: tuple[Path, Path], tmp_path: Path) -> None:
    evaluation = evaluate_folders(*folders, tolerance_mm=1.0)
    assert [label.value for label in evaluation.labels] == [3, 7]
    dice = evaluation.cases.pivot(index="case", columns="value", values="dice")
    assert dice.loc["a"].tolist() == [1, 1]
    assert dice.loc["b"].tolist() == pytest.approx([0.75, 0.75])
    assert dice.loc["c"].tolist() == pytest.approx([0.5, 0.5])
    assert evaluation.mean()["dice"] == pytest.approx(0.75)
    assert evaluation.per_label()["label 3"]["dice"]["std"] == pytest.approx(0.25)
    assert evaluation.cases["hd95_mm"].tolist() == pytest.approx([0, 0, 1, 1, 2, 2])
    assert set(evaluation.cases["volume_reference_ml"]) == {0.036}
    assert evaluation.remarkable() == {"worst": "c", "median": "b", "best": "a"}
    summary_path, table_path = evaluation.write(tmp_path / "out")
    summary = json.loads(summary_path.read_text())
    assert summary["mean"]["dice"] == pytest.approx(0.75)
    assert summary["labels"]["label 7"]["dice"]["count"] == 3
    assert len(pd.read_csv(table_path)) == 6


@pytest.mark.slow
def test_workers_do_not_change_the_result(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffatlas_pipeline.parallel.WORTH_WORKERS_S", 0.0)
    pd.testing.assert_frame_equal(evaluate_folders(*folders, workers=2).cases, evaluate_folders(*folders).cases)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells that a process is stopped")
@pytest.mark.parametrize(("sent", "said"), [(signal.SIGSTOP, "stopped"), (signal.SIGKILL, "killed")])
def test_a_lost_worker_is_named_with_its_case(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, said: str
) -> None:
    """The first process to be started is lost: at least one case, and none is left running."""
    monkeypatch.setattr(parallel, "WORTH_WORKERS_S", 0.0)
    monkeypatch.setattr(processes, "LOOK_S", 0.1)
    hit = threading.Thread(target=_send_to_first_child, args=(sent,))
    hit.start()
    began = time.monotonic()
    with pytest.raises(
        DatasetError,
        match=rf"^[bc], evaluating: .*{said}.* again\.|^[bc], evaluating: .*{said}.*It needs about 0\.2 GB.*fewer `workers`",
    ):
        evaluate_folders(*folders, workers=2)
    hit.join()
    assert time.monotonic() - began < 60
    assert not multiprocessing.active_children()


def test_as_many_work_at_a_time_as_memory_has_room_for(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parallel, "available_bytes", lambda: int(250e6))
    assert evaluate_folders(*folders, workers=2).mean()["dice"] == pytest.approx(0.75)
    assert "1 of 2 workers: a case takes up to 0.2 GB of memory" in capsys.readouterr().out


def _send_to_first_child(sent: signal.Signals) -> None:
    deadline = time.monotonic() + 30
    while not (children := multiprocessing.active_children()) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(children[0].pid or 0, sent)


def test_another_file_format_is_paired(folders: tuple[Path, Path]) -> None:
    predictions, _ = folders
    (predictions / "a.nii.gz").unlink()
    write(predictions, "a", cubes(), ".nrrd")
    assert evaluate_folders(*folders).mean()["dice"] == pytest.approx(0.75)


def test_missed_and_invented_structures_never_help(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    write(predictions, "a", np.where(cubes() == 7, 0, cubes()))  # 7 is missed
    write(references, "b", np.where(cubes() == 3, 0, cubes()))  # 3 is invented
    evaluation = evaluate_folders(*folders)
    worst = evaluation.cases[evaluation.cases["dice"] == 0]
    assert list(zip(worst["case"], worst["value"], strict=True)) == [("a", 7), ("b", 3)]
    assert worst["nsd"].tolist() == [0, 0]
    assert worst["hd95_mm"].tolist() == pytest.approx([math.hypot(12, 20, 4)] * 2)


def test_what_is_passed_over_is_said(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    assert evaluate_folders(*folders).warnings == ()
    for name in ("prediction.json", "log.txt", "a.npz", ".hidden"):
        (predictions / name).touch()
    (predictions / "evaluation").mkdir()
    assert evaluate_folders(*folders).warnings == ()
    (predictions / "e.img").touch()
    Path(os.fsdecode(os.fsencode(references) + b"/M\xfcller.nii.gz")).touch()
    first, second = evaluate_folders(*folders).warnings
    assert first == f"{predictions}: 1 file(s) are no segmentations and were left out: e.img"
    assert second.endswith("M\\udcfcller.nii.gz") or second.endswith("M\\xfcller.nii.gz")


def test_a_label_that_is_in_neither_does_not_count(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, references = folders
    for folder in folders:
        write(folder, "a", np.where(cubes() == 7, 0, cubes()))
    labels = (LabelClass("three", 3), LabelClass("seven", 7), LabelClass("nowhere", 9))
    evaluation = evaluate_folders(predictions, references, labels)
    statistics = evaluation.per_label()
    assert statistics["seven"]["dice"]["count"] == 2
    assert statistics["seven"]["dice"]["mean"] == pytest.approx(0.625)
    assert statistics["nowhere"]["dice"]["count"] == 0
    assert evaluation.mean()["dice"] == pytest.approx((0.75 + 0.625) / 2)
    summary = json.loads(evaluation.write(tmp_path)[0].read_text())
    assert summary["labels"]["nowhere"]["dice"]["mean"] is None
    assert "nowhere" in results_table(evaluation)


def test_missing_predictions(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    (predictions / "b.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"no prediction for 1 of 3 references: b\."):
        evaluate_folders(predictions, references)
    empty = evaluate_folders(predictions, references, missing="empty")
    assert empty.mean()["dice"] == pytest.approx(0.5)
    assert empty.missing == ("b",)
    assert evaluate_folders(predictions, references, missing="skip").mean()["dice"] == pytest.approx(0.75)
    write(predictions, "z", cubes())
    assert any("z" in warning for warning in evaluate_folders(predictions, references, missing="skip").warnings)


def test_no_common_case_is_an_error_whatever_missing_means(folders: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other, "z", cubes())
    with pytest.raises(DatasetError, match="not one prediction"):
        evaluate_folders(other, folders[1], missing="skip")


def test_all_bad_cases_are_listed_at_once(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    write(predictions, "a", cubes()[:-1])
    moved = SPACING.copy()
    moved[0, 3] = 5
    write(predictions, "b", cubes(), affine=moved)
    (predictions / "c.nii.gz").write_bytes(b"nothing" * 100)
    with pytest.raises(ImageError) as error:
        evaluate_folders(predictions, references)
    text = str(error.value)
    assert "3 of 3" in text
    assert "a: the prediction is not on the reference's grid (shapes differ" in text
    assert "5 mm" in text
    assert "c.nii.gz" in text


def test_values_that_are_no_label_are_said(folders: tuple[Path, Path]) -> None:
    evaluation = evaluate_folders(*folders, labels=(LabelClass("three", 3),))
    assert any("a: the prediction" in warning and "7" in warning for warning in evaluation.warnings)


@pytest.mark.parametrize("labels", [{"background": 0, "small": 3, "large": 7}, {"0": "background", "3": "small", "7": "large"}])
def test_labels_are_named_by_the_dataset_json(folders: tuple[Path, Path], labels: dict) -> None:
    (folders[1].parent / "dataset.json").write_text(json.dumps({"labels": labels}))
    expected = (LabelClass("small", 3), LabelClass("large", 7))
    assert find_labels(folders[1]) == LabelSet(expected)
    assert evaluate_folders(*folders).labels == expected


@pytest.mark.parametrize("text", ["", "{}", '{"labels": {"background": 0}}', '{"labels": {"a": [1, 2]}}', "[]"])
def test_unusable_dataset_json_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        read_labels_json(tmp_path / "dataset.json")


def test_two_files(folders: tuple[Path, Path]) -> None:
    evaluation = evaluate_folders(folders[0] / "c.nii.gz", folders[1] / "a.nii.gz")
    assert evaluation.mean()["dice"] == pytest.approx(0.5)


def test_negative_tolerance_is_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="tolerance"):
        evaluate_folders(*folders, tolerance_mm=-1)


def test_cases_may_end_in_four_digits(tmp_path: Path) -> None:
    for case in ("scan_0000", "scan_0001", "1.2.840.5"):
        write(tmp_path / "p", case, cubes())
        write(tmp_path / "r", case, cubes())
    found = evaluate_folders(tmp_path / "p", tmp_path / "r")
    assert sorted(set(found.cases["case"])) == ["1.2.840.5", "scan_0000", "scan_0001"]
    one = evaluate_folders(tmp_path / "p" / "1.2.840.5.nii.gz", tmp_path / "r" / "1.2.840.5.nii.gz")
    assert set(one.cases["case"]) == {"1.2.840.5"}


def test_a_tolerance_far_beyond_the_voxels_gives_no_nsd(tmp_path: Path) -> None:
    for folder, shift in (("p", 3), ("r", 0)):
        write(tmp_path / folder, "a", cubes(shift), affine=np.diag([0.0003, 0.0003, 0.0003, 1]))
    found = evaluate_folders(tmp_path / "p", tmp_path / "r")
    assert found.cases["nsd"].isna().all() and found.cases["dice"].notna().all()
    assert "NSD is not given for 1 of 1 cases" in found.warnings[0] and "`tolerance_mm`" in found.warnings[0]
    assert evaluate_folders(tmp_path / "p", tmp_path / "r", tolerance_mm=0.0003).cases["nsd"].notna().all()


def test_on_a_sheared_grid_distances_are_those_of_space(tmp_path: Path) -> None:
    """Two voxels, 8.01 mm apart by a tilted gantry; 10.50 mm by the lengths of the axes."""
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 2 * math.tan(math.radians(30))
    for folder, place in (("p", (16, 20, 10)), ("r", (16, 15, 14))):
        array = np.zeros((32, 32, 24), np.uint8)
        array[place] = 1
        write_labels(tmp_path / folder / "a.nii.gz", array, Grid.of(array.shape, affine))
    evaluation = evaluate_folders(tmp_path / "p", tmp_path / "r")
    (row,) = pd.read_csv(evaluation.write(tmp_path / "out")[1]).to_dict("records")
    assert row["hd95_mm"] == pytest.approx(8.01, abs=0.005)
    assert row["volume_prediction_ml"] == row["volume_reference_ml"] == pytest.approx(0.002)
