"""The tables of the page and the README are those of the results files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import tables
from benchmarks.protocols import PROTOCOLS
from benchmarks.record import RESULTS, append_row, read_rows
from benchmarks.seeds import over_seeds


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_pages_show_what_was_measured(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == tables.with_tables(page), "run: python -m benchmarks.tables --write"


REGISTRATION = RESULTS / "registration.csv"  # of libraries outside this repository; its table is written by hand


def test_every_results_file_is_shown_and_says_how_it_was_made() -> None:
    files = {file for files, _ in tables.TABLES.values() for file in files}
    files |= {path.name for protocol, _ in tables.COLUMNS.values() for path in tables.times_of(protocol).values()}
    there = {path.name for path in RESULTS.iterdir()}
    of_gpu = {file for file in files if file.startswith("gpu_")}
    by_hours = {"fine_tuning.csv", "nnunet.csv", "given_slices.csv", "missing_channel.csv", "uncertainty.csv"}
    by_hours |= {"seen_contrasts.csv"}
    assert there <= files | {REGISTRATION.name} and files - there <= by_hours | of_gpu, "these need hours, or a GPU"
    for file in files & there:
        assert {"date", "cpu", "cores", "torch", "commit"} <= {*read_rows(RESULTS / file)}
    assert {"date", "cpu", "threads", "package", "settings"} <= {*read_rows(REGISTRATION)}


def test_the_table_of_registrations_is_that_of_its_results_file() -> None:
    page = (tables.ROOT / "documentation" / "explanation" / "what-was-tried.md").read_text(encoding="utf-8")
    lines = page.split("| deformable stage |")[1].splitlines()[2:]
    shown = {tuple(cell.strip() for cell in line.strip("|").split("|"))[1:] for line in lines if line.startswith("|")}
    rows = read_rows(REGISTRATION)
    cells = {}
    for row in rows[~rows["data"].str.contains("tuning")].itertuples():
        text = f"{row.dice_fused:.3f}" + (f", {row.seconds:.1f} s" if row.seconds else "")
        cells.setdefault(row.stage, []).append(text)
    assert shown == {tuple(one) for one in cells.values()}


def test_every_measured_cell_of_the_comparisons_is_on_the_page() -> None:
    for protocol in PROTOCOLS:
        columns = {column for of, columns in tables.COLUMNS.values() if of == protocol for column in columns}
        for path in tables.times_of(protocol).values():
            table = over_seeds(path)
            assert {*table["setting"]} <= columns
            assert {*zip(table["method"], table["recipe"], strict=True)} <= {*tables.METHODS}


def test_comparison_marks_the_best_and_leaves_open_what_was_not_run(tmp_path: Path) -> None:
    rows = [
        {"setting": "full", "method": "icf", "recipe": "default", "dice_average": 0.851, "dice_average_std": 0.0021,
         "nsd_average": 0.94},
        {"setting": "full", "method": "rba", "recipe": "default", "dice_average": 0.8612, "nsd_average": 0.93},
        {"setting": f"zero-shot:{tables.CT}", "method": "icf", "recipe": "default", "dice_average": 0.7, "nsd_average": 0.6},
        {"setting": f"zero-shot-unadapted:{tables.CT}", "method": "icf", "recipe": "default", "dice_average": 0.4,
         "nsd_average": 0.2},
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "comparison_heart-mri.csv", index=False)
    frame = pd.DataFrame(rows[:2]).assign(dice_average=0.9)
    frame.to_csv(tmp_path / "comparison_heart-mri_30m.csv", index=False)
    own, longer = tables.table_of("heart-mri", tmp_path).split("\n\nAfter 30m of training:\n\n")
    assert longer.splitlines()[0] == "| method | 40 cases |", "a setting that was not run has no column"
    header, _, *lines = own.splitlines()
    assert header == "| method | 40 cases | CT, adapted | CT, as it is |"
    assert lines == [
        "| `rba` | **0.861 (0.930)** |  |  |",
        "| `icf` | 0.851 ± 0.002 (0.940) | **0.700 (0.600)** | **0.400 (0.200)** |",
    ]


def test_steps_are_the_ablation_s_rows_of_known_names(tmp_path: Path) -> None:
    rows = [
        ("steps", "Dataset004_Hippocampus", "steps=0", 0.8),
        ("steps", "Dataset004_Hippocampus", "sampler.steps=16", 0.9),
        ("other", "Dataset004_Hippocampus", "sampler.steps=3", 0.7),
        ("steps_refined", tables.CT, "sampler.steps=2,sampler.answer=mean", 0.6),
    ]
    columns = ["name", "scored_on", "sampling", "dice_mean"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "ablation.csv", index=False)
    header, _, *lines = tables.table_of("steps", tmp_path).splitlines()
    assert header == "| sampling steps | 2 | 16 | all |"
    assert lines == [
        "| hippocampus, true masks made noisy alone |  | 0.900 | 0.800 |",
        "| generated CT hearts | 0.600 |  |  |",
    ]


def test_tables_are_put_between_their_markers(tmp_path: Path) -> None:
    page = "before\n<!-- table steps -->\nold\n<!-- end steps -->\nafter\n"
    assert tables.put(page, "steps", r"\1 new") == page.replace("old", r"\1 new")
    with pytest.raises(SystemExit, match="no markers"):
        tables.put(page, "speed", "")
    assert tables.table_of("speed", tmp_path) == tables.NOTHING


def test_rows_are_added_and_earlier_ones_kept_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "results" / "rows.csv"
    append_row(path, {"setting": "full", "dice": 0.10, "seed": 0, "commit": "47e8853"})
    path.write_text(path.read_text().replace("0.1", "0.100"))
    append_row(path, {"setting": "2-shot", "dice": None, "seed": 1, "note": "a, b"})
    assert path.read_text() == 'setting,dice,seed,commit,note\nfull,0.100,0,47e8853,\n2-shot,,1,,"a, b"\n'
    assert read_rows(path)["commit"].tolist()[0] == "47e8853", "a commit is no number"
