"""Generating pairs through the real commands, from a training of a few iterations to a planned data set of pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline import load_model
from diffatlas_pipeline.api.generation import dataset_folder
from diffatlas_pipeline.commands import plan_and_preprocess, train
from diffatlas_pipeline.commands.generate import main
from diffatlas_pipeline.datasets.raw import read_dataset
from diffatlas_pipeline.volumes.io import read_grid, read_labels, read_volume
from tests.planning.raw_data import write_dataset
from tests.test_outputs import documented

ITERATIONS = 80  # enough for balls to be there, so that what is generated can be planned


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Balls in CT, planned, and a model of recipe paper."""
    place = tmp_path_factory.mktemp("workspace")
    write_dataset(place / "raw", cases=4, channels=("CT",))
    shared = ["--workspace", str(place), "--device", "cpu"]
    plan_and_preprocess.main(["-d", "7", "--workers", "1", *shared])
    made = ["--recipe", "paper", "--iterations", str(ITERATIONS), "--workers", "0", "--precision", "float32"]
    train.main(["7", "fold0", "--no-validation", *made, *shared])
    return place


def generate(workspace: Path, output: Path, *options: str) -> Path:
    """The raw data set of generated pairs, in a few steps unless ``options`` say otherwise."""
    shared = ["--workspace", str(workspace), "--device", "cpu", "--precision", "float32", "--steps", "6"]
    main(["-d", "7", "-o", str(output), *shared, *options])
    return dataset_folder(output, "Dataset007_Balls")


