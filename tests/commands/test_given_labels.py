"""Completing what a reader has drawn, through the real commands, after a training of a few iterations."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from diffatlas_pipeline import load_model
from diffatlas_pipeline.commands import plan_and_preprocess, predict, train
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.volumes.io import read_grid, read_labels, write_labels
from tests.planning.raw_data import write_dataset

NAME = "Dataset007_Balls"
UNKNOWN = 255


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Balls, planned, and two models: one has learnt to complete drawings."""
    place = tmp_path_factory.mktemp("workspace")
    write_dataset(place / "raw", cases=4)
    shared = ["--workspace", str(place), "--device", "cpu"]
    plan_and_preprocess.main(["-d", "7", "--workers", "1", *shared])
    few = ["--iterations", "4", "--workers", "0", "--precision", "float32", "--no-validation", *shared]
    train.main(["7", "fold0", "--given-labels", *few])
    train.main(["7", "fold0", "--method", "mean", *shared])
    return place


@pytest.fixture
def scans(workspace: Path) -> Path:
    return workspace / "raw" / NAME / "imagesTr"


def draw(workspace: Path, folder: Path, case: str, known: tuple[slice, ...]) -> np.ndarray:
    """Of the true labels of ``case``, those of the voxels ``known``, as a file in ``folder``."""
    truth = read_labels(workspace / "raw" / NAME / "labelsTr" / f"{case}.nii.gz")
    array = np.full(truth.array.shape, UNKNOWN)
    array[known] = truth.array[known]
    write_labels(folder / f"{case}.nii.gz", array, truth.grid)
    return array


def model_of(workspace: Path, name: str = "diffatlas__given-labels") -> Path:
    return workspace / "results" / NAME / name


def completed(workspace: Path, scans: Path, output: Path, given: Path, *options: str, model: str = "") -> None:
    chosen = ["-m", str(model_of(workspace, model) if model else model_of(workspace))]
    words = ["-i", str(scans), "-o", str(output), "--given-labels", str(given), "--device", "cpu", "--precision", "float32"]
    predict.main([*words, *chosen, *options])


def refused(capsys: pytest.CaptureFixture[str], *given: object, model: str = "", code: int = 2) -> str:
    with pytest.raises(SystemExit) as stopped:
        completed(*given, model=model)  # type: ignore[arg-type]
    assert stopped.value.code == code
    return capsys.readouterr().err


