"""The tutorial's shell blocks run in order, as a reader would run them, on fewer and smaller cases and for less
time.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.pages import ROOT
from tests.test_commands_page import COMMANDS

TUTORIAL = (ROOT / "documentation" / "tutorial.md").read_text(encoding="utf-8")
REAL_SCANS = "\n## The same with real scans\n"
SMALLER = {  # what the test does otherwise than the page says, to end soon
    "--cases 20 --test-cases 4": "--cases 8 --test-cases 2 --size 24 --workers 1",
    "--max-time 6m": "--iterations 20 --workers 0",
    "--max-time 3m": "--iterations 2 --workers 0",
    "--max-time 30m": "--iterations 2 --workers 0",
}
ALONE = {"DiffAtlas_plan_and_preprocess": ["--workers", "1"]}  # to start more would take longer than so few cases


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and code of the fenced blocks of shell and Python commands, in order, without their indentation."""
    found = re.findall(r"^( *)```(bash|python)\n(.*?)^\1```", text, flags=re.MULTILINE | re.DOTALL)
    return [
        (language, "".join(line.removeprefix(indent) for line in code.splitlines(True))) for indent, language, code in found
    ]


def run_shell(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a block of shell commands: ``export`` and this project's commands in this process, all else by bash."""
    for shown, instead in SMALLER.items():
        code = code.replace(shown, instead)
    for part in re.split(r"^(?=export |DiffAtlas_)", code, flags=re.MULTILINE):
        line, _, rest = part.partition("\n")
        words = shlex.split(os.path.expandvars(line), comments=True)
        if line.startswith("export "):
            name, _, value = words[1].partition("=")
            monkeypatch.setenv(name, value)
        elif line.startswith("DiffAtlas_"):
            module = importlib.import_module(f"diffatlas_pipeline.commands.{COMMANDS[words[0]]}")
            module.main([*words[1:], *ALONE.get(words[0], [])])
        else:
            rest = part
        if rest.strip():
            subprocess.run(["bash", "-e"], input=rest, text=True, check=True)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A reader in an empty folder, who runs all blocks of a text in order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))  # bash would set it

    def read(text: str) -> None:
        for language, code in blocks(text):
            if language == "python":
                subprocess.run([sys.executable, "-c", code], check=True)
            else:
                run_shell(code, monkeypatch)

    return read


def test_substitutions_are_of_the_page() -> None:
    assert all(shown in TUTORIAL for shown in SMALLER)


@pytest.mark.slow
def test_the_tutorial_runs_from_beginning_to_end(tmp_path: Path, reader: Callable[[str], None]) -> None:
    reader(TUTORIAL.split(REAL_SCANS)[0])
    model = tmp_path / "diffatlas" / "results" / "Dataset001_HeartPhantomCT" / "diffatlas__default"
    assert {path.parent.name for path in model.glob("*/checkpoint_final.json")} == {"fold0", "fold1", "fold0_4cases", "my-four"}
    chosen = json.loads((model / "my-four" / "checkpoint_final.json").read_text())
    assert len(chosen["training_cases"]) == 4 and len(chosen["validation_cases"]) == 1
    averaged = json.loads((tmp_path / "segmentations_01" / "prediction.json").read_text())
    assert averaged["folds"] == ["fold0", "fold1"]
    scores = pd.read_csv(tmp_path / "segmentations" / "evaluation" / "cases.csv")
    assert len(scores) == 2 * 5 and np.all(scores["volume_reference_ml"] > 0)
    assert (tmp_path / "segmentations" / "report.html").stat().st_size > 1e5


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif("DIFFATLAS_TEST_DATA" not in os.environ, reason="DIFFATLAS_TEST_DATA is not set")
def test_the_section_on_real_scans_runs(
    tmp_path: Path, reader: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    source, few = Path(os.environ["DIFFATLAS_TEST_DATA"]) / "Task04_Hippocampus", tmp_path / "Task04_Hippocampus"
    description = json.loads((source / "dataset.json").read_text())
    description["training"] = sorted(description["training"], key=lambda item: item["image"])[:5]
    for item in description["training"]:
        for path in item.values():
            (few / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / path, few / path)
    (few / "dataset.json").write_text(json.dumps(description))
    before, section = TUTORIAL.split(REAL_SCANS)
    export = next(code for _, code in blocks(before) if code.startswith("export"))
    reader(f"```bash\n{export}```\n{section}")
    assert "Wrote 4 training and 1 test cases" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "hippocampi" / "evaluation" / "cases.csv")) == 1 * 2
