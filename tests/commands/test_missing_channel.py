"""Scans that lack a channel, through the real commands: hearts with CT and MRI of the same person."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from benchmarks.raw_data import place_two_channels
from dataset_conversion.phantom import write_phantom_dataset
from diffatlas_pipeline import load_model
from diffatlas_pipeline.commands import plan_and_preprocess, predict, train
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.metrics import dice
from diffatlas_pipeline.preprocessing.normalisation import normalise, renormalise
from diffatlas_pipeline.report.sources import prediction_source
from diffatlas_pipeline.volumes.io import read_grid, read_labels, read_volume

LABELS = range(1, 6)
CHANNELS = ("CT", "MRI")


pytestmark = pytest.mark.slow  # the training


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hearts, planned, and three models: one has learnt much to do without a channel, one hardly anything."""
    place = tmp_path_factory.mktemp("workspace")
    for modality, number in (("CT", 11), ("MRI", 12)):
        write_phantom_dataset(place / "raw", number, training_cases=8, test_cases=3, size=(16,), modality=modality)
    place_two_channels(place)
    shared = ["--workspace", str(place), "--device", "cpu"]
    plan_and_preprocess.main(["-d", "13", "--workers", "1", *shared])
    file = place / "preprocessed" / "Dataset013_HeartPhantomBoth" / "plans.json"
    plan = json.loads(file.read_text())
    recipes = plan["recipes"]["diffatlas"]
    assert recipes["default"]["levels"]["missing_channel"] > 0
    recipes["often"] = json.loads(json.dumps(recipes["default"]))
    recipes["often"]["levels"]["missing_channel"], recipes["often"]["objective"]["image_weight"] = 1.0, 5.0
    recipes["never"] = json.loads(json.dumps(recipes["default"]))
    recipes["never"]["levels"]["missing_channel"] = 0.0
    file.write_text(json.dumps(plan))
    few = ["--workers", "0", "--precision", "float32", "--no-validation", *shared]
    train.main(["13", "all", "--recipe", "often", "--iterations", "80", *few])
    train.main(["13", "all", "--recipe", "never", "--iterations", "2", *few])
    train.main(["13", "all", "--method", "icf", "--iterations", "2", *few])
    return place


@pytest.fixture
def raw(workspace: Path) -> Path:
    return workspace / "raw" / "Dataset013_HeartPhantomBoth"


def model_of(workspace: Path, name: str = "diffatlas__often") -> Path:
    return workspace / "results" / "Dataset013_HeartPhantomBoth" / name


def scans_without(raw: Path, folder: Path, **missing: int) -> Path:
    """The test scans, without the channel that is named for some cases."""
    shutil.copytree(raw / "imagesTs", folder, dirs_exist_ok=True)
    for case, channel in missing.items():
        (folder / f"{case}_{channel:04d}.nii.gz").unlink()
    return folder


def segmented(workspace: Path, scans: Path, output: Path, *options: str) -> dict[str, Any]:
    words = ["-i", str(scans), "-o", str(output), "-m", str(model_of(workspace)), "--device", "cpu", "--precision", "float32"]
    predict.main([*words, *options])
    return dict(json.loads((output / "prediction.json").read_text())["cases"])


def array_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


LACKING = {"heart_test_0001": 0, "heart_test_0002": 1}


