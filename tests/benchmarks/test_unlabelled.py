"""What scans without labels bring: the whole benchmark on a small task, and the data it makes of hearts."""

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import tables, unlabelled
from diffatlas_pipeline.datasets.raw import read_dataset
from tests.benchmarks.small_task import write_task
from tests.planning.raw_data import write_dataset


def test_teacher_and_student_are_trained_and_tested(tmp_path: Path) -> None:
    data = write_task(tmp_path / "Task04_Hippocampus", training=20)
    options = ["--workspace", str(tmp_path / "w"), "--results", str(tmp_path / "r" / "unlabelled.csv"), "--data", str(data)]
    (tmp_path / "r").mkdir()
    unlabelled.main(["hippocampus", "--setting", "2-shot", "--scans", "1", "--max-time", "1s", *options])
    table = pd.read_csv(tmp_path / "r" / "unlabelled.csv")
    assert list(table["learnt_from"]) == ["labels alone", "labels and scans"]
    assert list(table["labelled_cases"]) == [2, 2] and list(table["unlabelled_cases"]) == [0, 1]
    alone, taught = table["seconds_in_all"]
    assert taught > alone + table["train_seconds"][1], "the teacher's time and that of labelling count"
    assert table["dice_mean"].between(0, 1).all() and (table["cases"] == 2).all() and (table["iterations"] > 0).all()
    lines = tables.table_of("unlabelled", tmp_path / "r").splitlines()
    assert lines[3].startswith("| hippocampus, 2-shot | diffatlas | labels and scans (2 + 1) | no |")


def test_scans_of_the_other_modality_are_put_beside_the_labelled_ones(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, cases=2, channels=("CT",))
    scans = write_dataset(tmp_path, cases=3, name="Dataset017_Scans")
    unlabelled.add_scans(dataset, scans, "MRI")
    unlabelled.add_scans(dataset, scans, "MRI")
    found = read_dataset(dataset)
    assert [(files.case, files.modality) for files in found.unlabelled] == [(f"scan_case0{i}", "MRI") for i in range(3)]
    assert json.loads((dataset / "dataset.json").read_text())["numTraining"] == 2


def test_a_longer_training_of_hearts_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        unlabelled.main(["heart-ct", "--longer", "20m", "--workspace", str(tmp_path)])
    assert "--longer: hippocampus only" in capsys.readouterr().err
