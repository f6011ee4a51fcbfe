"""A prediction of a small volume: what the command said, and what it took."""

import os
from pathlib import Path

import pytest

from benchmarks import memory
from benchmarks.feature_tables import memory_table
from benchmarks.record import read_rows


@pytest.mark.slow
def test_what_is_said_is_what_is_taken(tmp_path: Path) -> None:
    memory.main(["--sides", "72", "--patch", "24", "--steps", "1", "--results", str(tmp_path / "memory.csv")])
    (row,) = read_rows(tmp_path / "memory.csv").to_dict("records")
    assert (row["side"], row["in_files"]) == (72, False)
    assert row["said_gb"] == pytest.approx(row["peak_gb"], rel=0.25)
    table = memory_table(read_rows(tmp_path / "memory.csv"))
    assert "| 72 x 72 x 72 | all in memory |" in table


@pytest.mark.skipif("DIFFATLAS_TEST_LARGE" not in os.environ, reason="takes ten minutes; DIFFATLAS_TEST_LARGE=1 runs it")
def test_a_volume_of_512_voxels_along_each_axis_goes_into_six_gigabytes(tmp_path: Path) -> None:
    memory.main(["--sides", "512", "--steps", "1", "--max-memory", "6", "--results", str(tmp_path / "memory.csv")])
    (row,) = read_rows(tmp_path / "memory.csv").to_dict("records")
    assert (row["side"], row["labels"], row["in_files"]) == (512, 5, True)
    assert row["peak_gb"] < 6 and row["said_gb"] == pytest.approx(row["peak_gb"], rel=0.25)


def test_the_rows_shown_said_what_was_taken_and_keep_the_limit() -> None:
    """A volume of 512 voxels along each axis with five labels is segmented in under 6 GB."""
    rows = read_rows(memory.RESULTS / "memory.csv")
    assert len(rows) >= 3 and {256, 512} <= {*rows["side"]}
    assert ((rows["said_gb"] - rows["peak_gb"]).abs() <= 0.25 * rows["peak_gb"]).all()
    limited = rows[rows["in_files"]]
    assert (limited["peak_gb"] < limited["max_memory_gb"]).all() and limited["max_memory_gb"].max() <= 6
