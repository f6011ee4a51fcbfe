"""Beginning with another model against beginning afresh: the row of a real run of a few seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import fine_tuning, generated, tables
from benchmarks.raw_data import TASK
from benchmarks.record import read_rows
from diffatlas_pipeline.api.preparation import plan_and_preprocess
from diffatlas_pipeline.api.training import train
from tests.measuring.small_task import run_here, use_lists, write_task
from tests.planning.raw_data import write_dataset


@pytest.mark.slow
def test_a_tiny_run_makes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run_here(monkeypatch, fine_tuning, generated)
    write_dataset(tmp_path / "raw", cases=3)
    plan_and_preprocess(7, workspace=tmp_path, device="cpu", workers=1)
    model = train(7, "all", iterations=2, device="cpu", workers=0, workspace=tmp_path)
    use_lists(monkeypatch, write_task(tmp_path / TASK) / "protocol.json")
    results = tmp_path / "fine_tuning.csv"
    places = ["--workspace", str(tmp_path / "w"), "--data", str(tmp_path), "--results", str(results)]
    few = ["hippocampus", "--setting", "2-shot", "--max-time", "1s", "--init-from", str(model)]
    fine_tuning.main([*few, *places])
    assert "100% of the weights are taken" in capsys.readouterr().out
    (row,) = read_rows(results).to_dict("records")
    asked = [row[name] for name in ("protocol", "training_cases", "before", "before_cases", "seed")]
    assert asked == ["hippocampus", 2, "Dataset007_Balls", 3, 0]
    assert all(0 <= row[f"dice_{way}"] <= 1 for way in ("alone", "afresh", "begun"))
    shown = tables.table_of("fine_tuning", tmp_path).splitlines()[-1]
    assert shown.endswith(f"| {row['dice_afresh']:.3f} | {row['dice_begun']:.3f} |")
    with pytest.raises(SystemExit):
        fine_tuning.main([*few[:-1], str(tmp_path), *places])
    assert "0 trained folds there" in capsys.readouterr().err
