"""What is measured of uncertainties: closed forms, and the row of a real run of a few seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import tables, uncertainty
from benchmarks.raw_data import TASK
from benchmarks.record import read_rows
from benchmarks.uncertainty import Voxels, area_under_curve, calibration_error
from tests.measuring.small_task import TEST, run_here, use_lists, write_task


def test_area_under_the_curve_is_the_share_of_pairs_in_the_right_order() -> None:
    wrong = np.array([True, True, False, False, False])
    assert area_under_curve(np.array([0.9, 0.2, 0.1, 0.2, 0.3]), wrong) == pytest.approx((3 + 1 + 0.5) / 6)
    assert area_under_curve(np.ones(5), wrong) == 0.5
    assert np.isnan(area_under_curve(np.ones(5), wrong & False))


def test_calibration_error_is_weighted_by_voxels_and_counts_those_near_borders() -> None:
    said = np.array([0.05] * 10 + [0.55] * 10 + [0.95] * 80)
    wrong = np.array([True] + [False] * 9 + [True] * 8 + [False] * 2 + [False] * 80)
    case = Voxels(said, wrong, np.arange(100) < 20)
    assert calibration_error([case]) == pytest.approx((abs(0.05 - 0.1) + abs(0.55 - 0.8)) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["diffatlas", "mean"])
def test_a_tiny_run_makes_a_row(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean atlas finds balls at once, so its volumes have intervals; a network of seconds finds anything."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(uncertainty, "DRAWS", 2)
    run_here(monkeypatch, uncertainty)
    use_lists(monkeypatch, write_task(tmp_path / TASK, training=7) / "protocol.json")
    places = ["--workspace", str(tmp_path / "w"), "--data", str(tmp_path), "--results", str(tmp_path / "uncertainty.csv")]
    uncertainty.main(["hippocampus", "--setting", "2-shot", "--method", method, "--max-time", "2s", *places])
    (row,) = read_rows(tmp_path / "uncertainty.csv").to_dict("records")
    assert [row[name] for name in ("setting", "training_cases", "test_cases")] == ["2-shot", 2, TEST]
    assert all(0 <= row[name] <= 1 for name in ("auc_probability", "auc_probability_near", "calibration_error"))
    if method == "mean":
        assert row["intervals"] == 2 * TEST and 0 < row["width_50%"] < row["width_90%"] and 0 <= row["held_90%"] <= 1
        assert "auc_spread" not in row
    else:
        assert 0 <= row["auc_spread_near"] <= 1
    assert f"{row['auc_probability_near']:.3f}" in tables.table_of("uncertainty", tmp_path)