def test_cases_without_a_channel_are_segmented(
    workspace: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans, out = scans_without(raw, tmp_path / "scans", **LACKING), tmp_path / "out"
    found = segmented(workspace, scans, out, "--save-generated-channels")
    printed = capsys.readouterr().out
    assert "2 of 3 case(s) lack a channel" in printed
    plan = load_model(model_of(workspace), "cpu").plan
    for case, channel in LACKING.items():
        name, planned = CHANNELS[channel], plan.channels[channel]
        assert f"Warning: {case}: channel {name} is missing and was generated" in printed
        assert found[case]["generated_channels"] == [name] and f"channel {name} is missing" in found[case]["warnings"][0]
        assert set(found[case]["familiarity"]["aspects"]) == {"brightness", "texture", "sizes", "places"}
        file = out / "generated_channels" / f"{case}_{channel:04d}.nii.gz"
        assert read_grid(file) == read_grid(raw / "imagesTs" / file.name)
        true = normalise(read_volume([raw / "imagesTs" / file.name]).array, [planned])
        generated = renormalise(read_volume([file]).array, [planned])
        assert np.abs(generated).max() <= 1 + 1e-5 and np.corrcoef(true.ravel(), generated.ravel())[0, 1] > 0.2
    assert array_of(out / "generated_channels" / "heart_test_0001_0000.nii.gz").max() > 100, "Hounsfield units"
    assert found["heart_test_0003"]["generated_channels"] == [] and len(list((out / "generated_channels").iterdir())) == 2
    for case in found:
        labels, truth = array_of(out / f"{case}.nii.gz"), array_of(raw / "labelsTs" / f"{case}.nii.gz")
        assert np.mean([dice(labels == value, truth == value) for value in LABELS]) > 0.35, "chance is below 0.05"
    notes = prediction_source(out, None, (), None).notes
    assert any("heart_test_0001: channel CT is missing" in note for note in notes)


def test_more_steps_draws_and_noise_on_what_is_given(workspace: Path, raw: Path, tmp_path: Path) -> None:
    scans = scans_without(raw, tmp_path / "scans", **LACKING)
    options = ["--steps", "3", "--draws", "2", "--solver", "dpmpp_2m", "--guidance-level", "0.3", "--save-uncertainty"]
    segmented(workspace, scans, tmp_path / "out", *options, "--save-distance-maps", "--save-generated-channels")
    uncertainty = array_of(tmp_path / "out" / "uncertainty" / "heart_test_0001.nii.gz")
    generated = array_of(tmp_path / "out" / "generated_channels" / "heart_test_0002_0001.nii.gz")
    assert uncertainty.max() > 0 and 0 <= generated.min() < generated.max() <= 1
    assert len(list((tmp_path / "out" / "distance_maps").iterdir())) == 15


def test_a_notebook_gets_the_same(workspace: Path, raw: Path, tmp_path: Path) -> None:
    scans = scans_without(raw, tmp_path / "scans", **LACKING)
    segmented(workspace, scans, tmp_path / "out", "--save-generated-channels")
    model = load_model(model_of(workspace), "cpu", precision="float32")
    given = scans / "heart_test_0001_0001.nii.gz"
    image = nib.load(given)
    values = np.asarray(image.dataobj, dtype=np.float32)
    ways = {
        "paths": model.segment([None, given]),
        "nibabel": model.segment([None, image]),
        "array": model.segment(np.stack([np.full_like(values, np.nan), values]), affine=image.affine),
    }
    for way, found in ways.items():
        np.testing.assert_array_equal(found.labels, array_of(tmp_path / "out" / "heart_test_0001.nii.gz"), err_msg=way)
        assert list(found.generated_channels) == ["CT"] and any("channel CT is missing" in one for one in found.warnings)
        wanted = array_of(tmp_path / "out" / "generated_channels" / "heart_test_0001_0000.nii.gz")
        np.testing.assert_allclose(found.generated_channels["CT"], wanted, atol=1e-3, err_msg=way)
    whole = model.segment([raw / "imagesTs" / "heart_test_0001_0000.nii.gz", given])
    assert whole.generated_channels == {}
    for wrong, said in (([None, None], "found no channel"), ([given], "1 channel"), ([None, given, given], "3 channel")):
        with pytest.raises(UserError, match=said):
            model.segment(wrong)


def test_one_file_with_its_number_is_one_case(workspace: Path, raw: Path, tmp_path: Path) -> None:
    scan, out = raw / "imagesTs" / "heart_test_0003_0001.nii.gz", tmp_path / "out.nii.gz"
    model = ["-m", str(model_of(workspace)), "--device", "cpu", "--precision", "float32"]
    predict.main(["-i", str(scan), "-o", str(out), *model, "--save-generated-channels"])
    assert read_labels(out).array.any() and read_grid(tmp_path / "out_generated_0000.nii.gz") == read_grid(scan)


def test_a_segmentation_of_other_channels_is_made_again(
    workspace: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans, out = scans_without(raw, tmp_path / "scans", heart_test_0001=0), tmp_path / "out"
    segmented(workspace, scans, out)
    shutil.copy(raw / "imagesTs" / "heart_test_0001_0000.nii.gz", scans)
    (scans / "heart_test_0002_0001.nii.gz").unlink()
    capsys.readouterr()
    again = segmented(workspace, scans, out)
    printed = capsys.readouterr().out
    assert all(f"heart_test_000{n}: its scan has changed since, so it was segmented again" in printed for n in (1, 2))
    assert "1 case(s) were there already and were kept" in printed
    assert [again[f"heart_test_{n:04d}"]["generated_channels"] for n in (1, 2, 3)] == [[], ["MRI"], []]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("icf__default", ["icf needs all of them; diffatlas can generate what is missing"]),
        ("diffatlas__never", ["levels.missing_channel above 0", "--guidance-level 1 with several --steps"]),
    ],
)
def test_models_that_cannot_go_on_refusing(
    workspace: Path, raw: Path, tmp_path: Path, model: str, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    scans, folder = scans_without(raw, tmp_path / "scans", **LACKING), str(model_of(workspace, model))
    words = ["-i", str(scans), "-o", str(tmp_path / "out"), "-m", folder, "--device", "cpu"]
    with pytest.raises(SystemExit) as stopped:
        predict.main(words)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and not (tmp_path / "out").exists()
    assert "2 problem(s)" in error and "heart_test_0001: channel _0000 missing" in error
    assert all(text in error for text in said)
    given = raw / "imagesTs" / "heart_test_0001_0001.nii.gz"
    with pytest.raises(UserError, match="channel CT missing"):
        load_model(folder, "cpu").segment([None, given])
    if model == "diffatlas__never":
        predict.main([*words, "--guidance-level", "1", "--steps", "3"])
        assert "generated to fit the rest" in capsys.readouterr().out


def test_what_is_wrong_with_the_files_is_said(
    workspace: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = scans_without(raw, tmp_path / "scans", **LACKING)
    (scans / "heart_test_0001_0001.nii.gz").rename(scans / "patient.nii.gz")
    shutil.copy(scans / "heart_test_0003_0001.nii.gz", scans / "heart_test_0003_0002.nii.gz")
    with pytest.raises(SystemExit):
        segmented(workspace, scans, tmp_path / "out")
    error = capsys.readouterr().err
    assert "2 problem(s)" in error and "heart_test_0003_0002.nii.gz is one channel too many" in error
    assert "found patient.nii.gz; their names must end in the number of their channel" in error
