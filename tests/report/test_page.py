from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.evaluate import Evaluation, evaluate_folders
from diffatlas_pipeline.evaluation.stored import read_evaluation
from diffatlas_pipeline.report import page, viewer
from diffatlas_pipeline.report.page import spread_order, write_page
from diffatlas_pipeline.report.pictures import drawn_pictures, remarkable_by_score
from diffatlas_pipeline.report.plots import COLOURS
from diffatlas_pipeline.report.sources import Source, benchmark_source, labels_of, prediction_source
from tests.report.folders import REASON, write_benchmark, write_dataset, write_log, write_predictions

HOSTILE = ["<script>alert(1)<", "a&b\"'><img src=x onerror=boom()>", "$x_{1}$ %s {{7*7}}"]


class Page(HTMLParser):
    """Tags, references, scripts and the visible text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.blocks: dict[str, str] = {}
        self.text = ""
        self._block: str | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = dict(attrs)
        self.references += [
            named[key] or "" for key in ("src", "href", "xlink:href", "srcset", "action", "data") if key in named
        ]
        self.handlers += [key for key in named if key.startswith("on")]
        self._block = named.get("id") or "" if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._block = None

    def handle_data(self, data: str) -> None:
        if self._block is None:
            self.text += data
        else:
            self.blocks[self._block] = data


def scored(tmp_path: Path, names: list[str]) -> tuple[Source, Evaluation]:
    dataset = write_dataset(tmp_path / "raw", names)
    predictions = write_predictions(tmp_path / "predictions", names, uncertainty=True)
    evaluation = evaluate_folders(predictions, dataset / "labelsTs")
    return prediction_source(predictions, evaluation, evaluation.labels, None), evaluation


def assert_self_contained(made: Page) -> None:
    assert made.references
    for reference in made.references:
        assert reference.startswith(("data:", "#")), reference[:80]
    assert "link" not in made.tags or all(r.startswith(("data:", "#")) for r in made.references)
    assert not {"iframe", "object", "embed", "base"} & set(made.tags)


def test_page_of_scored_predictions(tmp_path: Path) -> None:
    source, evaluation = scored(tmp_path, ["a", "b", "c"])
    write_page(source, tmp_path / "r.html")
    made = Page(tmp_path / "r.html")
    assert_self_contained(made)
    style = (tmp_path / "r.html").read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    for label, metrics in evaluation.per_label().items():
        assert label in made.text
        assert f"{metrics['dice']['mean']:.3f}" in made.text
    assert made.tags.count("img") == 3
    assert made.tags.count("svg") >= 1
    data = json.loads(made.blocks["viewer-data"])
    assert [case["title"] for case in data["cases"]] == ["c", "b", "a"]  # worst first
    assert data["labels"][0]["name"] == "front"
    for case in data["cases"]:
        for block in (case["image"], case["reference"], *case["layers"]["all"].values()):
            assert block in made.blocks
    expected = evaluation.cases.set_index(["case", "label"])["dice"]
    assert data["cases"][0]["dice"]["all"] == pytest.approx([expected["c", "front"], expected["c", "back"]], abs=1e-3)


def test_training_curves_are_those_of_the_folds_that_predicted(tmp_path: Path) -> None:
    write_dataset(tmp_path / "raw", ["a"])
    predictions = write_predictions(tmp_path / "predictions", ["a"])
    model = tmp_path / "models" / "diffatlas__default"
    for fold in ("fold0", "fold1", "fold2"):
        write_log(model / fold)
    record = json.loads((predictions / "prediction.json").read_text())
    record |= {"model": str(model), "folds": ["fold0", "fold2"]}
    (predictions / "prediction.json").write_text(json.dumps(record))

    def curves() -> tuple[int, int]:
        """How many of the training loss, and of the validation Dice (a point: it was measured once)."""
        source = prediction_source(predictions, None, labels_of(predictions), None)
        write_page(source, tmp_path / "r.html")
        before, section, after = (tmp_path / "r.html").read_text(encoding="utf-8").partition('<section id="training">')
        assert bool(section) == ('href="#training"' in before)
        training = after.partition("</section>")[0]
        assert bool(section) == ("Training loss" in training and "Validation Dice" in training)
        lines, points = (
            re.findall(f"<{shape}[^>]*stroke: {COLOURS[0]}", training) for shape in (r'path d="[^"]*L[^"]*"', "use ")
        )
        return len(lines), len(points)

    assert curves() == (2, 2)
    (model / "fold2" / "log.csv").unlink()
    assert curves() == (1, 1)
    (model / "fold0" / "log.csv").unlink()
    assert curves() == (0, 0)


def test_hostile_names_are_shown_as_they_are(tmp_path: Path) -> None:
    source, _ = scored(tmp_path, HOSTILE)
    write_page(source, tmp_path / "r.html")
    made = Page(tmp_path / "r.html")
    assert_self_contained(made)
    assert not made.handlers
    for name in HOSTILE:
        assert name in made.text
    assert [case["title"] for case in json.loads(made.blocks["viewer-data"])["cases"]] == HOSTILE[::-1]
    assert made.tags.count("script") == len(made.blocks)
    assert all("alert(1)" not in code for name, code in made.blocks.items() if name != "viewer-data")


def test_hostile_names_of_all_else_are_shown_as_they_are(tmp_path: Path) -> None:
    """Of labels, data set, model, recipe and fold, also in what went wrong."""
    dataset, predictions = write_dataset(tmp_path / "raw", ["a"]), write_predictions(tmp_path / "predictions", ["a"])
    labels = {"background": 0, HOSTILE[0]: 1, HOSTILE[1]: 2}
    record = json.loads((predictions / "prediction.json").read_text())
    record |= {"dataset": HOSTILE[0], "labels": labels, "model": HOSTILE[1], "method": HOSTILE[0], "recipe": HOSTILE[1]}
    record |= {"folds": [HOSTILE[0]], "modality": HOSTILE[1]}
    record["cases"]["a"]["warnings"] = [HOSTILE[0], HOSTILE[1]]
    (predictions / "prediction.json").write_text(json.dumps(record))
    (dataset / "dataset.json").write_text(json.dumps({"labels": labels}))
    evaluation = evaluate_folders(predictions, dataset / "labelsTs")
    write_page(prediction_source(predictions, evaluation, evaluation.labels, None), tmp_path / "r.html")
    made = Page(tmp_path / "r.html")
    assert_self_contained(made)
    assert not made.handlers and all(name in made.text for name in HOSTILE[:2])
    assert made.tags.count("script") == len(made.blocks)
    assert all("alert(1)" not in code for name, code in made.blocks.items() if name != "viewer-data")


def test_without_references(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    write_dataset(tmp_path / "raw", names)
    predictions = write_predictions(tmp_path / "predictions", names)
    source = prediction_source(predictions, None, labels_of(predictions), tmp_path / "raw" / "imagesTs")
    notes = write_page(source, tmp_path / "r.html")
    made = Page(tmp_path / "r.html")
    assert any("No references" in note for note in notes)
    assert "Dice" not in made.text.split("Licence")[0]
    assert "[ml]" in made.text and made.tags.count("img") == 3
    data = json.loads(made.blocks["viewer-data"])
    assert len(data["cases"]) == 4
    assert all(not case["reference"] and case["hasImage"] for case in data["cases"])


def test_size_limit_keeps_worst_best_and_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PICTURE_SHARE", 1.0)  # pictures that are left out would make room for volumes
    names = [f"case{index}" for index in range(7)]
    source, evaluation = scored(tmp_path, names)
    write_page(source, tmp_path / "all.html")
    everything = (tmp_path / "all.html").stat().st_size
    blocks = sum(len(text) for name, text in Page(tmp_path / "all.html").blocks.items() if name.startswith("volume"))
    limit = everything - blocks // 2
    notes = write_page(source, tmp_path / "r.html", max_mb=limit / 1e6)
    assert (tmp_path / "r.html").stat().st_size <= limit * 1.02
    made = Page(tmp_path / "r.html")
    kept = [case["title"] for case in json.loads(made.blocks["viewer-data"])["cases"]]
    ranked = list(evaluation.case_dice().index)
    assert {ranked[0], ranked[-1], ranked[3]} <= set(kept) < set(ranked)
    note = next(note for note in notes if "not in the viewer" in note)
    for case in set(ranked) - set(kept):
        assert case in note
    assert note in made.text


def test_a_tiny_limit_leaves_tables(tmp_path: Path) -> None:
    source, _ = scored(tmp_path, ["a", "b"])
    notes = write_page(source, tmp_path / "r.html", max_mb=0.1)
    made = Page(tmp_path / "r.html")
    assert "viewer-bundle" not in made.blocks and "img" not in made.tags
    assert "front" in made.text
    assert any("pictures were left out" in note for note in notes)
    assert (tmp_path / "r.html").stat().st_size < 150_000


def test_without_niivue_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = scored(tmp_path, ["a"])
    monkeypatch.setattr(viewer, "PACKAGE", "no_such_package_at_all")
    notes = write_page(source, tmp_path / "r.html")
    assert any("viewer was left out" in note for note in notes)
    assert "viewer-data" not in Page(tmp_path / "r.html").blocks


def test_benchmark_page(benchmark_folder: Path, tmp_path: Path) -> None:
    folder = benchmark_folder
    notes = write_page(benchmark_source(folder), tmp_path / "r.html")
    made = Page(tmp_path / "r.html")
    assert_self_contained(made)
    assert any(REASON in note for note in notes)
    assert f"failed: {REASON}" in made.text
    assert "1 of 5 cells are still waiting" in made.text
    table = (folder / "table.md").read_text(encoding="utf-8")
    row = next(line for line in table.splitlines() if "diffatlas" in line and "±" in line)
    for cell in re.findall(r"\d\.\d{3} ± \d\.\d{3}", row):
        assert cell in made.text
    remark = next(line for line in table.splitlines() if "failed" in line).split(" | ")[-1].rstrip(" |")
    assert remark in made.text
    assert "**" not in made.text and "<strong>" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert made.tags.count("img") == 4  # worst and best of two methods, first seed
    data = json.loads(made.blocks["viewer-data"])
    assert [cell["title"] for cell in data["cells"]] == [
        "2-shot, diffatlas, seed 0",
        "2-shot, diffatlas, seed 1",
        "2-shot, icf, seed 0",
    ]
    assert len(data["cases"]) == 3 and len(data["cases"][0]["layers"]) == 3
    assert "minutes of training" in made.text
    training = (tmp_path / "r.html").read_text(encoding="utf-8").partition('<section id="training">')[2]
    assert all(f"</i>{name}</li>" in training for name in ("diffatlas", "icf"))


@pytest.mark.parametrize("count", range(1, 9))
def test_no_case_is_shown_twice(count: int, benchmark_folder: Path) -> None:
    run = next(run for run in benchmark_source(benchmark_folder).runs if run.evaluation)
    assert run.evaluation is not None
    rows = pd.concat([run.evaluation.cases.head(1).assign(case=f"case{index}", dice=index / 10) for index in range(count)])
    chosen = remarkable_by_score(replace(run.evaluation, cases=rows))
    assert len({case for case, _ in chosen}) == len(chosen) == min(count, 6)
    assert chosen[0][1].startswith("worst: case0") and (count == 1 or f"best: case{count - 1}" in {c[:11] for _, c in chosen})


def test_pictures_of_a_benchmark_are_those_of_its_scores(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, ["a", "b", "c"])
    run = benchmark_source(folder).runs[0]
    assert run.evaluation is not None and run.evaluation_folder is not None
    (run.evaluation_folder / "worst_a.png").write_bytes(b"of an earlier evaluation")
    titles = [picture.caption.split(": ")[1] for picture in drawn_pictures(run)]
    assert titles == [f"{role} case, {case}" for role, case in run.evaluation.remarkable().items() if role != "median"]
    assert len(titles) == 2
    alone = run.evaluation.cases[run.evaluation.cases["case"] == "a"]
    assert len(drawn_pictures(replace(run, evaluation=replace(run.evaluation, cases=alone)))) == 1


def test_a_method_whose_first_seed_failed_has_its_pictures(benchmark_folder: Path, tmp_path: Path) -> None:
    source = benchmark_source(benchmark_folder)
    later = tuple(replace(run, seed=1) if run.method == "icf" and run.evaluation else run for run in source.runs)
    write_page(replace(source, runs=later), tmp_path / "r.html")
    made = Page(tmp_path / "r.html")
    assert made.tags.count("img") == 4  # worst and best of both methods
    assert "first seed that was scored" in made.text


@pytest.mark.parametrize(("seconds", "said"), [(1.0, "1 s"), (90.0, "90 s"), (600.0, "10 min"), (5400.0, "90 min")])
def test_training_time_is_told_as_it_was_given(benchmark_folder: Path, tmp_path: Path, seconds: float, said: str) -> None:
    content = json.loads((benchmark_folder / "benchmark.json").read_text())
    (tmp_path / "benchmark.json").write_text(json.dumps({**content, "cells": [], "max_time_s": seconds}))
    assert ("training time per cell", said) in benchmark_source(tmp_path).facts


def test_evaluation_reads_back(tmp_path: Path) -> None:
    _, evaluation = scored(tmp_path, ["a", "NA"])
    evaluation.write(tmp_path / "evaluation")
    found = read_evaluation(tmp_path / "evaluation")
    pd.testing.assert_frame_equal(found.cases, evaluation.cases, check_dtype=False)
    assert (found.pairs, found.labels, found.tolerance_mm) == (evaluation.pairs, evaluation.labels, evaluation.tolerance_mm)
    assert found.mean() == pytest.approx(evaluation.mean())


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "damaged"), ("[]", "damaged"), ('{"version": 1}', "version 1"), ('{"version": 2}', "damaged")],
)
def test_unusable_benchmarks_are_user_errors(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "benchmark.json").write_text(text)
    with pytest.raises(UserError, match=said):
        benchmark_source(tmp_path)


def test_a_cell_whose_scores_are_gone_is_noted(benchmark_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(benchmark_folder, tmp_path / "copy")
    (folder / "cells" / "2-shot" / "icf__default__seed0" / "evaluation" / "cases.csv").unlink()
    source = benchmark_source(folder)
    assert any("2-shot, icf, seed 0: its scores cannot be shown" in note for note in source.notes)
    write_page(source, tmp_path / "r.html", max_mb=1)
    assert "its scores cannot be shown" in Page(tmp_path / "r.html").text


def test_a_benchmark_can_be_moved(tmp_path: Path) -> None:
    write_benchmark(tmp_path / "here", ["a", "b"]).rename(tmp_path / "there")
    source = benchmark_source(tmp_path / "there")
    assert [case.title for case in source.cases] == ["a", "b"] and not source.notes
    for case in source.cases:
        files = [case.image, case.reference, *(path for _, path in case.segmentations)]
        assert len(files) == 5 and all(path is not None and path.is_file() for path in files)


@given(st.integers(0, 300), st.integers(2, 40))
def test_every_beginning_of_the_order_is_spread(count: int, kept: int) -> None:
    order = spread_order(count)
    assert sorted(order) == list(range(count))
    if count >= 2:
        assert set(order[:2]) == {0, count - 1}
        begin = sorted(order[: min(kept, count)])
        widest = max(b - a for a, b in itertools.pairwise(begin))
        assert widest <= 2 * math.ceil((count - 1) / max(1, len(begin) - 1)) + 1


def test_pictures_share_of_the_limit() -> None:
    content = page.Content(pictures=[page.Picture(str(i), "x" * 100) for i in range(5)])
    page._limit_pictures(content, 250)
    assert [picture.caption for picture in content.pictures] == ["0", "1"]
    assert "3 of 5" in content.notes[0]
