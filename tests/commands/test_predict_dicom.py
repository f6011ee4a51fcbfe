"""DICOM in, DICOM out, through the command: nested folders, series of one folder, what is kept, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest

from diffatlas_pipeline.commands.predict import main
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.inference.inputs import find_scans
from diffatlas_pipeline.methods.registry import METHODS
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.volumes.io import read_grid, read_labels, write_labels
from tests.commands.test_predict import failing, predict
from tests.factories import make_recipes
from tests.inference.closed_form import Brightness, fold, scan, write_scans
from tests.inference.dicom_series import to_voxels, voxels_of_segment, voxels_of_structure, write_ct
from tests.inference.test_dicom_inputs import write_report
from tests.model_files import add_fold, plan

IMAGE = scan((20, 18, 17))[0].astype(int)
REAL = {"first": "Study1", "second": "Study2", "third": "Study3"}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a model known in closed form: what is bright is one label, what is very bright the other."""
    monkeypatch.setenv("DIFFATLAS_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setitem(METHODS, Brightness.name, Brightness)
    path = ModelFolder.location(Workspace.resolve(tmp_path / "workspace"), "Dataset001_A", Brightness.name, "default")
    recipes = make_recipes(**{Brightness.name: Brightness.recipes})
    ModelFolder.create(path, replace(plan(), recipes=recipes))
    add_fold(path, "fold0", Brightness.name, state=fold().state)
    return tmp_path


def record_of(workspace: Path) -> dict[str, Any]:
    return json.loads((workspace / "out" / "prediction.json").read_text(encoding="utf-8"))


def with_others(tree: Path) -> None:
    """A localizer, a single slice and a report among the series of ``tree``."""
    write_ct(tree / "first" / "scout", IMAGE[:, :, :3], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_ct(tree / "first" / "scout" / "deeper", IMAGE[:, :, :1])
    write_report(tree / "second" / "report")


def check_written(workspace: Path, case: str) -> None:
    """Both DICOM objects hold what the label file does, voxel by voxel in the patient's space."""
    labels = read_labels(workspace / "out" / f"{case}.nii.gz")
    for number, value in enumerate((2, 7), start=1):
        assert (labels.array == value).any()
        structure = voxels_of_structure(workspace / "out" / "dicom" / f"{case}_rtstruct.dcm", number, labels.grid)
        np.testing.assert_array_equal(structure, labels.array == value)
        segment = voxels_of_segment(workspace / "out" / "dicom" / f"{case}_seg.dcm", number, labels.grid)
        np.testing.assert_array_equal(segment, labels.array == value)
    # As highdicom itself places it: a block with an affine, cut off to the slices that have a frame.
    volume = hd.seg.segread(workspace / "out" / "dicom" / f"{case}_seg.dcm").get_volume(combine_segments=True)
    voxels = np.argwhere(volume.array > 0)
    places = (np.c_[voxels, np.ones(len(voxels))] @ volume.affine.T)[:, :3]
    found = labels.array[tuple(np.rint(to_voxels(places, labels.grid)).astype(int).T)]
    np.testing.assert_array_equal(found, np.array([0, 2, 7])[volume.array[volume.array > 0]])
    assert len(voxels) == np.count_nonzero(labels.array)


@pytest.mark.real_data
@pytest.mark.skipif("DIFFATLAS_TEST_DATA" not in os.environ, reason="DIFFATLAS_TEST_DATA is not set")
def test_real_series_in_nested_folders(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(os.environ["DIFFATLAS_TEST_DATA"]) / "hippocampus_dicom"
    for patient, study in REAL.items():
        shutil.copytree(data / study, workspace / "in" / patient / "mr")
    with_others(workspace / "in")
    predict(workspace, "--dicom", "seg", "rtstruct", "--steps", "1")
    printed = capsys.readouterr().out
    assert f"{workspace / 'in/first/scout'}: is left out: a localizer (3 files)" in printed
    assert f"{workspace / 'in/first/scout/deeper'}: is left out: a single slice" in printed
    for patient in REAL:
        check_written(workspace, f"{patient}_mr")
    record = record_of(workspace)
    assert set(record["cases"]) == {f"{patient}_mr" for patient in REAL}
    reasons = {Path(one["path"]).relative_to(workspace / "in").as_posix(): one["reason"] for one in record["skipped"]}
    assert set(reasons) == {"first/scout", "first/scout/deeper", "second/report"}


def test_series_of_one_folder_and_what_is_kept(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (3, 4):
        write_ct(workspace / "apart" / str(number), IMAGE + number, SeriesNumber=number, reverse=number == 4)
        for path in (workspace / "apart" / str(number)).iterdir():
            target = workspace / "in" / "patient" / f"{number}_{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    options = ("--modality", "MRI", "--steps", "1")
    predict(workspace, *options)
    first = record_of(workspace)["cases"]
    assert set(first) == {"patient_series3", "patient_series4"} and first["patient_series3"]["dicom"] == {}
    capsys.readouterr()
    predict(workspace, *options, "--dicom", "seg", "rtstruct")  # from what is kept
    assert "2 case(s) were there already and were kept" in capsys.readouterr().out
    for case in first:
        check_written(workspace, case)
    second = record_of(workspace)["cases"]
    assert second["patient_series3"]["dicom"]["seg"]["file"] == "dicom/patient_series3_seg.dcm"
    assert {**second["patient_series3"], "dicom": {}} == first["patient_series3"]
    with pytest.raises(ImageError, match=r"holds no scan(.|\n)*contours \(RTSTRUCT\)(.|\n)*a segmentation \(DICOM SEG\)"):
        find_scans([workspace / "out" / "dicom"], 1)
    made = workspace / "out" / "dicom" / "patient_series3_seg.dcm"
    before = made.read_bytes()
    predict(workspace, *options, "--dicom", "seg")
    assert made.read_bytes() == before and record_of(workspace)["cases"] == second
    edited = read_labels(workspace / "out" / "patient_series3.nii.gz")
    edited.array[3:6, 3:6, 3:6] = 2
    write_labels(workspace / "out" / "patient_series3.nii.gz", edited.array, edited.grid)
    predict(workspace, *options)
    assert "patient_series3_seg.dcm is of an earlier segmentation. --dicom makes it anew" in capsys.readouterr().out
    predict(workspace, *options, "--dicom", "seg", "rtstruct")
    check_written(workspace, "patient_series3")


def test_a_dicom_object_that_cannot_be_written_fails_but_the_segmentation_stays(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ct(workspace / "in" / "a", IMAGE)
    (workspace / "out").mkdir()
    (workspace / "out" / "dicom").touch()  # where a folder should be
    options = ("--modality", "MRI", "--dicom", "rtstruct")
    for _ in ("made", "kept"):
        assert "a_rtstruct.dcm: cannot be written" in failing(workspace, capsys, *options, code=1)
        entry = record_of(workspace)["cases"]["a"]
        assert entry["status"] == "failed" and entry["volumes"] and entry["output"] and entry["dicom"] == {}
    (workspace / "out" / "dicom").unlink()
    predict(workspace, *options)
    now = record_of(workspace)["cases"]["a"]
    assert (now["status"], now["message"], list(now["dicom"])) == ("kept", "", ["rtstruct"])
    made = pydicom.dcmread(workspace / "out" / "dicom" / "a_rtstruct.dcm")
    assert made.StructureSetROISequence[0].ROIGenerationAlgorithm == "AUTOMATIC", "as it was written"


def test_one_series_into_one_file(workspace: Path) -> None:
    write_ct(workspace / "in", IMAGE)
    file = workspace / "new" / "single.nrrd"
    main(["-i", str(workspace / "in"), "-o", str(file), "--dicom", "seg", "--modality", "MRI", "--device", "cpu"])
    labels, grid = read_labels(file), read_grid(workspace / "in")
    assert {path.name for path in file.parent.iterdir()} == {"single.nrrd", "single_prediction.json", "single_seg.dcm"}
    np.testing.assert_array_equal(voxels_of_segment(file.with_name("single_seg.dcm"), 2, grid), labels.array == 7)


def test_a_scan_that_is_no_dicom_is_refused_before_anything_is_done(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "in").mkdir()
    write_scans(workspace / "in", "a.nii.gz")
    error = failing(workspace, capsys, "--dicom", "seg")
    assert error.startswith("Error: --dicom seg: 1 of 1 cases are no DICOM series: a.") and "leave out --dicom" in error
    monkeypatch.setitem(sys.modules, "highdicom", None)
    assert "Error: --dicom needs highdicom" in failing(workspace, capsys, "--dicom", "seg")
    assert not (workspace / "out").exists()


def test_one_slice_of_a_series_is_told_what_to_give(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = sorted(write_ct(workspace / "series", IMAGE).iterdir())[3]
    with pytest.raises(SystemExit) as stopped:
        main(["-i", str(one), "-o", str(workspace / "out"), "--device", "cpu"])
    assert stopped.value.code in (1, 2)
    assert "folder that holds its whole series" in capsys.readouterr().err
