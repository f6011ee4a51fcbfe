"""Regions, as nnU-Net's data sets of tumours have them, through the real commands: labels within labels."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from diffatlas_pipeline import load_model
from diffatlas_pipeline.commands import evaluate, generate, plan_and_preprocess, predict, report, train
from diffatlas_pipeline.datasets.codes import codes_of
from diffatlas_pipeline.evaluation.evaluate import find_labels
from diffatlas_pipeline.evaluation.stored import read_evaluation
from diffatlas_pipeline.preprocessing.store import open_case
from tests.planning.raw_data import write_description, write_nifti

NAME = "Dataset021_Tumour"
REGIONS = {"background": 0, "whole tumour": [1, 2, 3], "tumour core": [1, 3], "enhancing": [3]}
NAMES = ["whole tumour", "tumour core", "enhancing"]
CASES = ("case0", "case1", "case2", "case3")

pytestmark = pytest.mark.slow  # the trainings


def tumour(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two channels, and oedema (2) around a necrosis (1) with an enhancing rim (3)."""
    rng = np.random.default_rng(seed)
    shape = (26, 24, 22)
    grid = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    middle = (np.array(shape) - 1) / 2 + rng.uniform(-1, 1, 3)
    radius = np.sqrt(sum((g - m) ** 2 for g, m in zip(grid, middle, strict=True)))
    labels = np.select([radius < 3, radius < 5, radius < 8], [1, 3, 2], 0).astype(np.uint8)
    flair = np.array([20, 90, 100, 95])[labels] + rng.normal(0, 5, shape)
    t1 = np.array([50, 20, 45, 110])[labels] + rng.normal(0, 5, shape)
    return np.stack([flair, t1]).astype(np.float32), labels


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("workspace")
    folder = place / "raw" / NAME
    for seed, case in enumerate(CASES):
        image, labels = tumour(seed)
        for channel, array in enumerate(image):
            write_nifti(folder / f"imagesTr/{case}_{channel:04d}.nii.gz", array, np.eye(4))
        write_nifti(folder / f"labelsTr/{case}.nii.gz", labels, np.eye(4))
    channels = {"0": "FLAIR", "1": "T1"}
    described = {"channel_names": channels, "labels": REGIONS, "regions_class_order": [2, 1, 3], "file_ending": ".nii.gz"}
    write_description(folder, described)
    plan_and_preprocess.main(["-d", "21", "--workers", "1", "--workspace", str(place), "--device", "cpu"])
    few = ["--workers", "0", "--precision", "float32", "--workspace", str(place), "--device", "cpu"]
    train.main(["21", "fold0", "--iterations", "30", "--any-contrast", "--given-labels", *few])
    train.main(["21", "fold0", "--method", "icf", "--iterations", "30", *few])
    for method in ("icmd", "rba", "mean"):
        train.main(["21", "fold0", "--method", method, "--iterations", "2", "--no-validation", *few])
    return place


def model_of(workspace: Path, method: str) -> Path:
    (found,) = (workspace / "results" / NAME).glob(f"{method}__*")
    return found


def scans_of(raw: Path, place: Path, *cases: str) -> Path:
    """A folder with the scans of ``cases`` alone."""
    folder = place / "scans"
    folder.mkdir()
    for case in cases:
        for path in (raw / "imagesTr").glob(f"{case}_*"):
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_stored_distances_are_those_of_each_region(workspace: Path) -> None:
    stored, (_, labels) = open_case(workspace / "preprocessed" / NAME, "case0"), tumour(0)
    assert stored.distances is not None and stored.distances.shape[0] == 3
    for region, distances in zip(list(REGIONS.values())[1:], np.asarray(stored.distances[:]), strict=True):
        assert np.array_equal(distances < 0, np.isin(labels, region))


