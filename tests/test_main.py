"""``python -m diffatlas_pipeline`` does what the console scripts do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from diffatlas_pipeline import __version__
from diffatlas_pipeline.__main__ import main, names

SETUP = Path(__file__).parents[1] / "setup.py"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "diffatlas_pipeline", *words], capture_output=True, text=True, check=False)


def test_its_commands_are_the_console_scripts() -> None:
    assert names() == sorted(re.findall(r'"DiffAtlas_(\w+)": "\1"', SETUP.read_text(encoding="utf-8")))


def test_without_a_command_it_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    listed = re.findall(r"^  (\w+)  +\S.{15}", capsys.readouterr().out, re.MULTILINE)  # each with a description
    assert listed[: len(names())] == names()


@pytest.mark.parametrize("word", ["convert", "DiffAtlas_convert"])
def test_a_command_gets_its_arguments_and_knows_its_name(word: str, tmp_path: Path) -> None:
    size = ["--cases", "1", "--test-cases", "0", "--size", "16", "--workers", "1"]
    done = run(word, "phantom", "-d", "2", *size, "--workspace", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "raw/Dataset002_HeartPhantomCT/dataset.json").is_file()
    assert "usage: python -m diffatlas_pipeline convert " in run(word, "-h").stdout


def test_an_unknown_command_is_told_which_there_are() -> None:
    done = run("trian")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: 'trian': ") and ", train" in line


@pytest.mark.parametrize("words", [["--version"], *([name, "--version"] for name in names())])
def test_every_command_tells_the_version(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        main(words)
    except SystemExit as stopped:
        assert stopped.code == 0
    assert capsys.readouterr().out == f"DiffAtlas pipeline {__version__}\n"
