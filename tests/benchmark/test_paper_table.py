"""Numbers of the table in closed form, in all three formats."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from diffatlas_pipeline.benchmark.paper_table import markdown, plain, summarise, write_tables
from diffatlas_pipeline.benchmark.record import DONE, FAILED, Benchmark, Cell
from tests.benchmark.content import ASKED, make_cell, write_scores


def cell_of(method: str, seed: int, setting: str = "2-shot", **changes: Any) -> Cell:
    return replace(make_cell(method=method, seed=seed, setting=setting), **changes)


@pytest.fixture
def content(tmp_path: Path) -> Benchmark:
    """icf with three seeds (one failed), mean with one seed and an undefined label, diffatlas failed; full: not run
    yet.
    """
    costs = {"status": DONE, "train_seconds": 600.0, "seconds_per_case": 0.5}
    cells = (
        cell_of("icf", 0, **costs),
        cell_of("icf", 1, **{**costs, "train_seconds": 660.0}),
        cell_of("icf", 2, status=FAILED, message="no | memory\nleft"),
        cell_of("mean", 0, **{**costs, "train_seconds": 0.0}),
        cell_of("diffatlas", 0, status=FAILED, message="<broken>"),
        cell_of("diffatlas", 1, status=FAILED, message="<broken>"),
        cell_of("icf", 0, setting="full"),
    )
    for cell, iterations in zip(cells[:4], (1000, 900, 1, 0), strict=True):
        (tmp_path / cell.model).mkdir(parents=True)
        (tmp_path / cell.model / "checkpoint_final.json").write_text(json.dumps({"iterations": iterations}))
    write_scores(tmp_path / cells[0].evaluation, {"front": 0.80, "back": 0.60}, {"front": 0.9, "back": 0.7})
    write_scores(tmp_path / cells[1].evaluation, {"front": 0.90, "back": 0.60}, {"front": 0.9, "back": 0.8})
    write_scores(tmp_path / cells[3].evaluation, {"front": 0.86, "back": None}, {"front": 0.1, "back": None})
    return replace(
        ASKED,
        labels=("front", "back"),
        methods=("diffatlas", "icf", "mean"),
        settings=("2-shot", "full"),
        seeds=(0, 1, 2),
        tolerance_mm=2.0,
        notes=("2-shot: trained on two cases.",),
        cells=cells,
    )


def test_means_and_spreads_over_the_seeds_that_are_done(tmp_path: Path, content: Benchmark) -> None:
    frame = summarise(tmp_path, content).set_index(["setting", "method"])
    icf = frame.loc[("2-shot", "icf")]
    assert icf["seeds"] == 2
    assert icf["dice_front"] == pytest.approx(0.85) and icf["dice_front_std"] == pytest.approx(0.05 * 2**0.5)
    assert icf["dice_average"] == pytest.approx(0.725) and icf["dice_average_std"] == pytest.approx(0.025 * 2**0.5)
    assert icf["dice_back_std"] == pytest.approx(0)
    assert icf["nsd_average"] == pytest.approx(0.825)
    assert icf["train_seconds"] == 630 and icf["seconds_per_case"] == 0.5
    assert icf["iterations"] == 950 and pd.isna(frame.loc[("2-shot", "mean"), "iterations"])
    mean = frame.loc[("2-shot", "mean")]
    assert mean["dice_average"] == pytest.approx(0.86) and pd.isna(mean["dice_average_std"]) and pd.isna(mean["dice_back"])
    broken = frame.loc[("2-shot", "diffatlas")]
    assert broken["seeds"] == 0 and pd.isna(broken["dice_average"])
    assert broken["remarks"] == "failed with seed 0, 1: <broken>"
    assert frame.loc[("full", "icf"), "remarks"] == "not run yet: seed 0"
    assert ("full", "mean") not in frame.index


def test_markdown_is_the_papers_table(tmp_path: Path, content: Benchmark) -> None:
    text = markdown(summarise(tmp_path, content), content)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    header = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert header[:6] == ["setting", "method", "Dice average", "Dice front", "Dice back", "NSD average"]
    row = next(line for line in lines if "| icf |" in line)
    assert "| 0.725 ± 0.035 | 0.850 ± 0.071 | **0.600 ± 0.000** | **0.825 ± 0.035** | **0.900 ± 0.000** |" in row
    assert "| 10 min | 950 | 0.50 | 2 | failed with seed 2: no \\| memory left |" in row
    sanity = next(line for line in lines if "| mean |" in line)
    assert "| **0.860** | **0.860** |  | 0.100 | 0.100 |  | 0 s |  | 0.50 |" in sanity
    assert len(lines) == 2 + 4
    assert "tolerance 2 mm" in text and "given 10 min" in text and "- 2-shot: trained on two cases." in text
    assert "Zero-shot" not in text


def test_the_files_agree(tmp_path: Path, content: Benchmark) -> None:
    csv, _, page = write_tables(tmp_path, content)
    read = pd.read_csv(io.StringIO(csv.read_text())).fillna({"remarks": ""})
    pd.testing.assert_frame_equal(read, summarise(tmp_path, content), check_dtype=False)
    text = page.read_text()
    assert "0.850 ± 0.071" in text and "<b>0.600 ± 0.000</b>" in text and "&lt;broken&gt;" in text
    assert "<script" not in text and "http" not in text
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", text.split("<tbody>")[1], re.DOTALL)
    assert [len(re.findall(r"<t[dh][ >]", row)) for row in rows] == [13, 12, 12, 13]  # the setting spans its rows


def test_the_terminal_shows_averages(tmp_path: Path, content: Benchmark) -> None:
    text = plain(summarise(tmp_path, content), content)
    row = next(line for line in text.splitlines() if "icf" in line)
    assert row.split("  ")[0] == "2-shot" and "0.725 ± 0.035" in row and "0.825 ± 0.035" in row and "0.850" not in row


def test_nothing_done_yet_is_a_table_too(tmp_path: Path, content: Benchmark) -> None:
    for path in write_tables(tmp_path, replace(content, cells=content.cells[-1:])):
        assert "not run yet" in path.read_text()
