"""How a prediction grows: a real run of two small sizes, and slopes that are known."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import growth
from benchmarks.feature_tables import growth_table, stages_table
from benchmarks.record import read_rows


@pytest.mark.slow
def test_a_quick_run_makes_a_row_for_each_size(tmp_path: Path) -> None:
    growth.main(["--quick", "--patch", "16", "--repeats", "1", "--results", str(tmp_path / "growth.csv")])
    rows = read_rows(tmp_path / "growth.csv")
    assert [*rows["side"]] == [16, 32] and [*rows["windows"]] == [1, 27]
    stages = [f"{stage}_s" for stage in growth.STAGES]
    assert rows["all_s"].to_numpy() == pytest.approx(rows[stages].sum(axis=1).to_numpy(), abs=1e-3)
    assert rows["sample_s"][1] > rows["sample_s"][0] > 0


def test_the_rows_shown_grow_linearly_and_only_the_network_takes_long() -> None:
    rows = read_rows(growth.RESULTS / "growth.csv")
    lines = growth_table(rows).splitlines()[2:]
    slopes = {line.split(" | ")[0].strip("| "): float(line.split(" | ")[-1].strip(" |")) for line in lines}
    assert all(slopes[name] == pytest.approx(1, abs=0.15) for name in ("windows", "sampling steps", "cases"))
    large = rows[rows["side"] >= 128]
    assert len(large) >= 2
    assert all((large[f"{stage}_s"] < 0.2 * large["all_s"]).all() for stage in growth.STAGES if stage != "sample")


def test_slopes_are_those_of_powers() -> None:
    """Seconds of voxels to the power of 1, steps to that of 2, labels to that of 0, and cases to that of 1/2."""
    rows = [
        size
        | {"windows": 8 * size["side"]}
        | {f"{stage}_s": 0.0 for stage in growth.STAGES}
        | {"all_s": size["side"] ** 3 * size["steps"] ** 2 * size["cases"] ** 0.5, "sample_s": 1.0}
        for size in growth.all_sizes()
    ]
    table = growth_table(pd.DataFrame(rows))
    slopes = {line.split(" | ")[0].strip("| "): line.split(" | ")[-1].strip(" |") for line in table.splitlines()[2:]}
    assert slopes == {"voxels": "1.00", "windows": "3.00", "sampling steps": "2.00", "labels": "0.00", "cases": "0.50"}
    assert "| voxels | 262,144 | 4,096,000 | 15.6 | 15.6 | 1.00 |" in table
    assert stages_table(pd.DataFrame(rows)).count("x 160") == 2
