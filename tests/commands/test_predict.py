from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from diffatlas_pipeline.api.model import load_model
from diffatlas_pipeline.commands.predict import main
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.methods.registry import create_method
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import read_grid, read_labels, read_volume, write_scalars
from tests.model_files import add_fold, plan, recipe

GRID = Grid.of((18, 14, 20), np.array([[0, -1.5, 0, 3], [1.0, 0, 0, 4], [0, 0, 0.9, 5], [0, 0, 0, 1.0]]))


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_workspace(tmp_path, monkeypatch)


def make_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with one model (untrained weights, but a real network) and a folder of two scans."""
    monkeypatch.setenv("DIFFATLAS_WORKSPACE", str(tmp_path / "workspace"))
    train_one(tmp_path / "workspace", "Dataset001_A")
    for seed, name in enumerate(("one.nii.gz", "two_0000.nii.gz")):
        image = np.random.default_rng(seed).random(GRID.shape).astype(np.float32)
        write_scalars(tmp_path / "in" / name, image, GRID)
    return tmp_path


def train_one(root: Path, dataset: str, fold: str = "fold0", channels: int = 1) -> Path:
    torch.manual_seed(0)
    path = ModelFolder.location(Workspace.resolve(root), dataset, "diffatlas", "default")
    ModelFolder.create(path, plan(channels=channels))
    state = create_method("diffatlas", plan(channels=channels), recipe()).build_network().state_dict()
    add_fold(path, fold, state=state)
    return path


def predict(workspace: Path, *arguments: str) -> None:
    main(["-i", str(workspace / "in"), "-o", str(workspace / "out"), "--device", "cpu", "--precision", "float32", *arguments])


def failing(workspace: Path, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    with pytest.raises(SystemExit) as stopped:
        predict(workspace, *arguments)
    assert stopped.value.code == code
    return capsys.readouterr().err


def test_input_and_output_are_enough(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(workspace)
    printed = capsys.readouterr().out
    for path in (workspace / "out" / "one.nii.gz", workspace / "out" / "two.nii.gz"):
        assert read_grid(path) == read_grid(workspace / "in" / "one.nii.gz")
        assert set(np.unique(read_labels(path).array)) <= {0, 2, 7}
    for stage in ("read", "prepare", "sample", "restore", "write", "total"):
        assert stage in printed
    assert "Post-processing" not in printed, "the model has chosen none"
    assert printed.splitlines()[-1].startswith("Next: DiffAtlas_evaluate")
    record = json.loads((workspace / "out" / "prediction.json").read_text())
    assert record["settings"]["sampler"]["steps"] == 2
    assert record["precision"] == "float32"
    assert record["cases"]["two"]["status"] == "segmented"
    assert record["cases"]["two"]["network_share"] is None
    assert set(record["cases"]["two"]["seconds"]) == {"read", "prepare", "sample", "restore", "write"}


def test_options_reach_the_sampler_and_maps_are_written(workspace: Path) -> None:
    options = ("--steps", "3", "--solver", "dpmpp_2m", "--draws", "2", "--guidance-level", "0.5", "--seed", "4")
    predict(workspace, *options, "--save-distance-maps", "--save-uncertainty", "--modality", "mri", "-d", "1", "-f", "0")
    record = json.loads((workspace / "out" / "prediction.json").read_text())
    sampler, guidance = record["settings"]["sampler"], record["settings"]["guidance"]
    found = {name: sampler[name] for name in ("steps", "solver", "draws")} | {"guidance_level": guidance["level"]}
    assert found == {"steps": 3, "solver": "dpmpp_2m", "draws": 2, "guidance_level": 0.5}
    assert (record["seed"], record["modality"], record["folds"]) == (4, "mri", ["fold0"])
    names = {str(path.relative_to(workspace / "out")) for path in (workspace / "out").rglob("*.nii.gz")}
    maps = {"distance_maps/one_small.nii.gz", "distance_maps/one_large.nii.gz", "uncertainty/one.nii.gz"}
    assert maps <= names
    assert len(names) == 8


def test_other_programs_find_names_colours_and_volumes(workspace: Path) -> None:
    predict(workspace)
    assert not (workspace / "out" / "volumes.csv").exists()
    assert "small" in (workspace / "out" / "labels.ctbl").read_text()
    assert '"large"' in (workspace / "out" / "labels_itksnap.txt").read_text()
    predict(workspace, "--statistics")  # of cases that are kept, too
    rows = pd.read_csv(workspace / "out" / "volumes.csv")
    assert rows["case"].tolist() == ["one", "one", "two", "two"] and rows["label"].tolist() == ["small", "large"] * 2
    labels = read_labels(workspace / "out" / "one.nii.gz")
    expected = [(labels.array == value).sum() * labels.grid.voxel_mm3 / 1000 for value in (2, 7)]
    np.testing.assert_allclose(rows["volume_ml"][:2], expected)


def test_nifti_files_name_their_labels_and_other_readers_do_not_mind(workspace: Path) -> None:
    predict(workspace)
    path = workspace / "out" / "one.nii.gz"
    image = nib.load(path)
    (extension,) = image.header.extensions
    assert extension.get_code() == 6, "a comment"
    assert json.loads(extension.text) == {"labels": {"0": "background", "2": "small", "7": "large"}}
    read = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read).T, np.asarray(image.dataobj))
    given = sitk.ReadImage(str(workspace / "in" / "one.nii.gz"))
    assert read.GetOrigin() == given.GetOrigin() and read.GetDirection() == given.GetDirection()
    load_model(next((workspace / "workspace" / "results").glob("*/*")), "cpu", precision="float32").segment(
        workspace / "in" / "one.nii.gz"
    ).save(workspace / "saved.nii.gz")
    assert nib.load(workspace / "saved.nii.gz").header.extensions == image.header.extensions


def test_probabilities_agree_with_the_labels(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a model without validation cases, which is said; of the mean of two draws."""
    predict(workspace, "--save-probabilities", "--draws", "2")
    assert "The probabilities are as sharp as in training" in capsys.readouterr().out
    for case in ("one", "two"):
        image = nib.load(workspace / "out" / f"{case}.nii.gz")
        with np.load(workspace / "out" / "probabilities" / f"{case}.npz", allow_pickle=False) as kept:
            parts, values = kept["probabilities"], kept["values"]
            np.testing.assert_allclose(kept["affine"], image.affine, rtol=1e-6)
        assert parts.shape == (3, *image.shape) and parts.dtype == np.float16 and values.tolist() == [0, 2, 7]
        np.testing.assert_array_equal(values[parts.argmax(axis=0)], np.asarray(image.dataobj))
    model = load_model(next((workspace / "workspace" / "results").glob("*/*")), "cpu", draws=2, precision="float32")
    np.testing.assert_array_equal(model.segment(workspace / "in" / "two_0000.nii.gz").probabilities, parts)