def test_drawings_are_kept_and_completed(
    workspace: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = tmp_path / "partial"
    middle = (slice(None), slice(None), slice(9, 12, 2))
    drawings = {case: draw(workspace, partial, case, middle) for case in ("case00", "case01")}
    complete = draw(workspace, partial, "case02", (slice(None),))
    completed(workspace, scans, tmp_path / "out", partial, "--save-distance-maps", "--draws", "2", "--save-uncertainty")
    printed = capsys.readouterr().out
    assert "3 of 4 case(s) are completed from what is drawn of them" in printed
    assert "case02: every voxel of it is given" in printed
    for case, drawn in drawings.items():
        found = read_labels(tmp_path / "out" / f"{case}.nii.gz").array
        known = drawn != UNKNOWN
        np.testing.assert_array_equal(found[known], drawn[known])
        assert read_grid(tmp_path / "out" / f"{case}.nii.gz") == read_grid(scans / f"{case}_0000.nii.gz")
        uncertainty = np.asarray(nib.load(tmp_path / "out" / "uncertainty" / f"{case}.nii.gz").dataobj)
        assert (uncertainty[known] == 0).all() and uncertainty[~known].max() > 0
        for name, value in (("large", 3), ("small", 7)):
            distances = np.asarray(nib.load(tmp_path / "out" / "distance_maps" / f"{case}_{name}.nii.gz").dataobj)
            np.testing.assert_array_equal(distances[known] < 0, drawn[known] == value)
    np.testing.assert_array_equal(read_labels(tmp_path / "out" / "case02.nii.gz").array, complete)
    assert json.loads((tmp_path / "out" / "prediction.json").read_text())["given_labels"] == str(partial)

    model = load_model(model_of(workspace), "cpu", precision="float32", draws=2)
    file, drawing = partial / "case00.nii.gz", drawings["case00"]
    for given in (file, nib.load(file), drawing):
        again = model.segment(scans / "case00_0000.nii.gz", given_labels=given)
        np.testing.assert_array_equal(again.labels, read_labels(tmp_path / "out" / "case00.nii.gz").array)
    assert not np.array_equal(model.segment(scans / "case00_0000.nii.gz").labels, again.labels)
    for wrong, said in ((drawing[:-1], "of shape"), (drawing + 0.5, "must be integers"), ([1], "a list")):
        with pytest.raises(UserError, match=said):
            model.segment(scans / "case00_0000.nii.gz", given_labels=wrong)


def test_the_drawing_of_one_scan_is_one_file(workspace: Path, scans: Path, tmp_path: Path) -> None:
    drawn = draw(workspace, tmp_path, "case01", (slice(10, 12),))
    out = tmp_path / "out.nii.gz"
    completed(workspace, scans / "case01_0000.nii.gz", out, tmp_path / "case01.nii.gz")
    np.testing.assert_array_equal(read_labels(out).array[10:12], drawn[10:12])


def test_a_model_that_has_not_learnt_drawings_follows_slices(
    workspace: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(workspace, tmp_path / "slices", "case00", (slice(None), slice(None), slice(2, 20, 4)))
    draw(workspace, tmp_path / "slices", "case01", (slice(4, 12), slice(None), slice(10)))
    completed(workspace, scans, tmp_path / "out", tmp_path / "slices", model="mean__default")
    said = capsys.readouterr()
    assert "trained with --given-labels follows slices alone, drawn from edge to edge. All else" in said.out
    assert "case01: what is drawn of it is kept, but tells nothing of the rest" in said.out + said.err
    assert "case00: what is drawn" not in said.out + said.err
    model = load_model(model_of(workspace, "mean__default"), "cpu", precision="float32")
    for case, follows in (("case00", True), ("case01", False)):
        truth = read_labels(workspace / "raw" / NAME / "labelsTr" / f"{case}.nii.gz").array
        drawn = read_labels(tmp_path / "slices" / f"{case}.nii.gz").array
        found = read_labels(tmp_path / "out" / f"{case}.nii.gz").array
        alone = model.segment(scans / f"{case}_0000.nii.gz").labels
        rest = drawn == UNKNOWN
        np.testing.assert_array_equal(found[~rest], drawn[~rest])
        wrong, before = ((one[rest] != truth[rest]).mean() for one in (found, alone))
        assert wrong < before if follows else wrong == before, (case, wrong, before)


def test_a_drawing_that_was_corrected_is_completed_again(
    workspace: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial, out = tmp_path / "partial", tmp_path / "out"
    for case in ("case00", "case01"):
        draw(workspace, partial, case, (slice(None), slice(None), slice(9, 12, 2)))
    for said in ("", "4 case(s) were there already and were kept"):
        capsys.readouterr()
        completed(workspace, scans, out, partial, model="mean__default")
        printed = capsys.readouterr().out
        assert said in printed, printed
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    drawn = draw(workspace, partial, "case01", (slice(None), slice(None), slice(7, 14, 2)))
    completed(workspace, scans, out, partial, model="mean__default")
    changed = [path.name for path in out.glob("*.nii.gz") if before[path.name] != path.stat().st_mtime_ns]
    assert changed == ["case01.nii.gz"] and "3 case(s) were there already" in capsys.readouterr().out
    found = read_labels(out / "case01.nii.gz").array
    np.testing.assert_array_equal(found[drawn != UNKNOWN], drawn[drawn != UNKNOWN])


def test_what_is_wrong_is_said(workspace: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, out = tmp_path / "given", tmp_path / "out"
    draw(workspace, given, "case00", (slice(10),))
    (given / "case00.nii.gz").rename(given / "other.nii.gz")
    assert "no scan belongs to other.nii.gz" in refused(capsys, workspace, scans, out, given)
    assert "one file, but there are 4 cases" in refused(capsys, workspace, scans, out, given / "other.nii.gz")
    (given / "other.nii.gz").unlink()
    assert "holds no drawing" in refused(capsys, workspace, scans, out, given)
    assert "no such file or folder" in refused(capsys, workspace, scans, out, tmp_path / "missing")
    draw(workspace, given, "case00", (slice(0),))
    draw(workspace, given, "case01", (slice(10),))
    error = refused(capsys, workspace, scans, out, given, code=1)
    assert "1 of 4" in error and "every voxel is 255" in error
    assert sorted(path.name for path in out.glob("case*.nii.gz")) == ["case01.nii.gz", "case02.nii.gz", "case03.nii.gz"]
    with pytest.raises(SystemExit):
        train.main(["7", "fold0", "--method", "rba", "--given-labels", "--workspace", str(workspace)])
    assert "--given-labels: rba has no network" in capsys.readouterr().err
