from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import steps_curve, tables

PAGE = "before\n<!-- table steps -->\nold\n<!-- end steps -->\nafter\n"


def write_curve(folder: Path) -> None:
    rows = [
        {"solver": solver, "steps": steps, "guidance_level": 0.0, "draws": 1, "dice_mean": dice, "dice_a": dice}
        for solver, steps, dice in (("ddim", 16, 0.83), ("ddim", 2, 0.81), ("dpmpp_2m", 2, 0.8251))
    ]
    pd.DataFrame(rows).to_csv(folder / "steps_curve.csv", index=False)


def test_steps_table_sorts_by_steps_and_leaves_gaps_empty(tmp_path: Path) -> None:
    write_curve(tmp_path)
    lines = tables.table_of("steps", tmp_path).splitlines()
    assert lines[0] == "| steps | ddim, image at 0 | dpmpp_2m, image at 0 |"
    assert lines[2:] == ["| 2 | 0.810 | 0.825 |", "| 16 | 0.830 |  |"]


def test_tables_are_put_between_their_markers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_curve(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    tables.main(["steps", "--results", str(tmp_path), "--write", str(page)])
    first = page.read_text()
    assert first.startswith("before\n<!-- table steps -->\n| steps |") and first.endswith("<!-- end steps -->\nafter\n")
    assert "old" not in first
    tables.main(["steps", "--results", str(tmp_path), "--write", str(page)])
    assert page.read_text() == first
    with pytest.raises(SystemExit):
        tables.main(["speed", "--results", str(tmp_path), "--write", str(page)])


def test_a_commit_that_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    row = {"data": "A", "fold": "all", "method": "icf", "modality": "CT", "atlases": 4, "cases": 2, "share_0": 0.5}
    pd.DataFrame([row | {"commit": name} for name in ("47e8853", "0012345")]).to_csv(tmp_path / "atlas_share.csv", index=False)
    lines = tables.table_of("atlas_share", tmp_path).splitlines()
    assert [line.split(" | ")[-1] for line in lines[2:]] == ["47e8853 |", "0012345 |"]


def test_shares_are_averaged_over_models_of_other_seeds(tmp_path: Path) -> None:
    row = {"data": "A", "method": "icf", "modality": None, "atlases": 4, "cases": 2, "commit": "abc"}
    rows = [
        row | {"fold": fold, "share_0": score} for fold, score in (("4-shot", 0.5), ("4-shot-seed1_seed1", 0.7), ("all", 1))
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "atlas_share.csv", index=False)
    first, second = tables.table_of("atlas_share", tmp_path).splitlines()[2:]
    assert first == "| A, 4-shot, icf | its own | 4 | 2 | 0.600 | 2 | abc |" and second.startswith("| A, all, icf |")


def test_sampling_options_are_averaged_over_models(tmp_path: Path) -> None:
    row = {"data": "A", "method": "icf", "modality": "MRI", "cases": 2, "guidance_level": 0.2, "steps": 1, "draws": 3}
    row |= {"fold": "all", "dice_as_it_is": 0.5, "dice_adapted": 0.8, "dice_with_atlases": 0.9, "commit": "abc"}
    rows = [row, row | {"fold": "all_seed1", "dice_adapted": 0.7}, row | {"guidance_level": 0.0}]
    pd.DataFrame(rows).to_csv(tmp_path / "foreign_guidance.csv", index=False)
    first, second = tables.table_of("foreign_guidance", tmp_path).splitlines()[2:]
    assert first == "| A | icf | 2 MRI | 0.0 | 1 | 3 | 0.500 | 0.800 | 0.900 | 1 | abc |"
    assert second == "| A | icf | 2 MRI | 0.2 | 1 | 3 | 0.500 ± 0.000 | 0.750 ± 0.071 | 0.900 ± 0.000 | 2 | abc |"


def test_what_is_not_measured_is_said(tmp_path: Path) -> None:
    assert all(tables.table_of(name, tmp_path) == tables.NOTHING for name in tables.TABLES)


def test_the_page_has_a_place_for_every_table() -> None:
    page = tables.PAGE.read_text(encoding="utf-8")
    for name in tables.TABLES:
        page = tables.put(page, name, f"text of {name}")
    assert all(f"text of {name}" in page for name in tables.TABLES)


def test_combinations_are_cheapest_first_and_unique() -> None:
    words = ["-m", "x", "--steps", "0", "4", "4", "1", "--guidance-levels", "0", "1", "--draws", "1", "2"]
    ways = steps_curve.combinations(steps_curve.parser().parse_args(words))
    assert len(ways) == len(set(ways)) == 12
    assert (ways[0].steps, ways[0].draws) == (1, 1) and ways[-1].steps == 0 and ways[-1].draws == 2


def test_curve_is_drawn(tmp_path: Path) -> None:
    write_curve(tmp_path)
    steps_curve.draw(pd.read_csv(tmp_path / "steps_curve.csv"), tmp_path / "deep" / "curve.png")
    assert (tmp_path / "deep" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_ablation_table_names_what_was_changed(tmp_path: Path) -> None:
    shared = {"data": "Dataset004_A", "split": "4-shot", "training_cases": 4, "seed": 0, "commit": "abc", "cases": 3}
    rows = [
        {"method": "icf", "options": "", "elastic": 0.0, "sampling": "", "iterations": 9, "scored_on": "A", "dice_mean": 0.5},
        {
            "method": "diffatlas", "options": "start_fraction=0.5", "elastic": 0.7, "sampling": "steps=2", "iterations": 9,
            "scored_on": "B", "dice_mean": 0.61234,
        },
    ]  # fmt: skip
    rows.append(rows[0] | {"seed": 2, "dice_mean": 0.6})
    rows.append(rows[0] | {"seed": 1, "commit": "abd", "dice_mean": 0.7})
    pd.DataFrame([{**shared, **row} for row in rows]).to_csv(tmp_path / "ablation.csv", index=False)
    first, second, third = tables.table_of("ablation", tmp_path).splitlines()[2:]
    assert first == "| Dataset004_A, 4-shot (4 cases) | icf | none | the recipe's | 9 | 3 of A | 0.550 ± 0.071 | 0, 2 | abc |"
    assert third.endswith("| 0.700 | 1 | abd |")
    assert "start_fraction=0.5, elastic=0.7 | steps=2 | 9 | 3 of B | 0.612" in second


def test_comparison_table_shows_what_was_run_and_marks_the_best(tmp_path: Path) -> None:
    shared = {"train_seconds": 601.0, "seconds_per_case": 0.3456, "remarks": ""}
    rows = [
        {"setting": "4-shot", "method": "diffatlas", "recipe": "default+atlases", "seeds": 2, "dice_A": 0.851,
         "dice_A_std": 0.0021, "dice_average": 0.851, "dice_average_std": 0.0021, "nsd_average": 0.94, "nsd_average_std": 0.01,
         "iterations": 999.7},
        {"setting": "4-shot", "method": "rba", "recipe": "staple", "seeds": 1, "dice_A": 0.85, "dice_average": 0.85,
         "nsd_average": 0.93},
        {"setting": "full", "method": "icf", "recipe": "default", "seeds": 0},
    ]  # fmt: skip
    pd.DataFrame([{**shared, **row} for row in rows]).to_csv(tmp_path / "comparison_heart-ct.csv", index=False)
    header, _, *lines = tables.table_of("comparison_heart-ct", tmp_path).splitlines()
    assert header == "| setting | method | Dice A | Dice average | NSD | training | iterations | s/case | seeds |"
    assert lines[0] == "| 4-shot | diffatlas+atlases | 85.1 ± 0.2 | **85.1 ± 0.2** | 94.0 ± 1.0 | 10 min | 1000 | 0.35 | 2 |"
    assert lines[1] == "| 4-shot | rba:staple | 85.0 | 85.0 | 93.0 | 10 min |  | 0.35 | 1 |" and len(lines) == 2


@pytest.mark.parametrize("name", tables.TABLES)
def test_the_page_shows_what_was_measured(name: str) -> None:
    page = tables.PAGE.read_text(encoding="utf-8")
    assert page == tables.put(page, name, tables.table_of(name))


def test_the_readme_shows_what_was_measured() -> None:
    page, table = tables.README.read_text(encoding="utf-8"), tables.summary_table()
    assert page == tables.put(page, "summary", table)
    assert len(table.splitlines()) == 2 + sum(len(tests) for tests in tables.SUMMARY.values())