def refused(workspace: Path, output: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        generate(workspace, output, *options)
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def pairs(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(workspace, tmp_path_factory.mktemp("generated"), "-n", "3")


def arrays(folder: Path) -> list[np.ndarray]:
    dataset = read_dataset(folder)
    return [read_volume(case.images).array for case in dataset.training] + [
        read_labels(case.label).array for case in dataset.training if case.label
    ]


def test_pairs_are_a_raw_data_set_that_can_be_planned(workspace: Path, pairs: Path, tmp_path: Path) -> None:
    assert pairs.name == "Dataset907_BallsGenerated"
    dataset = read_dataset(pairs)
    assert [case.case for case in dataset.training] == ["generated_0000", "generated_0001", "generated_0002"]
    assert {label.name: label.value for label in dataset.description.labels} == {"large": 3, "small": 7}
    plan = load_model(workspace / "results" / "Dataset007_Balls" / "diffatlas__paper", "cpu").plan
    for case in dataset.training:
        image, grid = read_volume(case.images), read_grid(case.images[0])
        assert case.label is not None and read_grid(case.label) == grid
        assert grid.spacing_mm == pytest.approx(plan.spacing_mm) and grid.shape == (24, 28, 20)
        assert image.array.min() >= plan.channels[0].lower and image.array.max() <= plan.channels[0].upper  # Hounsfield
        assert set(np.unique(read_labels(case.label).array)) <= {0, 3, 7}
    plan_and_preprocess.main(["-d", str(pairs), "--workspace", str(tmp_path), "--device", "cpu", "--workers", "1"])
    assert (tmp_path / "preprocessed" / pairs.name / "plans.json").is_file()


def test_they_are_compared_with_the_training_cases(pairs: Path) -> None:
    found = json.loads((pairs.parent / "statistics.json").read_text(encoding="utf-8"))
    assert (found["generated_cases"], found["real_cases"], found["training_cases"]) == (3, 3, 3)
    assert len(found["nearest"]) == 3 and len(found["nearest_of_training_cases"]) == 3
    balls = [4 / 3 * np.pi * radius**3 / 1000 for radius in (6, 3)]
    for name, volume_ml in zip(("large", "small"), balls, strict=True):
        assert found["volume_ml"][name]["real"]["mean"] == pytest.approx(volume_ml, rel=0.1)
    assert set(found["intensities"]["CT"]) == {"background", "large", "small"}
    assert found["made_with"]["sampler"] == {"solver": "dpmpp_2m", "steps": 6} and found["made_with"]["seed"] == 0
    page = (pairs.parent / "statistics.html").read_text(encoding="utf-8")
    assert "generated_0002" in page and page.count("<svg") == 5
    assert set(found) == documented("statistics.json")
    assert (pairs.parent / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")


def test_a_pair_does_not_depend_on_how_many_there_are(workspace: Path, pairs: Path, tmp_path: Path) -> None:
    alone = arrays(generate(workspace, tmp_path / "one", "-n", "1"))
    first, _, _, labels, _, _ = arrays(pairs)
    assert np.array_equal(alone[0], first) and np.array_equal(alone[1], labels)
    model = load_model(workspace / "results" / "Dataset007_Balls" / "diffatlas__paper", "cpu", precision="float32")
    made = model.generate(tmp_path / "python", 1, steps=6, workspace=workspace)
    assert made.page == tmp_path / "python" / "statistics.html" and (made.pairs, made.made) == (1, 1)
    assert np.array_equal(arrays(made.folder)[0], first)
    other = arrays(generate(workspace, tmp_path / "other", "-n", "1", "--seed", "5"))
    assert not np.allclose(other[0], first, atol=1)


def test_pairs_that_are_there_are_kept_and_not_mixed(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = generate(workspace, tmp_path / "Dataset123_Mine", "-n", "2", "--steps", "2")
    assert folder == tmp_path / "Dataset123_Mine"  # a folder named as a data set is one
    before = (folder / "labelsTr" / "generated_0000.nii.gz").stat().st_mtime_ns
    capsys.readouterr()
    generate(workspace, folder, "-n", "3", "--steps", "2")
    assert "2 pair(s) were there already" in capsys.readouterr().out
    assert (folder / "labelsTr" / "generated_0000.nii.gz").stat().st_mtime_ns == before
    assert "another seed" in refused(workspace, folder, capsys, "-n", "3", "--steps", "2", "--seed", "1")
    assert "holds 1 pair(s) more" in refused(workspace, folder, capsys, "-n", "2", "--steps", "2")
    generate(workspace, folder, "-n", "1", "--steps", "2", "--seed", "1", "--overwrite")
    assert len(read_dataset(folder).training) == 1


def test_without_the_training_cases_only_the_pairs_are_written(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = workspace / "results" / "Dataset007_Balls" / "diffatlas__paper"
    options = ["-m", str(model), "-o", str(tmp_path), "-n", "1", "--steps", "1", "--shape", "10", "12", "9"]
    main([*options, "--workspace", str(tmp_path / "elsewhere"), "--device", "cpu"])
    assert "Not compared with training cases: the training cases of fold0 are not in" in capsys.readouterr().out
    assert not (tmp_path / "statistics.json").exists()
    (pair,) = read_dataset(tmp_path / "Dataset907_BallsGenerated").training
    assert read_grid(pair.images[0]).shape == (10, 12, 9)


def test_what_cannot_be_generated_is_refused(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "-n 0: must be at least 1" in refused(workspace, tmp_path, capsys, "-n", "0")
    assert "--shape 4 4: 3 numbers" in refused(workspace, tmp_path, capsys, "--shape", "4", "4")
    assert "training steps. Take at most" in refused(workspace, tmp_path, capsys, "--steps", "5000")
    (tmp_path / "Dataset907_BallsGenerated").mkdir()
    (tmp_path / "Dataset907_BallsGenerated" / "dataset.json").write_text("{}")
    assert "this data set was not generated" in refused(workspace, tmp_path, capsys)
    train.main(["7", "fold0", "--method", "mean", "--no-validation", "--workspace", str(workspace), "--device", "cpu"])
    message = refused(workspace, tmp_path, capsys, "--method", "mean")
    assert "mean learns no joint model. Train --method diffatlas with --recipe paper" in message
