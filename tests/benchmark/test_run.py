"""How a cell is run: which commands with which arguments, what a failure says, how long the rest takes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from diffatlas_pipeline.benchmark.record import DONE, FAILED, Cell
from diffatlas_pipeline.benchmark.run import Runner, reason
from diffatlas_pipeline.benchmark.schedule import seconds_left
from diffatlas_pipeline.benchmark.settings import Pool, PreparedSetting
from diffatlas_pipeline.benchmark.status import Status
from diffatlas_pipeline.console import duration
from diffatlas_pipeline.files import to_json
from diffatlas_pipeline.methods.registry import default_recipes
from diffatlas_pipeline.models.folder import WEIGHTS
from tests.benchmark.content import ASKED, CONDITIONS, POOL, TEST, make_cell
from tests.factories import make_plan


class Commands:
    """Stands for the commands: leaves the files that they leave, or fails where it is told to."""

    def __init__(self, folder: Path, failing: str = "") -> None:
        self.folder, self.failing, self.calls = folder, failing, []  # type: ignore[var-annotated]

    def __call__(self, command: str, words: Sequence[str], log: Path) -> int:
        self.calls.append((command, list(words)))
        if command == self.failing:
            log.write_text("50%\rError: no such thing.\n  case1: it is gone\nWritten: nothing\n")
            return 2
        options = dict(itertools.pairwise(words))
        if command == "train":
            fold = words[1] + (f"_seed{options['--seed']}" if options["--seed"] != "0" else "")
            folder = self.folder / "models" / words[0] / f"{options['--method']}__{options['--recipe']}" / fold
            folder.mkdir(parents=True)
            (folder / WEIGHTS).touch()
            (folder.parent / "plans.json").write_text(to_json(make_plan(recipes=default_recipes())))
            (folder / "checkpoint_final.json").write_text('{"seconds": 12.5}')
        if command == "predict":
            Path(options["-o"]).mkdir(parents=True, exist_ok=True)
            cases = {name: {"seconds": {"read": 0.25, "sample": 0.5}} for name in ("t1", "t2")}
            (Path(options["-o"]) / "prediction.json").write_text(json.dumps({"cases": cases}))
        if command == "evaluate":
            Path(options["-o"]).mkdir(parents=True, exist_ok=True)
            (Path(options["-o"]) / "summary.json").touch()
        return 0


def runner(folder: Path, commands: Commands, *cells: Cell, pool: Pool = POOL) -> Runner:
    status = Status(folder)
    status.begin(ASKED, cells, CONDITIONS)
    settings = {cell.setting: PreparedSetting(cell.setting, dict.fromkeys(range(3), pool), TEST, ()) for cell in cells}
    sets = {"Dataset001_A": folder / "one", "Dataset002_B": folder / "two"}
    return Runner(status, commands, settings, sets, "cpu", Path("dataset.json"), 1)


def run(made: Runner, *cells: Cell) -> None:
    for cell in cells:
        made.run(cell)


def zero_shot(seed: int = 0) -> Cell:
    return make_cell(
        setting="zero-shot:Dataset002_B@2-shot", seed=seed, test=replace(TEST, dataset="Dataset002_B", modality="MRI")
    )


def test_the_use_of_atlases_needs_no_other_training(tmp_path: Path) -> None:
    cell, beside = make_cell(), make_cell(recipe="default+atlases")
    commands = Commands(tmp_path)
    made = runner(tmp_path, commands, cell, beside)
    run(made, cell, beside)
    assert [name for name, _ in commands.calls] == ["train", "predict", "evaluate", "predict", "evaluate"]
    plain, fused = (words for name, words in commands.calls if name == "predict")
    assert "--no-with-atlases" in plain and "--with-atlases" in fused
    assert plain[-2:] == fused[-2:] == ["--registrations", str(tmp_path / "registrations")]
    assert plain[plain.index("-o") + 1] != fused[fused.index("-o") + 1]
    assert cell.options.training == beside.options.training and cell.options != beside.options


ONE_ATLAS = Pool("own", ("c1",))


def test_a_cell_is_trained_predicted_with_its_uncertainty_and_evaluated(tmp_path: Path) -> None:
    cell, commands = make_cell(), Commands(tmp_path)
    run(runner(tmp_path, commands, cell), cell)
    assert [name for name, _ in commands.calls] == ["train", "predict", "evaluate"]
    assert "--save-uncertainty" in commands.calls[1][1]


def test_cells_finished_before_uncertainty_was_asked_for_stay(tmp_path: Path) -> None:
    """The options of a cell as benchmark.json of an earlier release holds them."""
    cell = make_cell(method="icmd")
    made = runner(tmp_path, Commands(tmp_path), cell)
    run(made, cell)
    content = json.loads((tmp_path / "benchmark.json").read_text())
    [entry] = content["cells"]
    assert entry["options"].pop("with_atlases") is entry["predicted"].pop("with_atlases") is False
    (tmp_path / "benchmark.json").write_text(json.dumps(content))
    again = Status(tmp_path)
    assert again.is_done(cell) and again.is_trained(cell)


def test_one_model_is_trained_once_and_tested_on_both_data_sets(tmp_path: Path) -> None:
    cell = make_cell(seed=2)
    commands = Commands(tmp_path)
    made = runner(tmp_path, commands, cell, zero_shot(2))
    run(made, cell, zero_shot(2))
    assert [name for name, _ in commands.calls] == ["train", "predict", "evaluate", "predict", "evaluate"]
    train, predict, evaluate, other, _ = (words for _, words in commands.calls)
    assert train[:2] == ["Dataset001_A", "2-shot"] and train[-2:] == ["--max-time", "600s"] and "--no-validation" in train
    assert predict[predict.index("-f") + 1] == "2-shot_seed2" and "--modality" not in predict
    assert other[other.index("-i") + 1] == str(tmp_path / "two" / "imagesTs") and other[other.index("--modality") + 1] == "MRI"
    assert evaluate[evaluate.index("-r") + 1] == str(tmp_path / "one" / "labelsTs")
    record = made.status.known(cell)
    assert record is not None and record.status == DONE
    assert record.train_seconds == 12.5 and record.seconds_per_case == 0.75
    assert made.status.is_done(cell) and made.status.is_done(zero_shot(2))


def test_own_splits_are_handed_on(tmp_path: Path) -> None:
    cell, commands = make_cell(), Commands(tmp_path)
    run(runner(tmp_path, commands, cell, pool=replace(POOL, splits_file=Path("own.json"))), cell)
    assert commands.calls[0][1][-2:] == ["--splits-file", "own.json"]


@pytest.mark.parametrize("failing", ["train", "predict", "evaluate"])
def test_a_failure_says_why_and_is_tried_again(tmp_path: Path, failing: str) -> None:
    cell, beside = make_cell(), make_cell(seed=1)
    commands = Commands(tmp_path, failing)
    made = runner(tmp_path, commands, cell, zero_shot(), beside)
    run(made, cell, zero_shot())
    record = made.status.known(cell)
    assert record is not None and record.status == FAILED
    assert record.message == f"DiffAtlas_{failing}: no such thing. case1: it is gone"
    assert [name for name, _ in commands.calls].count("train") == 1  # not once more for the other test set
    again = Commands(tmp_path)
    made = runner(tmp_path, again, cell, zero_shot(), beside)
    run(made, cell, zero_shot())
    assert made.status.is_done(cell) and made.status.is_done(zero_shot())
    assert ("train" in [name for name, _ in again.calls]) == (failing == "train")


def test_predictions_of_another_modality_are_not_kept(tmp_path: Path) -> None:
    cell = make_cell()
    commands = Commands(tmp_path)
    run(runner(tmp_path, commands, cell), cell)
    old = tmp_path / cell.predictions / "t1.nii.gz"
    old.touch()
    scored = make_cell(conditions=replace(CONDITIONS, tolerance_mm=3.0))
    run(runner(tmp_path, commands, scored), scored)
    assert old.exists()  # another tolerance needs no other prediction
    other = make_cell(test=replace(TEST, modality="MRI", adapted=False))
    run(runner(tmp_path, commands, other), other)
    assert not old.exists()


def test_reasons(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert "signal 9" in reason(log, -9) and reason(log, 7) == "exit code 7"
    log.write_text("Traceback (most recent call last):\n  File x\nValueError: wrong\n\n")
    assert reason(log, 1) == "ValueError: wrong"
    log.write_text("Error: " + "long " * 1000)
    assert len(reason(log, 1)) < 420


def test_time_left() -> None:
    cell, other = make_cell(), make_cell(seed=1)
    mean = make_cell(method="mean")
    wall = {"train": 605.0, "predict": 6.0, "evaluate": 2.0}
    done = replace(cell, status=DONE, test_cases=("t1", "t2", "t3", "t4"), wall_seconds=wall)
    assert seconds_left([cell, other, mean], [], []) == 1200  # the budget, nothing known of testing
    assert seconds_left([cell, zero_shot(), other], [], [done]) == 2 * 605 + 3 * 2 * 2
    assert seconds_left([cell, mean], [cell.model], [done]) == 2 * 2 + 2 * 2
    unlimited = make_cell(conditions=replace(CONDITIONS, max_time_s=None))
    assert seconds_left([unlimited], [], []) is None
    assert seconds_left([unlimited], [], [done]) == 605 + 2 * 2
    assert [duration(s) for s in (5, 89, 91, 3600, 5400, 12000)] == [
        "5 s",
        "89 s",
        "2 min",
        "60 min",
        "1 h 30 min",
        "3 h 20 min",
    ]
