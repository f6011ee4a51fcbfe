"""Coarse to fine against sampling the whole scan: the row of a real run of a few seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import large_field, tables
from benchmarks.record import read_rows
from diffatlas_pipeline.methods import begin
from tests.measuring.small_task import run_here


@pytest.mark.slow
def test_a_tiny_run_makes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = begin.BEGIN_LEVEL
    run_here(monkeypatch, large_field)
    sizes = ["--side", "24", "--heart", "16", "--cases", "3", "--test-cases", "1", "--memory", "0.02", "--max-time", "1s"]
    large_field.main([*sizes, "--workspace", str(tmp_path / "w"), "--results", str(tmp_path / "large_field.csv")])
    (row,) = read_rows(tmp_path / "large_field.csv").to_dict("records")
    assert row["seen"] < 0.25 and row["training_cases"] == 3
    ways = ("whole", *(f"from_{level:g}" for level in large_field.LEVELS))
    assert all(0 <= row[f"dice_{way}"] <= 1 and row[f"seconds_{way}"] > 0 for way in ways)
    assert usual == begin.BEGIN_LEVEL
    assert f"| the whole scan | {row['dice_whole']:.3f} |" in tables.table_of("large_field", tmp_path)
