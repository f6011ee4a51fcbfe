"""The reference of the outputs names the fields that the commands really write."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from diffatlas_pipeline.commands import plan_and_preprocess, predict, train
from tests.benchmark.content import make_cell
from tests.planning.raw_data import change_description, write_dataset

PAGES = [Path(__file__).parents[1] / "documentation" / "reference" / name for name in ("outputs.md", "predict.md")]


def documented(heading: str, table: str = "") -> set[str]:
    """The fields in the first column of the tables below a heading; ``table`` is how the header of the only one
    begins.
    """
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    text = re.split(r"^##+ ", pages.split(f"\n### {heading}\n")[1], flags=re.MULTILINE)[0]
    if table:
        text = text.split(f"\n| {table} |")[1].split("\n\n")[0]
    fields: set[str] = set()
    for cell in re.findall(r"^\| (`[^|]*) \|", text, flags=re.MULTILINE):
        first, *others = re.findall(r"`([^`]+)`", cell)
        stem = re.sub(r"_[a-z]+\d$", "", first)  # of `loss_mask_band0`, `_band1`
        fields |= {first, *(stem + other if other.startswith("_") else other for other in others)}
    return fields


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the folds ``fold0`` and ``fold0_taught``, whose teacher is the former; and ``out`` with a
    prediction.
    """
    workspace = tmp_path_factory.mktemp("workspace")
    raw = write_dataset(workspace / "raw", cases=4, channels=("CT",))
    (raw / "imagesUn").mkdir()
    (raw / "imagesTr" / "case03_0000.nii.gz").rename(raw / "imagesUn" / "scan_0000.nii.gz")
    (raw / "labelsTr" / "case03.nii.gz").unlink()
    change_description(raw, numTraining=3, unlabelled_modality="MRI")
    shared = ["--workspace", str(workspace), "--device", "cpu"]
    plan_and_preprocess.main(["-d", "7", "--workers", "1", *shared])
    training = ["7", "fold0", "--iterations", "2", "--workers", "0", "--precision", "float32", *shared]
    train.main(training)
    train.main([*training, "--teacher", "fold0", "--no-validation"])
    scan = raw / "imagesTr" / "case00_0000.nii.gz"
    folder = workspace / "results" / raw.name / "diffatlas__default"
    predict.main(["-i", str(scan), "-o", str(folder / "out"), "-m", str(folder), "-f", "fold0", *shared])
    return folder


def test_metadata_of_a_model(model: Path) -> None:
    fields = documented("checkpoint_final.json") - {"init_from"}
    assert set(read(model / "fold0_taught" / "checkpoint_final.json")) == fields
    assert set(read(model / "fold0" / "checkpoint_final.json")) == fields - {"learnt_modalities"}


def test_postprocessing_of_a_model(model: Path) -> None:
    measured = read(model / "fold0" / "postprocessing.json")["measured"]
    assert len(measured) == 4 and all(set(one) == documented("postprocessing.json") for one in measured)


def test_log_of_a_training(model: Path) -> None:
    columns = set(pd.read_csv(model / "fold0" / "log.csv").columns)
    labels = {column for column in columns if column.startswith("dice_")}
    assert labels == {"dice_large", "dice_small"}
    assert {"loss", "loss_mask"} < columns and columns - labels < documented("log.csv")


def test_record_of_a_prediction(model: Path) -> None:
    record = read(model / "out" / "prediction.json")
    inner = {"status", "message", "warnings", "seconds", "network_share", "familiarity", "volumes", "generated_channels"}
    inner |= {"input", "output", "dicom", "made_with"}
    assert set(record["cases"]["case00"]) == inner
    assert set(record) == documented("prediction.json")


def test_scores(model: Path) -> None:
    validation = model / "fold0" / "validation"
    assert set(pd.read_csv(validation / "cases.csv").columns) == documented("cases.csv")
    assert set(read(validation / "summary.json")) == documented("summary.json")


def test_cells_of_a_benchmark() -> None:
    assert set(vars(make_cell())) == documented("benchmark.json", "entry of a cell")
