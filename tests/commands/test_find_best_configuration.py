"""Which model and settings to predict with, by held-out cases, through the real commands."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from diffatlas_pipeline.api.best_configuration import Configuration, Tried, chosen_of
from diffatlas_pipeline.commands import evaluate, find_best_configuration, plan_and_preprocess, predict, train
from tests.planning.raw_data import write_dataset

NAME = "Dataset007_Balls"


def tried(name: str, seconds: float, *dice: float) -> Tried:
    cases = {f"case{index}": value for index, value in enumerate(dice)}
    return Tried(Configuration(Path(name), ("fold0",)), cases, sum(dice) / len(dice), 0.9, seconds)


def test_the_fastest_of_those_that_cannot_be_told_from_the_best_is_chosen() -> None:
    best = tried("best", 4.0, 0.90, 0.80, 0.70, 0.85)
    alike, worse = tried("alike", 1.0, 0.92, 0.78, 0.71, 0.83), tried("worse", 0.5, 0.85, 0.76, 0.65, 0.80)
    assert chosen_of([best, alike, worse]) is alike
    assert chosen_of([best, worse]) is best  # it is worse in every case
    assert chosen_of([tried("a", 2.0, 0.9), tried("b", 1.0, 0.8)]).configuration.model == Path("a")  # one case tells nothing


@pytest.mark.slow
def test_all_models_are_tried_on_cases_that_they_have_not_learnt_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write_dataset(tmp_path / "raw", cases=5)
    shared = ["--workspace", str(tmp_path), "--device", "cpu"]
    with pytest.raises(SystemExit) as stopped:
        find_best_configuration.main(["-d", "7", *shared])
    assert stopped.value.code == 2 and "no trained fold" in capsys.readouterr().err
    plan_and_preprocess.main(["-d", "7", "--workers", "1", *shared])
    few = ["--workers", "0", "--precision", "float32", "--no-validation", *shared]
    for fold in ("fold0", "fold1"):
        train.main(["7", fold, "--iterations", "3", *few])
        train.main(["7", fold, "--method", "icf", "--iterations", "25", *few])
    train.main(["7", "fold2", "--method", "icf", "--iterations", "2", *few])
    train.main(["7", "all", "--method", "mean", *few])  # has no validation cases
    capsys.readouterr()
    words = ["-d", "7", "--steps", "1", "2", "--draws", "1", "2", "--workers", "1", *shared]
    find_best_configuration.main(words)
    said = capsys.readouterr().out
    place = tmp_path / "results" / NAME
    told = json.loads((place / "configurations" / "best_configuration.json").read_text())
    names = {Path(one["configuration"]["model"]).name for one in told["tried"]}
    assert names == {"diffatlas__default", "icf__default"} and len(told["tried"]) == 5
    sampled = [  # two steps and one draw are the recipe's own
        (one["configuration"]["steps"], one["configuration"]["draws"]) for one in told["tried"]
    ]
    assert {*sampled} == {(None, None), (1, None), (None, 2), (1, 2)}
    held_out = [
        case
        for fold in ("fold0", "fold1")
        for case in json.loads((place / "icf__default" / fold / "checkpoint_final.json").read_text())["validation_cases"]
    ]
    assert told["cases"] == sorted(held_out)  # fold2 is of icf alone
    chosen = told["chosen"]
    assert Path(chosen["configuration"]["model"]).name == "icf__default" and set(chosen["dice"]) == set(held_out)
    (line,) = [line for line in said.splitlines() if line.startswith("Next: ")]
    command = shlex.split(line.removeprefix("Next: "))
    assert command[0] == "DiffAtlas_predict" and "--steps" not in command
    command[command.index("INPUT_FOLDER")], command[command.index("OUTPUT_FOLDER")] = (
        str(raw / "imagesTr"),
        str(tmp_path / "out"),
    )
    predict.main([*command[1:], "--device", "cpu"])
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 5
    # What one fold has segmented is what the command of prediction gives for that fold, and is kept.
    made = place / "configurations" / "icf__default" / f"{held_out[0]}.nii.gz"
    scan = str(raw / "imagesTr" / f"{held_out[0]}_0000.nii.gz")
    predict.main(
        ["-i", scan, "-o", str(tmp_path / "one.nii.gz"), "-m", chosen["configuration"]["model"], "-f", "fold0", *shared]
    )
    evaluate.main(["-p", str(made), "-r", str(tmp_path / "one.nii.gz"), "-o", str(tmp_path / "same"), "--workers", "1"])
    assert json.loads((tmp_path / "same" / "summary.json").read_text())["mean"]["dice"] == 1
    before = made.stat().st_mtime_ns
    find_best_configuration.main(words)
    assert made.stat().st_mtime_ns == before
    folds = made.parent / "folds.json"
    told_of = json.loads(folds.read_text())
    folds.write_text(json.dumps(dict.fromkeys(told_of, "of other weights")))  # as if all were trained anew
    every = {path: path.stat().st_mtime_ns for path in made.parent.glob("*.nii.gz")}
    find_best_configuration.main(words)
    assert len(every) == len(held_out) and all(path.stat().st_mtime_ns > then for path, then in every.items())
    assert json.loads(folds.read_text()) == told_of
