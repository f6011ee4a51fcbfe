"""The comparison: it makes exactly the cells that the page shows, and keeps what they were made on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import comparison, protocols
from benchmarks.protocols import HEARTS, PROTOCOLS, Prepared
from benchmarks.record import RESULTS, read_rows
from tests.measuring.small_task import write_task


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_command_makes_each_table_of_the_documentation(protocol: str) -> None:
    asked = {
        (setting, method, len(cells.seeds) if not method.startswith("rba") else 1)
        for cells in comparison.TABLES[protocol]
        for setting in cells.settings
        for method in cells.methods
    }
    numbers = {f"Dataset{number:03d}_HeartPhantom{modality}": str(number) for modality, number in HEARTS.values()}
    kept = set()
    for row in read_rows(RESULTS / f"comparison_{protocol}.csv").itertuples():
        kind, colon, dataset = row.setting.partition(":")
        method = row.method + "+atlases" * row.recipe.endswith("+atlases")
        if method != "mean":  # every benchmark adds it
            kept.add((kind + colon + numbers.get(dataset, dataset), method, row.seeds))
    assert kept == asked


def test_what_is_named_alone_is_run_with_the_rest_of_the_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(comparison, "do", lambda command, words: ran.append([command, *words]))
    monkeypatch.setattr(comparison, "prepare", lambda *_: Prepared(11, ("--splits-file", "s.json")))
    comparison.main(["heart-ct", "--methods", "icf", "--jobs", "3", "--workspace", str(tmp_path)])
    (words,) = ran
    assert words[:5] == ["benchmark", "-d", "11", "--methods", "icf"] and words[words.index("--jobs") + 1] == "3"
    settings = ["2-shot", "4-shot", "full", "zero-shot:12", "zero-shot-unadapted:12"]
    assert words[words.index("--settings") + 1 :][:5] == settings and words[words.index("--seeds") + 1] == "0"
    assert words[words.index("--splits-file") + 1] == "s.json" and words[words.index("--max-time") + 1] == "10m"


def table(path: Path, *rows: tuple[str, float, int]) -> Path:
    columns = ["method", "dice_average", "seeds"]
    frame = pd.DataFrame(rows, columns=columns).assign(setting="full", recipe="default", nsd_average=0.5, seconds_per_case=1.0)
    frame.to_csv(path, index=False)
    return path


def test_a_row_says_what_it_was_made_on_and_rows_of_other_runs_stay(tmp_path: Path) -> None:
    kept = tmp_path / "kept.csv"
    comparison.keep(table(tmp_path / "table.csv", ("icf", 0.51234567, 1), ("rba", 0.5, 1), ("icmd", 0.4, 0)), kept)
    first = read_rows(kept)
    assert first["method"].tolist() == ["icf", "rba"], "what has not been run is no row"
    assert first["cpu"].all() and first["date"].str.match(r"\d{4}-\d\d-\d\d").all()
    first.assign(date="2020-01-01").to_csv(kept, index=False)
    comparison.keep(table(tmp_path / "table.csv", ("icf", 0.51234567, 1), ("diffatlas", 0.6, 1)), kept)
    dates = read_rows(kept).set_index("method")["date"]
    assert dates["icf"] == dates["rba"] == "2020-01-01" < dates["diffatlas"] and len(dates) == 3


@pytest.mark.slow
def test_a_small_protocol_is_run_by_the_real_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_task(tmp_path / "Task04_Hippocampus")
    monkeypatch.setattr(protocols, "CASES", data / "protocol.json")
    options = ["--workspace", str(tmp_path / "w"), "--results", str(tmp_path), "--data", str(data)]
    comparison.main(["hippocampus", "--settings", "2-shot", "--seeds", "0", "1", "--methods", "rba", *options])
    rows = read_rows(tmp_path / "comparison_hippocampus.csv").set_index("method")
    assert rows["seeds"].tolist() == [1, 1], "both seeds have the same training cases, so nothing differs between them"
    assert rows.loc["rba", "dice_average"] > 0.5 and rows.loc["mean", "dice_average"] > 0, "the balls lie about the same"


def test_a_folder_without_the_task_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        comparison.main(["hippocampus", "--data", str(tmp_path)])
    assert "no dataset.json there" in capsys.readouterr().err
