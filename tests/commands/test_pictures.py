"""Colour pictures and TIFF stacks through the real commands, as nnU-Net's data sets have them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from diffatlas_pipeline import load_model
from diffatlas_pipeline.commands import check, evaluate, plan_and_preprocess, predict, report, train
from diffatlas_pipeline.evaluation.stored import read_evaluation
from diffatlas_pipeline.volumes.io import read_labels
from diffatlas_pipeline.volumes.size_unit import AREA
from tests.planning.raw_data import write_description

pytestmark = pytest.mark.slow  # the trainings


def retina(seed: int, rows: int = 60, columns: int = 72) -> tuple[np.ndarray, np.ndarray]:
    """A fundus (rows, columns, 3) with a bright disc and dark vessels, and its labels: vessel 1, disc 2."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    centre = np.array([rows / 2, columns / 3]) + rng.uniform(-4, 4, 2)
    disc = np.hypot(y - centre[0], x - centre[1]) < 9
    vessel = np.abs(y - centre[0] - 8 * np.sin((x - centre[1]) / 9)) < 3
    labels = np.where(disc, 2, np.where(vessel, 1, 0)).astype(np.uint8)
    colours = np.array([[170, 90, 50], [120, 40, 30], [240, 210, 140]])[labels] + rng.normal(0, 6, (rows, columns, 3))
    return colours.clip(0, 255).astype(np.uint8), labels


def run(workspace: Path, number: str, raw: Path, output: Path, iterations: int) -> pd.Series:
    """Everything from check to scores; mean Dice per label."""
    shared = ["--workspace", str(workspace), "--device", "cpu"]
    check.main(["-d", number, "--workers", "1", "--workspace", str(workspace)])
    plan_and_preprocess.main(["-d", number, "--workers", "1", *shared])
    words = ["all", "--method", "icf", "--iterations", str(iterations), "--workers", "0", "--precision", "float32"]
    train.main([number, *words, *shared])
    predict.main(
        ["-i", str(raw / "imagesTr"), "-o", str(output), "--save-uncertainty", "--save-distance-maps", "--statistics", *shared]
    )
    evaluate.main(["-p", str(output), "-r", str(raw / "labelsTr"), "--workers", "1"])
    return pd.read_csv(output / "evaluation" / "cases.csv").groupby("label")["dice"].mean()


def test_a_data_set_of_colour_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = tmp_path / "raw" / "Dataset041_Retina", tmp_path / "out"
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for seed in range(4):
        colours, labels = retina(seed)
        Image.fromarray(colours).save(raw / "imagesTr" / f"eye{seed}_0000.png")
        Image.fromarray(labels).save(raw / "labelsTr" / f"eye{seed}.png")
    write_description(
        raw,
        {
            "channel_names": {"0": "rgb_to_0_1", "1": "rgb_to_0_1", "2": "rgb_to_0_1"},
            "labels": {"background": 0, "vessel": 1, "disc": 2},
            "file_ending": ".png",
            "overwrite_image_reader_writer": "NaturalImage2DIO",
        },
    )
    dice = run(tmp_path, "41", raw, out, 60)
    assert dice["disc"] > 0.6 and dice["vessel"] > 0.3
    plan = json.loads((tmp_path / "preprocessed" / raw.name / "plans.json").read_text())
    assert plan["dimensions"] == 2 and [one["scheme"] for one in plan["channels"]] == ["fixed"] * 3
    with Image.open(out / "eye1.png") as found:
        assert found.size == (72, 60) and set(np.unique(np.asarray(found))) <= {0, 1, 2}
    assert tifffile.imread(out / "uncertainty" / "eye1.tif").dtype == np.float32
    assert tifffile.imread(out / "distance_maps" / "eye1_disc.tif").shape == (60, 72)
    report.main(["-p", str(out), "-o", str(tmp_path / "report.html")])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "area [mm²]" in page and "[ml]" not in page and "Three planes through" not in page
    disc = (read_labels(out / "eye1.png").array == 2).sum()
    rows = pd.read_csv(out / "evaluation" / "cases.csv").set_index(["case", "label"])
    assert rows.loc[("eye1", "disc"), "area_prediction_mm2"] == pytest.approx(disc)
    told = json.loads((out / "prediction.json").read_text())["cases"]["eye1"]["volumes"]["disc"]
    assert told["area_mm2"] == pytest.approx(disc) and told["intervals_mm2"] == {}
    volumes = pd.read_csv(out / "volumes.csv").set_index(["case", "label"])
    assert volumes.loc[("eye1", "disc"), "area_mm2"] == pytest.approx(disc)
    evaluation = read_evaluation(out / "evaluation")
    assert evaluation.unit == AREA and evaluation.per_label()["disc"]["volume_prediction_ml"]["mean"] < 1
    model = load_model(tmp_path / "results" / raw.name / "icf__default")
    again = model.segment(raw / "imagesTr" / "eye1_0000.png")
    assert np.array_equal(again.labels, read_labels(out / "eye1.png").array[..., 0])
    assert again.areas_mm2["disc"] == pytest.approx(disc) and "mm²" in repr(again)
    predict.main(["-i", str(raw / "imagesTr" / "eye1_0000.png"), "-o", str(tmp_path / "one.png"), "-m", str(model.path)])
    assert np.array_equal(read_labels(tmp_path / "one.png").array[..., 0], again.labels)
    capsys.readouterr()
    Image.fromarray(retina(1)[0][..., 0]).save(tmp_path / "grey.png")
    with pytest.raises(SystemExit) as stopped:
        predict.main(["-i", str(tmp_path / "grey.png"), "-o", str(tmp_path / "no.png"), "-m", str(model.path)])
    assert stopped.value.code in (1, 2) and not (tmp_path / "no.png").exists()


def test_a_data_set_of_tiff_stacks(tmp_path: Path) -> None:
    raw = tmp_path / "raw" / "Dataset042_Cells"
    for seed in range(3):
        rng = np.random.default_rng(seed)
        z, y, x = np.mgrid[:12, :22, :26]
        labels = (np.hypot(np.hypot(2 * (z - 6), y - 11), x - 13 + rng.uniform(-2, 2)) < 8).astype(np.uint8)
        (raw / "imagesTr").mkdir(parents=True, exist_ok=True)
        (raw / "labelsTr").mkdir(exist_ok=True)
        image = (200 * labels + rng.normal(300, 20, labels.shape)).astype(np.uint16)
        tifffile.imwrite(raw / "imagesTr" / f"cell{seed}_0000.tif", image, photometric="minisblack")
        tifffile.imwrite(raw / "labelsTr" / f"cell{seed}.tif", labels, photometric="minisblack")
        for folder in ("imagesTr", "labelsTr"):
            (raw / folder / f"cell{seed}.json").write_text('{"spacing": [2, 1, 1]}')
    described = {"channel_names": {"0": "noNorm"}, "labels": {"background": 0, "cell": 1}, "file_ending": ".tif"}
    write_description(raw, {**described, "overwrite_image_reader_writer": "Tiff3DIO"})
    assert run(tmp_path, "42", raw, tmp_path / "out", 30)["cell"] > 0.6
    plan = json.loads((tmp_path / "preprocessed" / raw.name / "plans.json").read_text())
    assert plan["spacing_mm"] == [1, 1, 2] and plan["channels"][0]["scheme"] == "fixed"
    assert json.loads((tmp_path / "out" / "cell0.json").read_text()) == {"spacing": [2.0, 1.0, 1.0]}
