"""DiffAtlas_benchmark through its command: the table, what is kept, what failed, what is refused, what a kill leaves
behind.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from diffatlas_pipeline.commands import convert, report
from diffatlas_pipeline.commands.benchmark import main

CT, MRI = "Dataset001_HeartPhantomCT", "Dataset002_HeartPhantomMRI"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six hearts to learn from and two to test on, in CT and in MRI, not planned."""
    place = tmp_path_factory.mktemp("workspace")
    size = ["--cases", "6", "--test-cases", "2", "--size", "16", "--workers", "1", "--workspace", str(place)]
    for number, modality in (("1", "CT"), ("2", "MRI")):
        convert.main(["phantom", "-d", number, "--modality", modality, *size])
    return place


def run(workspace: Path, *options: str) -> int:
    """The exit code of DiffAtlas_benchmark on the CT hearts."""
    try:
        main(["-d", "1", "--workspace", str(workspace), "--device", "cpu", "--max-time", "1s", *options])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def times(folder: Path) -> dict[str, int]:
    files = [path for part in ("models", "cells") for path in (folder / part).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
def test_the_smallest_benchmark(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A method of each kind: one cell fails, is tried again alone, and a second setting needs no training; then the
    report of it all.
    """
    folder = workspace / "benchmarks" / f"{CT}_1s"
    blocked = folder / "cells" / "2-shot" / "rba__staple__seed0" / "predictions"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way of a folder")
    least = ["--test-cases", "1", "--jobs", "2"]
    options = ["--methods", "diffatlas", "rba:staple", "--settings", "2-shot", *least]
    assert run(workspace, *options) == 1
    output = capsys.readouterr()
    assert "is not planned yet" in output.out and "3 cells; 3 model(s) to make" in output.out
    assert "2-shot, rba:staple, seed 0: FAILED: DiffAtlas_predict" in output.out and str(blocked) in output.err
    content = json.loads((folder / "benchmark.json").read_text())
    assert [(cell["method"], cell["recipe"], cell["status"]) for cell in content["cells"]] == [
        ("diffatlas", "default", "done"),
        ("rba", "staple", "failed"),
        ("mean", "default", "done"),
    ]
    assert content["labels"] == ["Myo", "LV", "LA", "RA", "RV"] and content["max_time_s"] == 1
    assert all(len(cell["training_cases"]) == 2 and len(cell["test_cases"]) == 1 for cell in content["cells"])
    table = pd.read_csv(folder / "table.csv").set_index(["method", "recipe"])
    assert "cannot be written" in table.loc[("rba", "staple"), "remarks"] and table.loc[("rba", "staple"), "seeds"] == 0
    assert table.loc[("mean", "default"), "dice_average"] > 0.05

    before = times(folder)
    blocked.unlink()
    assert run(workspace, *options) == 0
    after = times(folder)
    new = {name for name in after if before.get(name) != after[name]}
    assert new and all(name.startswith("cells/2-shot/rba__staple__seed0/") for name in new)
    assert "3 cells, 2 of them done already; 0 model(s) to make" in capsys.readouterr().out
    table = pd.read_csv(folder / "table.csv").set_index(["method", "recipe"])
    assert table.loc[("rba", "staple"), "dice_average"] > 0.5  # it needs no training

    zero_shot = f"zero-shot:{MRI}@2-shot"
    some = ["--methods", "diffatlas", "rba:staple", "--no-mean-atlas"]
    assert run(workspace, *some, "--settings", f"zero-shot:{workspace / 'raw' / MRI}@2-shot", *least) == 0
    assert {name for name, when in times(folder).items() if after.get(name) != when and name.startswith("models")} == set()
    content = json.loads((folder / "benchmark.json").read_text())
    cell = content["cells"][-1]
    assert [cell["setting"] for cell in content["cells"]] == ["2-shot"] * 3 + [zero_shot] * 2
    assert json.loads((folder / cell["predictions"] / "prediction.json").read_text())["modality"] == "MRI"
    for key in ("model", "predictions", "evaluation", "log"):
        assert all((folder / cell[key]).exists() for cell in content["cells"])
    assert (folder / cell["model"] / "checkpoint_final.json").is_file()
    assert list((folder / content["cells"][0]["evaluation"]).glob("worst_*.png"))
    assert zero_shot in (folder / "table.html").read_text()
    assert all(list((folder / cell["predictions"]).glob("uncertainty/*")) for cell in content["cells"])
    capsys.readouterr()
    assert run(workspace, "--methods", "mean", "--settings", "2-shot", "--max-time", "2s", "-o", str(folder)) == 2
    assert "--overwrite" in capsys.readouterr().err
    check_report(folder, content, capsys)


def check_report(folder: Path, content: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """DiffAtlas_report of what DiffAtlas_benchmark wrote: its table, box plots, training curves and the viewer's
    data.
    """
    report.main(["-b", str(folder), "--workers", "1"])
    assert "Note: " not in capsys.readouterr().out  # nothing failed, nothing is missing
    page = (folder / "report.html").read_text(encoding="utf-8")
    table = (folder / "table.md").read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if line.startswith(("| 2-shot", "| zero-shot"))]
    assert len(rows) == len(content["cells"])  # one seed
    assert all(f">{cell.strip('*')}</" in page for row in rows for cell in row.strip("| ").split(" | "))
    plots = page[page.index('<section id="plots">') : page.index('<section id="viewer">')]
    assert plots.count('<figure class="plot">') == len(content["settings"]) == 2  # each with a plot of Dice, one of NSD
    for setting, plot in zip(content["settings"], plots.split("<figure")[1:], strict=True):
        methods = {row.split(" | ")[1] for row in rows if row.startswith(f"| {setting} |")}
        assert {name for name in content["methods"] if f"</i>{name}</li>" in plot} == methods
        assert all(f">{name}</text>" in plot for name in content["labels"])
    training = page[page.index('<section id="training">') :]
    assert f"<figcaption>{content['settings'][0]}</figcaption>" in training  # of the one method that learns
    data = json.loads(re.findall(r'id="viewer-data">(.*?)</script>', page)[0])
    assert [label["name"] for label in data["labels"]] == content["labels"]
    cells = {cell["key"]: content["cells"][int(cell["key"].removeprefix("c"))] for cell in data["cells"]}
    assert len(cells) == len(content["cells"]) and len(data["cases"]) == 2  # one scan of each modality
    for case in data["cases"]:
        assert case["hasImage"] and case["reference"]
        assert all(layer["segmentation"] and layer["uncertainty"] for layer in case["layers"].values())
    predictions = folder / content["cells"][0]["predictions"]
    report.main(["-p", str(predictions), "-r", str(folder / "test_sets" / CT / "labelsTs"), "--workers", "1"])
    assert "minutes of training" in (predictions / "report.html").read_text(encoding="utf-8")  # of the model that it names


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="looks at processes as POSIX has them")
def test_a_killed_benchmark_leaves_no_training_behind(workspace: Path, tmp_path: Path) -> None:
    words = ["-d", "1", "--methods", "icf", "--no-mean-atlas", "--max-time", "300s", "--device", "cpu"]
    line = [sys.executable, "-m", "diffatlas_pipeline.commands.benchmark", *words, "--workspace", str(workspace)]
    benchmark = subprocess.Popen([*line, "-o", str(tmp_path)], stdout=subprocess.DEVNULL)
    log = tmp_path / "cells" / "full" / "icf__default__seed0" / "log.txt"
    _wait(lambda: log.is_file() and "Training icf" in log.read_text(), 60)
    children = _children(benchmark.pid)
    assert children
    again = subprocess.run([*line, "-o", str(tmp_path)], capture_output=True, text=True, check=False)
    assert again.returncode == 2 and "running there already" in again.stderr
    benchmark.send_signal(signal.SIGKILL)
    benchmark.wait()
    _wait(lambda: not any(_alive(pid) for pid in children), 20)


def _wait(until: object, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not until():  # type: ignore[operator]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.2)


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(child) for child, parent in (line.split() for line in listed.splitlines()) if int(parent) == pid]


def _alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()
    return bool(state) and not state.startswith("Z")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--settings", "9-shot"], "has 6"),
        (["--settings", "few"], "write full, K-shot"),
        (["--settings", "zero-shot:1"], "is trained on"),
        (["--settings", "zero-shot:99"], "'99'"),
        (["--methods", "nnunet"], "Unknown method 'nnunet'"),
        (["--methods", "rba+atlases"], "rba has no network"),
        (["--seeds", "0", "-1"], "--seeds"),
        (["--max-time", "soon"], "--max-time soon"),
        (["--test-cases", "0"], "--test-cases 0"),
        (["--tolerance-mm", "-1"], "--tolerance-mm"),
        (["--jobs", "0"], "--jobs 0"),
        (["--device", "abacus"], "--device abacus"),
        (["--splits-file", "nowhere.json"], "nowhere.json"),
    ],
)
def test_wrong_use_is_refused_before_anything_starts(
    workspace: Path, tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(workspace, "--methods", "icf", "-o", str(tmp_path / "out"), *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and said in error
    assert not (tmp_path / "out").exists()


def test_a_zero_shot_data_set_with_other_labels_and_test_cases_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--cases", "2", "--test-cases", "2", "--size", "16", "--workers", "1", "--workspace", str(tmp_path)]
    for number, modality in (("1", "CT"), ("2", "MRI")):
        convert.main(["phantom", "-d", number, "--modality", modality, *size])
    path = tmp_path / "raw" / MRI / "dataset.json"
    description = json.loads(path.read_text())
    description["labels"]["LV"], description["labels"]["RV"] = description["labels"]["RV"], description["labels"]["LV"]
    path.write_text(json.dumps(description))
    assert run(tmp_path, "--methods", "icf", "--settings", "zero-shot:2") == 2
    assert "Both need the same names and numbers" in capsys.readouterr().err
    label = min((tmp_path / "raw" / CT / "labelsTs").iterdir())
    label.unlink()
    assert run(tmp_path, "--methods", "icf") == 2
    assert "no label for 1 of the 2 test cases" in capsys.readouterr().err
