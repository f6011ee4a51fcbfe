"""Several processes segment parts of the scans into one folder: together they make what one makes."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffatlas_pipeline.api.model import load_model
from diffatlas_pipeline.commands.predict import main
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.inference import parts
from diffatlas_pipeline.volumes.io import read_volume, write_scalars
from tests.commands.test_predict import GRID, failing, predict, train_one

OPTIONS = ("--statistics", "--save-uncertainty")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a model, and a folder of five scans."""
    monkeypatch.setenv("DIFFATLAS_WORKSPACE", str(tmp_path / "workspace"))
    train_one(tmp_path / "workspace", "Dataset001_A")
    for seed, name in enumerate("edcba"):
        image = np.random.default_rng(seed).random(GRID.shape).astype(np.float32)
        write_scalars(tmp_path / "in" / f"{name}.nii.gz", image, GRID)
    return tmp_path


def record_of(folder: Path) -> dict[str, Any]:
    """The record of a folder, without what is never the same twice."""
    record = json.loads((folder / "prediction.json").read_text(encoding="utf-8"))
    record.pop("wall_s")
    return {**record, "cases": [(case, entry | {"seconds": {}}) for case, entry in record["cases"].items()]}


def test_all_parts_together_are_one_prediction(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(workspace, *OPTIONS, "-o", str(workspace / "whole"))
    capsys.readouterr()
    predict(workspace, *OPTIONS, "--num-parts", "2", "--part-id", "1")
    said = capsys.readouterr().out
    assert "2 case(s) of 5, part 1 of 2" in said and "Next: when all parts are done, DiffAtlas_evaluate" in said
    assert [case for case, _ in record_of(workspace / "out")["cases"]] == ["b", "d"]
    predict(workspace, *OPTIONS, "-num_parts", "2", "-part_id", "0")
    for path in sorted((workspace / "whole").rglob("*.*")):
        other = workspace / "out" / path.relative_to(workspace / "whole")
        if path.name.endswith(".nii.gz"):
            np.testing.assert_array_equal(read_volume([path]).array, read_volume([other]).array)
        elif path.name != "prediction.json":
            assert path.read_bytes() == other.read_bytes()
    names = [{str(path.relative_to(top)) for path in top.rglob("*")} for top in (workspace / "whole", workspace / "out")]
    assert names[0] == names[1] and record_of(workspace / "whole") == record_of(workspace / "out")
    predict(workspace, *OPTIONS, "--num-parts", "2", "--part-id", "0")
    assert "3 case(s) were there already and were kept" in capsys.readouterr().out


def test_two_parts_at_the_same_time(workspace: Path) -> None:
    model = load_model(next((workspace / "workspace" / "results").glob("*/*")), "cpu", precision="float32")

    def segment(part: int) -> Path:
        return model.segment_folder(workspace / "in", workspace / "out", num_parts=2, part_id=part).record

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(segment, (0, 1))) == {workspace / "out" / "prediction.json"}
    found = [(case, entry["status"]) for case, entry in record_of(workspace / "out")["cases"]]
    assert found == [(case, "segmented") for case in "abcde"]
    assert not [path.name for path in (workspace / "out").iterdir() if "part" in path.name or path.name.startswith(".")]


WHOLE, FIRST, SECOND, OF_THREE = None, parts.Part(0, 2), parts.Part(1, 2), parts.Part(2, 3)


@pytest.mark.parametrize(
    ("held", "asked", "refused"),
    [
        (WHOLE, WHOLE, "a prediction"),
        (WHOLE, SECOND, "a prediction"),
        (FIRST, WHOLE, "part 0 of 2 of a prediction"),
        (FIRST, FIRST, "part 0 of 2 of a prediction"),
        (FIRST, OF_THREE, "part 0 of 2 of a prediction"),
        (FIRST, SECOND, ""),
    ],
)
def test_who_may_work_beside_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: parts.Part | None, asked: parts.Part | None, refused: str
) -> None:
    monkeypatch.setattr(parts, "WAIT_S", 0.2)
    with parts.alone(tmp_path, held):
        if refused:
            said = rf"{refused} is running there already \(process {os.getpid()} on .* give another `output`"
            with pytest.raises(UserError, match=said), parts.alone(tmp_path, asked):
                raise AssertionError("it was let in")
        else:
            with parts.alone(tmp_path, asked):
                pass
    for lock in (parts.GATE, parts.Part(0, 4).lock, parts.Part(1, 2).lock):
        (tmp_path / lock).touch()  # what a killed process leaves is no obstacle
    with parts.alone(tmp_path, asked):
        pass


@pytest.mark.parametrize("again", [(), ("--num-parts", "3", "--part-id", "0")])
def test_what_a_killed_part_recorded_is_not_lost(
    workspace: Path, again: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    predict(workspace, "--num-parts", "2", "--part-id", "0")
    (workspace / "out" / "prediction.json").rename(workspace / "out" / "prediction_part_0_of_2.json")
    capsys.readouterr()
    predict(workspace, *again)
    said = capsys.readouterr().out
    assert "were there already and were kept" in said and "no record tells" not in said
    assert not list((workspace / "out").glob("prediction_part*"))
    assert {"a", "c", "e"} <= {case for case, entry in record_of(workspace / "out")["cases"] if entry["input"]}


def test_more_parts_than_scans_and_mistakes(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(workspace, "--num-parts", "9", "--part-id", "7")
    assert "0 case(s) of 5, part 7 of 9" in capsys.readouterr().out
    assert "--part-id 2: must be 0 to 1, since --num-parts is 2" in failing(
        workspace, capsys, "--num-parts", "2", "--part-id", "2"
    )
    assert "--num-parts 0: must be at least 1" in failing(workspace, capsys, "--num-parts", "0")
    one = ["-i", str(workspace / "in" / "a.nii.gz"), "-o", str(workspace / "one.nii.gz"), "--num-parts", "2"]
    with pytest.raises(SystemExit):
        main(one)
    assert "one file, but several parts are asked for" in capsys.readouterr().err
