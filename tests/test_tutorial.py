"""The tutorial's shell blocks run in order, as a reader would run them, on fewer and smaller cases and for less time."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.test_documentation import COMMANDS, ROOT

TUTORIAL = (ROOT / "documentation" / "tutorial.md").read_text(encoding="utf-8")
REAL_SCANS = "\n## The same with real scans\n"
SMALLER = {  # what the test does otherwise than the page says, to end soon
    "--cases 20 --test-cases 4": "--cases 8 --test-cases 2 --size 24",
    "--max-time 6m": "--iterations 30",
    "--max-time 3m": "--iterations 3",
    "--max-time 30m": "--iterations 3",
}


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and code of the fenced blocks of shell and Python commands, in order, without their indentation."""
    found = re.findall(r"^( *)```(bash|python)\n(.*?)^\1```", text, flags=re.MULTILINE | re.DOTALL)
    return [(language, "\n".join(line.removeprefix(indent) for line in code.splitlines())) for indent, language, code in found]


def make_commands(folder: Path) -> None:
    """A folder for PATH with the console scripts, so that the code beside this test runs, however it is installed."""
    folder.mkdir()
    for name, module in COMMANDS.items():
        script = folder / name
        code = f"from diffatlas_pipeline.commands.{module} import main; main()"
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{code}" "$@"\n')
        script.chmod(0o755)


def run_blocks(text: str, folder: Path) -> str:
    """Run the blocks in one shell in ``folder``; what they print. Raises AssertionError with it if one fails."""
    make_commands(folder / "bin")
    lines = ["set -e"]
    for number, (language, code) in enumerate(blocks(text)):
        for shown, instead in SMALLER.items():
            code = code.replace(shown, instead)
        if language == "python":
            (folder / f"block{number}.py").write_text(code)
            code = f"{shlex.quote(sys.executable)} block{number}.py"
        lines.append(code)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.lower().startswith("diffatlas")},
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(["bash"], input="\n".join(lines), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_substitutions_are_of_the_page() -> None:
    assert all(shown in TUTORIAL for shown in SMALLER)


@pytest.mark.slow
def test_the_tutorial_runs_from_beginning_to_end(tmp_path: Path) -> None:
    printed = run_blocks(TUTORIAL.split(REAL_SCANS)[0], tmp_path)
    assert "Wrote 8 training and 2 test cases" in printed
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
def test_the_section_on_real_scans_runs(tmp_path: Path) -> None:
    source, few = Path(os.environ["DIFFATLAS_TEST_DATA"]) / "Task04_Hippocampus", tmp_path / "Task04_Hippocampus"
    description = json.loads((source / "dataset.json").read_text())
    description["training"] = sorted(description["training"], key=lambda item: item["image"])[:6]
    for item in description["training"]:
        for path in item.values():
            (few / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / path, few / path)
    (few / "dataset.json").write_text(json.dumps(description))
    before, section = TUTORIAL.split(REAL_SCANS)
    export = next(code for _, code in blocks(before) if code.startswith("export"))
    printed = run_blocks(f"```bash\n{export}\n```\n{section}", tmp_path)
    assert "Wrote 4 training and 2 test cases" in printed
    assert len(pd.read_csv(tmp_path / "hippocampi" / "evaluation" / "cases.csv")) == 2 * 2
