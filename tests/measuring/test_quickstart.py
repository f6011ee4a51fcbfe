"""The timed quickstart: its row, from a real run of a few seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import quickstart, tables
from benchmarks.record import read_rows


@pytest.mark.slow
def test_a_tiny_run_makes_a_row(tmp_path: Path) -> None:
    results = tmp_path / "quickstart.csv"
    tiny = ["--max-time", "1s", "--cases", "2", "--test-cases", "1", "--size", "16", "--device", "cpu"]
    quickstart.main([*tiny, "--results", str(results)])
    (row,) = read_rows(results).to_dict("records")
    labels = [row[f"dice_{name}"] for name in ("Myo", "LV", "LA", "RA", "RV")]
    assert row["cases"] == 1 and 0 <= row["dice_mean"] <= 1 and row["minutes"] > 0
    assert row["dice_mean"] == pytest.approx(sum(labels) / 5, abs=1e-3)
    assert row["command"].startswith("DiffAtlas_quickstart --max-time 1s") and str(tmp_path) not in row["command"]
    assert f"| {row['dice_mean']:.3f} |" in tables.table_of("quickstart", tmp_path)


def test_it_insists_on_its_own_empty_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        quickstart.main(["--workspace", "somewhere"])
    assert stop.value.code == 2
    assert "empty folder" in capsys.readouterr().err
