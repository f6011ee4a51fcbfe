"""A contrast that was learnt: the row of a real run of a few seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import generated, seen_contrasts, tables
from benchmarks.raw_data import TASK
from benchmarks.record import read_rows
from tests.measuring.small_task import run_here, use_lists, write_task


@pytest.mark.slow
def test_a_tiny_run_makes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run_here(monkeypatch, seen_contrasts, generated)
    use_lists(monkeypatch, write_task(tmp_path / TASK) / "protocol.json")
    results = tmp_path / "seen_contrasts.csv"
    places = ["--workspace", str(tmp_path / "w"), "--data", str(tmp_path), "--results", str(results)]
    seen_contrasts.main(["--contrasts", "Inverted", "--max-time", "1s", *places])
    (row,) = read_rows(results).to_dict("records")
    assert [row[name] for name in ("contrast", "training_cases", "test_cases_seen", "seed")] == ["Inverted", 6, 2, 0]
    assert 0 <= row["dice_seen"] <= 1 and row["iterations"] > 0
    assert tables.table_of("seen_contrasts", tmp_path).splitlines()[-1].endswith(f"| {row['dice_seen']:.3f} |")
