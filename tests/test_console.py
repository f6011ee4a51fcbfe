"""What is said while work goes on, on a terminal and off one; and how a command says it in the words of its options."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import pty
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import diffatlas_pipeline
from diffatlas_pipeline import console
from diffatlas_pipeline.commands import _common

ROOT = Path(diffatlas_pipeline.__file__).parent
COMMANDS = (
    "check",
    "plan_and_preprocess",
    "train",
    "predict",
    "generate",
    "evaluate",
    "report",
    "benchmark",
    "quickstart",
    "find_best_configuration",
    "info",
    "export_model",
    "install_model",
)

WORK = """
import sys, time
from diffatlas_pipeline import console
console.BETWEEN_LINES_S = 1.0
with console.bar("training", 1.0) as progress:
    for step in range(1, int(sys.argv[1]) + 1):
        time.sleep(0.1)
        progress.to(step / int(sys.argv[1]), f"iteration {step}")
"""


def worked(steps: int) -> str:
    """Output of ``steps`` tenths of a second of work in a process without a terminal."""
    call = [sys.executable, "-c", WORK, str(steps)]
    return subprocess.run(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout


def test_without_a_terminal_there_are_lines_with_the_time_left() -> None:
    lines = worked(40).splitlines()
    assert len(lines) >= 2, "one after two seconds, then one a second"
    assert len(lines) < 10, "not one for each step"
    found = re.fullmatch(r"training (\d+) %, 0:(\d\d) left, iteration (\d+)", lines[0])
    assert found, lines[0]
    share, left, iteration = map(int, found.groups())
    assert share <= 60 and left >= 1 and iteration == int(share / 2.5), "a busy machine has done less by then"


def test_short_work_says_nothing() -> None:
    assert worked(8) == ""


def test_on_a_terminal_a_bar_is_drawn() -> None:
    own, its = pty.openpty()
    termios.tcsetwinsize(its, (24, 100))
    process = subprocess.Popen([sys.executable, "-c", WORK, "25"], stdout=its, stderr=its)
    os.close(its)
    drawn = b""
    try:
        while part := os.read(own, 4096):
            drawn += part
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 0
    assert b"\r" in drawn and b"|###" in drawn.replace("█".encode(), b"#") and b"iteration 25" in drawn


def test_it_works_from_a_thread_and_says_what_is_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "SHORT_S", 0.0)
    monkeypatch.setattr(console, "BETWEEN_LINES_S", 0.0)
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.extend(console.each(range(3), "measuring", 3, "cases")))
    thread.start()
    thread.join()
    assert done == [0, 1, 2]
    assert capsys.readouterr().out.splitlines() == [
        "measuring 1 of 3 cases, 0:00 left",
        "measuring 2 of 3 cases, 0:00 left",
    ]


def test_quiet_work_says_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "SHORT_S", 0.0)
    assert list(console.each(range(3), "measuring", 3, "cases", quiet=True)) == [0, 1, 2]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (750, "12:30"), (3725.2, "1:02:05")])
def test_clock(seconds: float, text: str) -> None:
    assert console.clock(seconds) == text


# ---- the words of a command


def parser_of(command: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The parser that a command's main() makes."""

    class Seen(Exception):
        pass

    found: list[argparse.ArgumentParser] = []

    def seen(self: argparse.ArgumentParser, *_: object) -> argparse.Namespace:
        found.append(self)
        raise Seen

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", seen)
        with pytest.raises(Seen):
            importlib.import_module(f"diffatlas_pipeline.commands.{command}").main([])
    return found[0]


@pytest.mark.parametrize(
    ("command", "said", "shown"),
    [
        ("train", "Use `overwrite`.", "Use --overwrite."),
        ("train", "`num_cases` 9: too many", "--num-cases 9: too many"),
        ("train", "without `validation`", "without --no-validation"),
        ("train", "give it: `dataset=path/to it`", "give it: 'path/to it'"),
        ("evaluate", '`missing="skip"` leaves them out', "--missing skip leaves them out"),
        ("evaluate", "`missing=skip`, `overwrite`", "--missing skip, `overwrite`"),
        ("predict", "`dataset=7`", "-d 7"),
        ("predict", "`with_atlases`", "--with-atlases"),
        ("train", "Run `plan_and_preprocess`.", "Run DiffAtlas_plan_and_preprocess."),
        ("predict", 'Run `plan_and_preprocess("007")`.', "Run DiffAtlas_plan_and_preprocess -d 007."),
        ("predict", 'Run `train("007", "my split", max_time="5m")`.', "Run DiffAtlas_train 007 'my split' --max-time 5m."),
        ("train", "`train(*anything)` and `print`", "`train(*anything)` and `print`"),
    ],
)
def test_a_command_names_its_options(command: str, said: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _common.words_of(parser_of(command, monkeypatch)).of(said) == shown


def test_what_is_said_is_in_the_words_of_the_command_that_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console.say("`overwrite`")
    with console.speaking(_common.words_of(parser_of("train", monkeypatch))):
        console.warn("`overwrite`")
    console.say("`overwrite`")
    assert capsys.readouterr().out.splitlines() == ["`overwrite`", "Warning: --overwrite", "`overwrite`"]


# ---- library messages name parameters, never options

COMMAND_LINES = ("__main__.py", "benchmark/run.py", "children.py", "benchmark/job.py")  # build them
ELSEWHERE = ("console.py", *COMMAND_LINES)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*|(?:^|[\s(])-[odmfi](?=$|[\s.,;:)])")
QUOTED = re.compile(r"(?<!`)`([a-z_][\w.]*)(?:=[^`]*|\([^`]*\))?`(?!`)")


def library_texts() -> Iterator[tuple[str, str, bool]]:
    """(place, text, whether it is a docstring) of every string in the library; what an f-string fills in is a "…"."""
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(("commands/", *ELSEWHERE)):
            yield from ((f"{name}:{line}", text, prose) for line, text, prose in texts_of(path.read_text(encoding="utf-8")))


def texts_of(source: str) -> Iterator[tuple[int, str, bool]]:
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            whole = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
            yield node.lineno, "".join(whole), False
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.lineno, node.value, id(node) in prose


def test_the_library_names_no_option_of_a_command() -> None:
    found = [f"{place}: {flag.group(0).strip()}" for place, text, _ in library_texts() for flag in FLAG.finditer(text)]
    assert not found, "name the parameter in backquotes instead"


def test_the_check_sees_options() -> None:
    texts = [text for _, text, _ in texts_of('f"give {x} --over-write, or {y} -o."\n"well-known, x--y, a - b, -1"')]
    assert [flag.group(0).strip() for text in texts for flag in FLAG.finditer(text)] == ["--over-write", "-o"]


def test_every_parameter_that_a_message_names_is_known_to_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {*_common.SCRIPTS}
    for command in COMMANDS:
        known |= {*_common.words_of(parser_of(command, monkeypatch)).options}
    named = [(place, found.group(1)) for place, text, prose in library_texts() if not prose for found in QUOTED.finditer(text)]
    assert len(named) > 20
    assert not [f"{place}: {name}" for place, name in named if name not in known]
