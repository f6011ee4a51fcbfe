"""Cells: which there are, where they lie, and when a finished one may be kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffatlas_pipeline.benchmark.cells import plan_cells, safe
from diffatlas_pipeline.benchmark.choices import MethodChoice
from diffatlas_pipeline.benchmark.record import DONE, FAILED, WAITING, Benchmark, Cell
from diffatlas_pipeline.benchmark.settings import Pool, PreparedSetting
from diffatlas_pipeline.benchmark.status import Status
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.models.folder import WEIGHTS
from tests.benchmark.content import ASKED, CONDITIONS, RECIPES, TEST, make_cell, with_labels


def begun(folder: Path, *cells: Cell, **asked: Any) -> Status:
    status = Status(folder)
    status.begin(replace(ASKED, **asked), cells, CONDITIONS)
    return status


def held(status: Status) -> Benchmark:
    assert status.benchmark is not None
    return status.benchmark


def finish(status: Status, cell: Cell, result: str = DONE) -> None:
    status.note_model(cell)
    (status.folder / cell.model).mkdir(parents=True, exist_ok=True)
    (status.folder / cell.model / WEIGHTS).touch()
    evaluation = status.folder / cell.evaluation
    evaluation.mkdir(parents=True, exist_ok=True)
    (evaluation / "summary.json").touch()
    status.update(cell, status=result)


def test_all_combinations_but_no_repetition_of_what_does_not_learn() -> None:
    drawn = PreparedSetting("2-shot", {0: Pool("2-shot", ("a", "b")), 1: Pool("2-shot-seed1", ("c", "d"))}, TEST, ())
    full = PreparedSetting("full", dict.fromkeys((0, 1), Pool("all", ("a", "b", "c", "d"))), TEST, ())
    methods = [MethodChoice("icf"), MethodChoice("mean")]
    cells = plan_cells(methods, [drawn, full], [0, 1], CONDITIONS)
    assert [(cell.setting, cell.method, cell.seed) for cell in cells] == [
        ("2-shot", "icf", 0),
        ("2-shot", "mean", 0),
        ("2-shot", "icf", 1),
        ("2-shot", "mean", 1),
        ("full", "icf", 0),
        ("full", "mean", 0),
        ("full", "icf", 1),
    ]
    assert len({cell.evaluation for cell in cells}) == len(cells)


def test_a_zero_shot_cell_shares_the_model_of_its_setting() -> None:
    cell = make_cell()
    assert make_cell(setting="zero-shot:Dataset002_B@2-shot").model == cell.model
    assert cell.model == "models/Dataset001_A/icf__default/2-shot"
    assert make_cell(seed=3).model == "models/Dataset001_A/icf__default/2-shot_seed3"
    assert safe("zero-shot:../a b@2-shot") == "zero-shot_.._a_b_2-shot"


def test_a_done_cell_is_kept_with_the_same_options_only(tmp_path: Path) -> None:
    cell = make_cell()
    finish(begun(tmp_path, cell), cell)
    assert Status(tmp_path).is_done(cell)
    for other in (
        make_cell(conditions=replace(CONDITIONS, max_time_s=601.0)),
        make_cell(conditions=replace(CONDITIONS, tolerance_mm=2.0)),
        make_cell(conditions=replace(CONDITIONS, device="cuda")),
        make_cell(pool=Pool("2-shot", ("c1", "c3"))),
        make_cell(test=with_labels("t1")),
        make_cell(test=replace(TEST, modality="MRI")),
    ):
        assert not Status(tmp_path).is_done(other)
    (tmp_path / cell.evaluation / "summary.json").unlink()
    assert not Status(tmp_path).is_done(cell)


@pytest.mark.parametrize("result", [FAILED, "waiting"])
def test_a_cell_that_is_not_done_is_run_again(tmp_path: Path, result: str) -> None:
    cell = make_cell()
    finish(begun(tmp_path, cell), cell, result)
    again = begun(tmp_path, cell)
    assert not again.is_done(cell) and [one.status for one in again.cells] == [WAITING]


def test_cells_of_earlier_runs_stay_beside_new_ones(tmp_path: Path) -> None:
    first, second = make_cell(), make_cell(method="mean")
    finish(begun(tmp_path, first, notes=("2-shot: as it was.", "full: of a setting that is gone.")), first)
    status = begun(tmp_path, second, methods=("mean",), notes=("2-shot: as it is.",))
    assert [cell.method for cell in status.cells] == ["icf", "mean"]
    assert held(status).methods == ("icf", "mean") and held(status).notes == ("2-shot: as it is.",)
    assert Status(tmp_path).benchmark == status.benchmark


def test_rows_have_one_order_whatever_is_run_first(tmp_path: Path) -> None:
    def cells(*settings: str) -> list[Cell]:
        methods = [("mean", "default"), ("icf", "default+atlases"), ("icf", "default")]
        return [make_cell(method=name, recipe=recipe, setting=text) for text in settings for name, recipe in methods]

    status = Status(tmp_path)
    first = cells("full", "zero-shot:Dataset002_B")
    status.begin(
        replace(ASKED, methods=("icf", "icf+atlases", "mean"), settings=("full", "zero-shot:Dataset002_B")), first, CONDITIONS
    )
    for cell in first:
        finish(status, cell)
    status.begin(
        replace(ASKED, methods=("mean", "icf+atlases", "icf"), settings=("16-shot", "2-shot")),
        cells("16-shot", "2-shot"),
        CONDITIONS,
    )
    assert held(status).settings == ("2-shot", "16-shot", "full", "zero-shot:Dataset002_B")
    assert held(status).methods == ("icf", "icf+atlases", "mean")
    rows = [(cell.setting, cell.recipe, cell.method) for cell in status.cells]
    assert rows[:3] == [("2-shot", "default", "icf"), ("2-shot", "default+atlases", "icf"), ("2-shot", "default", "mean")]
    assert tuple(setting for setting, *_ in rows[::3]) == held(status).settings


def test_cells_of_earlier_runs_leave_where_they_cannot_be_compared(tmp_path: Path) -> None:
    first = make_cell()
    finish(begun(tmp_path, first), first)
    longer = replace(CONDITIONS, tolerance_mm=2.0)
    other = make_cell(method="mean", conditions=longer)
    status = Status(tmp_path)
    assert status.begin(replace(ASKED, methods=("mean",)), [other], longer) == 1
    assert held(status).methods == ("mean",) and len(status.cells) == 1


def test_a_cell_of_an_earlier_run_whose_scores_are_gone_leaves(tmp_path: Path) -> None:
    first, failed = make_cell(), make_cell(seed=1)
    status = begun(tmp_path, first, failed)
    finish(status, first)
    finish(status, failed, FAILED)
    (tmp_path / first.evaluation / "summary.json").unlink()
    (tmp_path / failed.evaluation / "summary.json").unlink()
    status = Status(tmp_path)
    assert status.begin(replace(ASKED, methods=("mean",)), [make_cell(method="mean")], CONDITIONS) == 1
    assert {(cell.method, cell.status) for cell in status.cells} == {("mean", WAITING), ("icf", FAILED)}


def test_cells_of_a_recipe_that_has_changed_leave_and_the_others_stay(tmp_path: Path) -> None:
    own, other = make_cell(method="diffatlas"), make_cell(method="icmd")
    status = begun(tmp_path, own, other)
    finish(status, own)
    finish(status, other)
    changed = replace(CONDITIONS, recipes=RECIPES | {"diffatlas": "plan with another recipe"})
    status = Status(tmp_path)
    assert status.begin(ASKED, [make_cell(conditions=changed)], changed) == 1
    assert held(status).methods == ("icf", "icmd")


def test_models_with_other_options_are_told_and_removed_on_demand(tmp_path: Path) -> None:
    cell, beside = make_cell(), make_cell(seed=1)
    status = begun(tmp_path, cell, beside)
    assert status.model_matches(cell) is None
    finish(status, cell)
    finish(status, beside)
    longer = make_cell(conditions=replace(CONDITIONS, max_time_s=1200.0))
    assert status.is_trained(cell) and status.model_matches(longer) is False
    status.remove_models([longer])
    assert not (tmp_path / cell.model).exists() and (tmp_path / beside.model).exists()
    replanned = make_cell(seed=1, conditions=replace(CONDITIONS, recipes=RECIPES | {"icf": "another plan"}))
    finish(status, cell)
    status.remove_models([replanned])  # a model folder holds one plan only
    assert not (tmp_path / cell.model).exists() and status.models == {}


def test_a_model_of_unknown_origin_is_not_taken_for_ours(tmp_path: Path) -> None:
    cell = make_cell()
    (tmp_path / cell.model).mkdir(parents=True)
    assert begun(tmp_path, cell).model_matches(cell) is False


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 2}', '{"version": 2, "cells": [{}]}', '{"version": 3, "cells": []}'])
def test_a_damaged_or_foreign_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "benchmark.json").write_text(text)
    with pytest.raises(UserError, match=r"benchmark\.json: .*(another folder|the release)"):
        Status(tmp_path)


def test_a_benchmark_of_release_1_is_refused_before_anything_leaves_it(tmp_path: Path) -> None:
    """Its digests of recipes are not today's: each finished cell would look like one of another recipe, and leave."""
    cell = make_cell()
    finish(begun(tmp_path, cell), cell)
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))
    files = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=r"format version 1, but this release reads 2.*the release that wrote it, or.*another"):
        Status(tmp_path)
    assert files == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
