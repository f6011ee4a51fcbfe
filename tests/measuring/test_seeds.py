"""Rows of one seed each: they come together over days, and the table is the mean over them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.record import read_rows
from benchmarks.seeds import KEYS, keep, over_seeds


def cells(*rows: tuple[str, int, float | None]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["method", "seed", "dice_average"])
    return frame.assign(setting="full", recipe="default", status="done", nsd_average=0.5, seconds_per_case=1.0)


def test_seeds_of_several_runs_make_one_row_of_the_table(tmp_path: Path) -> None:
    kept = tmp_path / "kept.csv"
    keep(cells(("icf", 0, 0.5), ("rba", 0, 0.7), ("icmd", 0, None)), kept)
    keep(cells(("icf", 1, 0.6)), kept)
    keep(cells(("icf", 2, 0.7)), kept)
    table = over_seeds(kept).set_index("method")
    assert table["seeds"].to_dict() == {"icf": 3, "rba": 1}, "what has not been run is no row"
    assert table.loc["icf", "dice_average"] == pytest.approx(0.6)
    assert table.loc["icf", "dice_average_std"] == pytest.approx(0.1)
    assert table.loc["icf", "nsd_average_std"] == 0 and pd.isna(table.loc["rba", "dice_average_std"])


def test_a_row_says_what_it_was_made_on_and_stays_while_nothing_changes(tmp_path: Path) -> None:
    kept = tmp_path / "kept.csv"
    keep(cells(("icf", 0, 0.51234567), ("rba", 0, 0.5)), kept)
    first = read_rows(kept)
    assert first["cpu"].all() and first["date"].str.match(r"\d{4}-\d\d-\d\d").all()
    first.assign(date="2020-01-01").to_csv(kept, index=False)
    keep(cells(("icf", 0, 0.51234567), ("rba", 0, 0.6), ("icf", 1, 0.5)), kept)
    dates = read_rows(kept).set_index(["method", "seed"])["date"]
    assert dates["icf", 0] == "2020-01-01" < min(dates["rba", 0], dates["icf", 1]) and len(dates) == 3


def test_a_row_over_seeds_of_an_earlier_file_gives_way_to_rows_of_one_seed(tmp_path: Path) -> None:
    kept = tmp_path / "kept.csv"
    earlier = {"dice_average": 0.9, "dice_average_std": 0.01, "nsd_average": 0.8, "seconds_per_case": 2.0, "seeds": 3}
    pd.DataFrame([dict(zip(KEYS, ("full", name, "default"), strict=True)) | earlier for name in ("icf", "rba")]).to_csv(kept)
    keep(cells(("icf", 0, 0.5)), kept)
    table = over_seeds(kept).set_index("method")
    assert table["seeds"].to_dict() == {"icf": 1, "rba": 3}
    assert table.loc["icf", "dice_average"] == 0.5 and table.loc["rba", "dice_average_std"] == 0.01