def test_scans_may_be_given_one_by_one_and_in_a_list(workspace: Path) -> None:
    (workspace / "list.csv").write_text("id,image\n1,in/two_0000.nii.gz\n")
    common = ["-o", str(workspace / "out"), "--device", "cpu", "--precision", "float32"]
    main(["-i", str(workspace / "list.csv"), *common])
    assert [path.name for path in (workspace / "out").glob("*.nii.gz")] == ["two.nii.gz"]
    main(["-i", str(workspace / "in" / "one.nii.gz"), str(workspace / "list.csv"), *common])
    assert sorted(path.name for path in (workspace / "out").glob("*.nii.gz")) == ["one.nii.gz", "two.nii.gz"]


def test_a_model_without_training_scans_says_that_contrast_stays(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(workspace, "--modality", "CT")
    record = json.loads((workspace / "out" / "prediction.json").read_text())
    assert (record["adapt_contrast"], record["with_atlases"]) == ("off", False)
    assert "Warning: the model has not learnt this modality" in capsys.readouterr().out


def test_a_corrupt_scan_is_named_and_the_others_are_done(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "in" / "bad.nii.gz").write_bytes(b"nothing" * 100)
    large = Grid.of((17, 22, 15), np.diag([1e3, 1e3, 1e3, 1]))
    write_scalars(workspace / "in" / "huge.nii.gz", np.ones(large.shape, np.float32), large)
    text = failing(workspace, capsys, code=1)
    assert "huge" in text and "1000 x 1000 x 1000 mm" in text
    assert "2 of 4" in text
    assert "bad.nii.gz" in text
    assert (workspace / "out" / "one.nii.gz").exists()
    assert (workspace / "out" / "two.nii.gz").exists()


def test_several_folds_are_averaged(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_one(workspace / "workspace", "Dataset001_A", "fold1")
    predict(workspace, "-f", "0", "1", "--save-uncertainty")
    assert "fold0, fold1" in capsys.readouterr().out
    assert (workspace / "out" / "uncertainty" / "one.nii.gz").exists()
    assert "fold3: not trained" in failing(workspace, capsys, "-f", "3")


def test_single_file_and_explicit_model(workspace: Path) -> None:
    model = next((workspace / "workspace" / "results").glob("*/*"))
    moved = model.rename(workspace / "model")
    main(["-i", str(workspace / "in" / "two_0000.nii.gz"), "-o", str(workspace / "out"), "-m", str(moved), "--device", "cpu"])
    assert (workspace / "out" / "two.nii.gz").exists()
    assert not (workspace / "out" / "one.nii.gz").exists()


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_one_scan_into_one_file_of_any_format(workspace: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    scan, file = workspace / "in" / "one.nii.gz", workspace / "new" / f"single{ending}"
    options = ["--save-distance-maps", "--save-uncertainty", "--draws", "2"]
    predict(workspace, *options)
    predict(workspace, "-i", str(scan), "-o", str(file), *options)
    assert capsys.readouterr().out.splitlines()[-1] == f"Next: DiffAtlas_evaluate -p {file} -r REFERENCE"
    beside = {f"single_{name}{ending}" for name in ("distance_small", "distance_large", "uncertainty")}
    assert {path.name for path in file.parent.iterdir()} == {file.name, "single_prediction.json", *beside}
    assert read_grid(file).matrix == pytest.approx(read_grid(scan).matrix)
    np.testing.assert_array_equal(read_labels(file).array, read_labels(workspace / "out" / "one.nii.gz").array)
    for name, same in (("distance_small", "distance_maps/one_small.nii.gz"), ("uncertainty", "uncertainty/one.nii.gz")):
        found = read_volume([file.parent / f"single_{name}{ending}"]).array
        np.testing.assert_allclose(found, read_volume([workspace / "out" / same]).array, rtol=1e-6)


def test_one_file_holds_one_scan(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, scans = str(workspace / "single.nii.gz"), workspace / "in"
    error = failing(workspace, capsys, "-o", file)
    assert error == f"Error: -o {file}: one file, but there are 2 cases. Give a folder.\n"
    predict(workspace, "-i", str(scans / "one.nii.gz"), "-o", file)
    predict(workspace, "-i", str(scans / "one.nii.gz"), "-o", file)
    assert "kept (--overwrite" in capsys.readouterr().out
    two = ["-i", str(scans / "two_0000.nii.gz"), "-o", file]
    assert f"{file}: is there, but not as the segmentation of 'two'. Give --overwrite" in failing(workspace, capsys, *two)
    predict(workspace, *two, "--overwrite")
    assert list(json.loads((workspace / "single_prediction.json").read_text())["cases"]) == ["two"]
    assert "would replace an input image" in failing(workspace, capsys, *two[:2], "-o", two[1], "--overwrite")


def test_several_models_must_be_told_apart(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_one(workspace / "workspace", "Dataset002_B")
    text = failing(workspace, capsys)
    assert "-d Dataset001_A" in text
    assert "-d Dataset002_B" in text
    predict(workspace, "-d", "2")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--solver", "euler"), "ddpm, ddim, dpmpp_2m"),
        (("--steps", "-3"), "--steps"),
        (("--modality", "PET"), "CT, MRI"),
        (("--device", "quantum"), "--device"),
        (("--with-atlases",), "keeps no training scans"),
        (("--adapt-contrast", "curve"), "keeps no training scans"),
        (("--registrations", __file__), "not a folder"),
        (("-d", "9"), "Dataset001_A"),
        (("-f", "all"), "all: not trained"),
        (("-m", "nowhere"), "nowhere: no such file or folder"),
        (("-i", "nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_one_clear_error(
    workspace: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], expected: str
) -> None:
    text = failing(workspace, capsys, *arguments)
    assert text.startswith("Error: ")
    assert expected in text
    assert not (workspace / "out").exists()


def test_mistakes_in_folders(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "empty").mkdir()
    assert "empty" in failing(workspace, capsys, "-i", str(workspace / "empty"))
    (workspace / "file").touch()
    assert "cannot be written" in failing(workspace, capsys, "-o", str(workspace / "file" / "out"))
    train_one(workspace / "workspace", "Dataset003_C", channels=2)
    text = failing(workspace, capsys, "-d", "3")
    assert "one" in text
    assert "_0001" in text


def test_damaged_model_is_said(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = next((workspace / "workspace").rglob("checkpoint_final.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "damaged" in failing(workspace, capsys)


def test_segmentations_do_not_go_among_the_scans(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They would be taken for scans the next time."""
    error = failing(workspace, capsys, "-o", str(workspace / "in"))
    assert f"{workspace / 'in'}: holds the scans" in error and "give another -o" in error
    assert sorted(path.name for path in (workspace / "in").iterdir()) == ["one.nii.gz", "two_0000.nii.gz"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_what_is_no_scan_is_named_and_the_rest_is_done(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans = workspace / "in"
    (scans / "one.nii.gz").rename(scans / "One.NII.GZ")
    (scans / "e.img").touch()
    (scans / "patient" / "study").mkdir(parents=True)
    Path(os.fsdecode(os.fsencode(scans) + b"/M\xfcller.nii.gz")).touch()
    predict(workspace)
    printed = capsys.readouterr().out
    assert "3 file(s) or folder(s) are no scans and are left out: M\\udcfcller.nii.gz, e.img, patient" in printed
    assert {path.name for path in (workspace / "out").glob("*.nii.gz")} == {"One.nii.gz", "two.nii.gz"}