@pytest.mark.parametrize("method", ["diffatlas", "icf", "icmd", "rba", "mean"])
def test_every_method_segments_regions_within_regions(method: str, workspace: Path, tmp_path: Path) -> None:
    raw, out = workspace / "raw" / NAME, tmp_path / "out"
    words = ["-o", str(out), "-m", str(model_of(workspace, method)), "--device", "cpu"]
    predict.main(["-i", str(scans_of(raw, tmp_path, "case0", "case1")), *words, "--statistics"])
    evaluate.main(["-p", str(out), "-r", str(raw / "labelsTr"), "--missing", "skip", "--workers", "1"])
    scores = pd.read_csv(out / "evaluation" / "cases.csv").groupby("label")["dice"].mean()
    assert list(scores[NAMES].index) == NAMES
    # rba sees the scans it keeps; the mean atlas finds balls at about one place; the networks have hardly trained.
    assert scores.min() > {"rba": 0.9, "mean": 0.6, "icf": 0.5, "diffatlas": 0.3}.get(method, 0)
    volumes = pd.read_csv(out / "volumes.csv").pivot_table(index="case", columns="label", values="volume_ml")
    found = np.asarray(nib.load(out / "case0.nii.gz").dataobj)
    for name in NAMES:
        assert volumes.loc["case0", name] == pytest.approx(np.isin(found, REGIONS[name]).sum() / 1000)
    record = json.loads((out / "prediction.json").read_text())
    assert record["labels"] == {**REGIONS, "enhancing": 3} and record["regions_class_order"] == [2, 1, 3]


def test_scores_pictures_and_reports_know_the_regions(workspace: Path, tmp_path: Path) -> None:
    raw, out = workspace / "raw" / NAME, tmp_path / "out"
    known = find_labels(raw / "labelsTr")
    assert known is not None
    perfect = out / "case1.nii.gz"
    perfect.parent.mkdir()
    perfect.write_bytes((raw / "labelsTr" / "case1.nii.gz").read_bytes())
    evaluate.main(["-p", str(out), "-r", str(raw / "labelsTr"), "--missing", "skip", "--workers", "1"])
    evaluation = read_evaluation(out / "evaluation")
    assert evaluation.labels == known.labels
    assert (evaluation.cases["dice"] == 1).all() and len(list((out / "evaluation").glob("*.png"))) == 1
    truth = tumour(1)[1]
    assert list(evaluation.cases["volume_reference_ml"]) == [np.isin(truth, REGIONS[name]).sum() / 1000 for name in NAMES]
    report.main(["-p", str(out), "-r", str(raw / "labelsTr"), "--missing", "skip", "-o", str(tmp_path / "r.html")])
    assert "tumour core" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_regions_are_completed_generated_and_described(workspace: Path, tmp_path: Path) -> None:
    raw, model = workspace / "raw" / NAME, model_of(workspace, "diffatlas")
    given, labels = tmp_path / "given", tumour(0)[1]
    part = np.full_like(labels, 255)
    part[:, :, 11] = labels[:, :, 11]
    write_nifti(given / "case0.nii.gz", part, np.eye(4))
    words = [
        "-i",
        str(scans_of(raw, tmp_path, "case0")),
        "-o",
        str(tmp_path / "out"),
        "-m",
        str(model),
        "--given-labels",
        str(given),
        "--device",
        "cpu",
    ]
    predict.main([*words, "--save-distance-maps", "--save-uncertainty"])
    found = np.asarray(nib.load(tmp_path / "out" / "case0.nii.gz").dataobj)
    assert np.array_equal(found[:, :, 11], labels[:, :, 11])
    core = np.asarray(nib.load(tmp_path / "out" / "distance_maps" / "case0_tumour_core.nii.gz").dataobj)
    assert np.array_equal(core[:, :, 11] < 0, np.isin(labels[:, :, 11], REGIONS["tumour core"]))
    table = (tmp_path / "out" / "labels.ctbl").read_text().splitlines()
    assert [line.split()[:2] for line in table[3:]] == [["2", "whole_tumour"], ["1", "tumour_core"], ["3", "enhancing"]]
    generate.main(["-m", str(model), "-n", "1", "-o", str(tmp_path / "new"), "--steps", "2", "--workspace", str(workspace)])
    made = json.loads((tmp_path / "new" / "Dataset921_TumourGenerated" / "dataset.json").read_text())
    assert made["labels"] == {**REGIONS, "enhancing": 3} and made["regions_class_order"] == [2, 1, 3]
    assert load_model(model).labels == {"whole tumour": 2, "tumour core": 1, "enhancing": 3}


def test_the_plan_knows_how_large_each_region_is(workspace: Path) -> None:
    plan = json.loads((workspace / "preprocessed" / NAME / "plans.json").read_text())
    assert [label["members"] for label in plan["dataset"]["labels"]] == [[1, 2, 3], [1, 3], []]
    assert not codes_of(load_model(model_of(workspace, "icf")).plan.dataset.labels).exclusive
