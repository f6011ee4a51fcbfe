"""The cost of a missing channel: the row of a real run of a few seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.image import imread

from benchmarks import missing_channel, raw_data, tables
from benchmarks.record import read_rows
from tests.measuring.small_task import run_here


@pytest.mark.slow
def test_a_tiny_run_makes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run_here(monkeypatch, missing_channel)
    for name, value in (("HEART_CASES", 3), ("HEART_TEST_CASES", 2), ("HEART_SIZE", 16)):
        monkeypatch.setattr(raw_data, name, value)
    results = tmp_path / "missing_channel.csv"
    picture = tmp_path / "picture.png"
    places = ["--workspace", str(tmp_path / "w"), "--results", str(results), "--picture", str(picture)]
    missing_channel.main(["--max-time", "2s", *places])
    (row,) = read_rows(results).to_dict("records")
    assert [row[name] for name in ("max_time", "training_cases", "test_cases")] == ["2s", 3, 2]
    assert all(0 <= row[name] <= 1 for name in ("dice_all", "dice_without_CT", "dice_without_MRI"))
    for channel in ("CT", "MRI"):
        assert 0 < row[f"error_of_mean_{channel}"] < 1 and 0 < row[f"error_{channel}"] < 2
    assert imread(picture).std() > 0
    shown = tables.table_of("missing_channel", tmp_path).splitlines()
    assert len(shown) == 5 and f"| {row['dice_without_MRI']:.3f} | {row['error_MRI']:.2f} |" in shown[-1]
