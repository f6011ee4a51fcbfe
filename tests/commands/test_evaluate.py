from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline.commands import report
from diffatlas_pipeline.commands.evaluate import main
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import write_labels, write_scalars

GRID = Grid.of((16, 14, 12), np.diag([1.0, 1.0, 2.0, 1.0]))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three references with images and a dataset.json, and predictions shifted by 0, 1 and 2 voxels."""
    labels = np.zeros(GRID.shape, dtype=np.uint8)
    labels[3:9, 3:9, 3:9] = 4
    image = np.random.default_rng(0).random(GRID.shape).astype(np.float32)
    for shift, case in enumerate("abc"):
        write_labels(tmp_path / "labelsTr" / f"{case}.nii.gz", labels, GRID)
        write_labels(tmp_path / "out" / f"{case}.nii.gz", np.roll(labels, shift, axis=0), GRID)
        write_scalars(tmp_path / "imagesTr" / f"{case}_0000.nii.gz", image, GRID)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "cube": 4}}))
    return tmp_path


def failing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_table_files_and_pictures(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["-p", str(dataset / "out"), "-r", str(dataset / "labelsTr"), "--tolerance-mm", "2"])
    printed = capsys.readouterr().out
    assert "NSD (2 mm)" in printed
    row = next(line for line in printed.splitlines() if line.startswith("cube"))
    assert "0.833 ± 0.167" in row
    folder = dataset / "out" / "evaluation"
    names = {path.name for path in folder.iterdir()}
    assert names == {"summary.json", "cases.csv", "worst_c.png", "median_b.png", "best_a.png"}
    for name in names:
        assert str(folder / name) in printed
    assert json.loads((folder / "summary.json").read_text())["mean"]["dice"] == pytest.approx(5 / 6)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_command_that_it_ends_with_makes_a_report_of_the_same_scores(
    dataset: Path, elsewhere: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = dataset / "out"
    (predictions / "b.nii.gz").unlink()
    output = ["-o", str(dataset / "my scores")] if elsewhere else []
    main(["-p", str(predictions), "-r", str(dataset / "labelsTr"), "--tolerance-mm", "2", "--missing", "empty", *output])
    last = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert last[:2] == ["Next:", "DiffAtlas_report"]
    report.main([*last[2:], "--workers", "1"])
    page = (predictions / "report.html").read_text(encoding="utf-8")
    assert "NSD (2 mm)" in page and "scored as empty" in page


def test_missing_prediction(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "out" / "b.nii.gz").unlink()
    arguments = ["-p", str(dataset / "out"), "-r", str(dataset / "labelsTr"), "-o", str(tmp_path / "e")]
    text = failing(arguments, capsys)
    assert text.startswith("Error: ")
    assert "references: b." in text
    main([*arguments, "--missing", "empty"])
    assert "scored as empty" in capsys.readouterr().out


def test_mistakes_are_one_clear_error(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions, references = str(dataset / "out"), str(dataset / "labelsTr")
    assert "nowhere" in failing(["-p", "nowhere", "-r", references], capsys)
    (tmp_path / "empty").mkdir()
    assert "empty" in failing(["-p", str(tmp_path / "empty"), "-r", references], capsys)
    (tmp_path / "file").touch()
    assert "cannot be written" in failing(["-p", predictions, "-r", references, "-o", str(tmp_path / "file" / "x")], capsys)
    write_labels(dataset / "out" / "a.nii.gz", np.zeros((3, 3, 3), dtype=np.uint8), Grid.of((3, 3, 3), np.eye(4)))
    assert "a: the prediction is not on the reference's grid" in failing(["-p", predictions, "-r", references], capsys)
