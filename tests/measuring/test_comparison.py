"""The comparison: it makes exactly the cells that the page shows, and keeps what they were made on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import comparison, tables
from benchmarks.protocols import PROTOCOLS, Prepared
from benchmarks.seeds import over_seeds
from diffatlas_pipeline.benchmark.choices import MethodChoice
from tests.measuring.small_task import run_here, use_lists, write_task


def asked_for(protocol: str) -> dict[tuple[str, str], int]:
    """How many seeds a table asks for, by setting and method; what is not trained is run once."""
    asked: dict[tuple[str, str], int] = {}
    for cells in comparison.TABLES[protocol]:
        for setting in cells.settings:
            for method in cells.methods:
                seeds = 1 if method.startswith("rba") else len(cells.seeds)
                asked[setting, method] = max(asked.get((setting, method), 0), seeds)
    return asked


def kept(protocol: str) -> dict[tuple[str, str], int]:
    """How many seeds were run, of all but the mean atlas, which every benchmark adds."""
    found: dict[tuple[str, str], int] = {}
    for path in tables.times_of(protocol).values():
        for row in over_seeds(path).itertuples():
            number = re.sub(r":Dataset0*(\d+)_\w+", r":\1", row.setting)
            method = MethodChoice(row.method, row.recipe).text
            if method != "mean":
                found[number, method] = max(found.get((number, method), 0), row.seeds)  # of any time of training
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_command_makes_every_row_that_is_kept(protocol: str) -> None:
    asked = asked_for(protocol)
    assert {key: seeds for key, seeds in kept(protocol).items() if seeds > asked.get(key, 0)} == {}


@pytest.mark.parametrize("protocol", ["hippocampus", "heart-ct", "heart-mri"])
def test_only_synthetic_contrasts_may_be_still_to_run(protocol: str) -> None:
    run = kept(protocol)
    missing = {key for key, seeds in asked_for(protocol).items() if run.get(key, 0) < seeds}
    assert all("any-contrast" in method or setting in comparison.SIMULATED for setting, method in missing), missing


def test_rows_of_another_time_of_training_are_kept_apart() -> None:
    assert comparison.kept_as("heart-ct", "10m") == "comparison_heart-ct.csv"
    assert comparison.kept_as("heart-ct", "30m") == "comparison_heart-ct_30m.csv"


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


@pytest.mark.slow
def test_a_small_protocol_is_run_by_the_real_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_task(tmp_path / "Task04_Hippocampus")
    use_lists(monkeypatch, data / "protocol.json")
    run_here(monkeypatch, comparison)
    options = ["--workspace", str(tmp_path / "w"), "--results", str(tmp_path), "--data", str(tmp_path)]
    settings = ["2-shot", "zero-shot-unadapted:41@2-shot"]
    comparison.main(["hippocampus", "--settings", *settings, "--seeds", "0", "1", "--methods", "mean", *options])
    rows = over_seeds(tmp_path / "comparison_hippocampus.csv").set_index(["setting", "method"])
    assert rows["seeds"].tolist() == [1] * 2, "both seeds have the same training cases, so nothing differs between them"
    own, inverted = rows.loc["2-shot"], rows.loc["zero-shot-unadapted:Dataset041_HippocampusInverted@2-shot"]
    assert own.loc["mean", "dice_average"] > 0, "the balls lie about the same"
    assert inverted.loc["mean", "dice_average"] == own.loc["mean", "dice_average"], "the cases are the same"


def test_a_folder_without_the_task_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        comparison.main(["hippocampus", "--data", str(tmp_path)])
    assert "no Task04_Hippocampus/dataset.json there. Give the folder that holds" in capsys.readouterr().err
