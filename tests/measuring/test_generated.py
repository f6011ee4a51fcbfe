"""Train on generated pairs, test on real scans: the row of a real run of a few seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import generated, tables
from benchmarks.raw_data import TASK
from benchmarks.record import read_rows
from tests.measuring.small_task import TEST, run_here, use_lists, write_task


@pytest.mark.slow
def test_a_tiny_run_makes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run_here(monkeypatch, generated)
    use_lists(monkeypatch, write_task(tmp_path / TASK) / "protocol.json")
    places = ["--workspace", str(tmp_path / "w"), "--data", str(tmp_path), "--results", str(tmp_path / "generated.csv")]
    few = ["hippocampus", "--setting", "2-shot", "--pairs", "2", "--max-time", "4s"]
    generated.main([*few, *places])
    (row,) = read_rows(tmp_path / "generated.csv").to_dict("records")
    asked = [row[name] for name in ("protocol", "setting", "real_cases", "pairs", "steps")]
    assert asked == ["hippocampus", "2-shot", 2, 2, 50]
    assert row["test_cases_real"] == row["test_cases_generated"] == TEST
    for name in ("real", "generated"):
        labels = [row[f"dice_{name}_{label}"] for label in ("large", "small")]
        assert row[f"dice_{name}"] == pytest.approx(sum(labels) / 2, abs=1e-3)
    assert 0 <= row["nearest_dice"] <= 1 and row["seconds_per_pair"] > 0
    assert f"| {row['dice_real']:.3f} |" in tables.table_of("generated", tmp_path)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        generated.main([*few, *places, "--max-time", "9s"])
    assert "was trained for 4.0 s, not for 9s" in capsys.readouterr().err
