"""The pages agree with the commands: what is shown can be typed, and the reference's tables are the parsers'."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffatlas_pipeline.commands._converters import CONVERTERS
from tests import reference
from tests.pages import PAGES, ROOT, page_id, prose_of

COMMANDS = dict(re.findall(r'"(DiffAtlas_\w+)": "(\w+)"', (ROOT / "setup.py").read_text(encoding="utf-8")))
VARIABLES = {"DiffAtlas_raw", "DiffAtlas_preprocessed", "DiffAtlas_results"}
OTHERS_OPTIONS = {"--time", "--gres", "--array", "--build-arg", "--gpus", "--shm-size"}  # of programs that pages name


class Parsed(Exception):
    """Raised in place of running a command, once its arguments are parsed."""


def parser_of(command: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """Parse ``words`` as ``command`` would, without running it; SystemExit if it would refuse them."""
    seen: list[argparse.ArgumentParser] = []
    original = argparse.ArgumentParser.parse_args

    def parse_only(self: argparse.ArgumentParser, *arguments: Any, **options: Any) -> None:
        seen.append(self)
        original(self, *arguments, **options)
        raise Parsed

    with monkeypatch.context() as patched, pytest.raises(Parsed):
        patched.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        importlib.import_module(f"diffatlas_pipeline.commands.{COMMANDS[command]}").main(words)
    return seen[0]


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words of every DiffAtlas command that a fenced block shows to be typed."""
    for block in re.findall(r"^( *)```(?:bash|sh)\n(.*?)^\1```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        text = re.sub(r"\$\w+", "1", block[1].replace("\\\n", " "))  # any value of a shell variable
        for line in text.splitlines():
            for part in re.split(r"[&|;]+", line):
                words = shlex.split(part, comments=True)
                start = next((i for i, word in enumerate(words) if word.startswith("DiffAtlas_") and "=" not in word), None)
                if start is not None:
                    yield words[start:]


LINES = [(page, words) for page in PAGES for words in command_lines(page)]


def test_pages_show_commands() -> None:
    assert {words[0] for _, words in LINES} == set(COMMANDS)


@pytest.mark.parametrize(("page", "words"), LINES, ids=[f"{page_id(page)}: {' '.join(words)}" for page, words in LINES])
def test_shown_commands_parse(page: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert words[0] in COMMANDS
    parser_of(words[0], words[1:], monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_named_commands_exist(page: Path) -> None:
    named = set(re.findall(r"DiffAtlas_\w+", page.read_text(encoding="utf-8")))
    assert named <= {*COMMANDS, *VARIABLES}


MINIMAL: dict[str, list[list[str]]] = {
    "DiffAtlas_check": [["-d", "1"]],
    "DiffAtlas_plan_and_preprocess": [["-d", "1"]],
    "DiffAtlas_train": [["1", "fold0"]],
    "DiffAtlas_predict": [["-i", "in", "-o", "out"]],
    "DiffAtlas_evaluate": [["-p", "a", "-r", "b"]],
    "DiffAtlas_generate": [["-o", "out"]],
    "DiffAtlas_convert": [
        ["folder", "-i", "images", "-l", "labels", "-d", "1", "--name", "A"],
        ["bids", "-i", "study", "-d", "1"],
        ["msd", "-i", "Task04_A"],
        ["mmwhs", "-i", "MM-WHS", "-d", "1", "--modality", "CT"],
        ["totalsegmentator", "-i", "TS", "-d", "1"],
        ["phantom", "-d", "1"],
    ],
    "DiffAtlas_benchmark": [["-d", "1"]],
    "DiffAtlas_find_best_configuration": [["-d", "1"]],
    "DiffAtlas_report": [["-p", "a"]],
    "DiffAtlas_quickstart": [[]],
    "DiffAtlas_info": [[]],
    "DiffAtlas_export_model": [["-o", "model.zip"]],
    "DiffAtlas_install_model": [["model.zip"]],
}


def actions_by_option(parser: argparse.ArgumentParser, words: list[str]) -> dict[str, argparse.Action]:
    """The options of a parser or of the sub-command that ``words`` chooses, and its arguments by their names."""
    found: dict[str, argparse.Action] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= actions_by_option(action.choices[words[0]], words[1:])
        elif not isinstance(action, argparse._HelpAction | argparse._VersionAction):
            found |= dict.fromkeys(action.option_strings or [action.dest], action)
    return found


def options_of(parser: argparse.ArgumentParser, words: list[str]) -> set[str]:
    """Option strings of a parser, or of its sub-command that ``words`` chooses."""
    return {option for option in actions_by_option(parser, words) if option.startswith("-")}


def test_every_converter_has_its_section() -> None:
    assert {words[0] for words in MINIMAL["DiffAtlas_convert"]} == set(CONVERTERS)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_options_named_in_the_text_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = [path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py")]
    known = OTHERS_OPTIONS | {"--version"} | {option for script in scripts for option in re.findall(r'"(--[a-z-]+)"', script)}
    of_command = {
        command: {"--version"}.union(*(options_of(parser_of(command, words, monkeypatch), words) for words in variants))
        for command, variants in MINIMAL.items()
    }
    known = known.union(*of_command.values())
    for span in re.findall(r"`([^`\n]+)`", prose_of(page.read_text(encoding="utf-8"))):
        if span.startswith("nnUNetv2_"):
            continue  # another program's options
        named = set(re.findall(r"(?<!\S)--[a-z][a-z-]*", span))
        assert named <= of_command.get(span.split()[0], known), span


# -------------------------------------------------------------------------------------------------- tables of options
def same(told: str, value: Any) -> bool:
    told = told.replace("`", "").removeprefix("./")
    if isinstance(value, int | float):
        return re.fullmatch(r"\d+(\.\d+)?", told) is not None and float(told) == value
    return told == (" ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))


def help_problem(action: argparse.Action) -> str:
    """Why the default that the help tells is not the parser's, or nothing."""
    told = re.search(r"\(default: ([^%),]+)\)$", str(action.help))
    if told is None or action.default in (None, False, argparse.SUPPRESS):
        return ""
    return "" if same(told[1], action.default) else f"its help says {told[1]}, the parser has {action.default}"


EVERY = [(command, words[0] if command == "DiffAtlas_convert" else "") for command in MINIMAL for words in MINIMAL[command]]


def test_each_command_and_converter_has_one_table_of_its_options() -> None:
    listed = [command for page in reference.PAGES for command in reference.tables_of(reference.read(page))]
    assert sorted(listed) == sorted(f"{command} {converter}".strip() for command, converter in EVERY)


@pytest.mark.parametrize("page", reference.PAGES, ids=page_id)
def test_the_tables_of_options_are_those_of_the_parsers(page: Path) -> None:
    text = reference.read(page)
    assert reference.renewed(text) == text, "Run: python -m tests.reference --write"


@pytest.mark.parametrize(("command", "converter"), EVERY, ids=[" ".join(one).strip() for one in EVERY])
def test_help_tells_the_default_that_the_parser_has(command: str, converter: str) -> None:
    actions = [*reference.actions_of(COMMANDS[command], converter or None)]
    assert len(actions) > 1
    assert [f"{action.dest}: {problem}" for action in actions if (problem := help_problem(action))] == []
    assert all(action.help for action in actions)


@pytest.mark.parametrize(("command", "converter"), EVERY, ids=[" ".join(one).strip() for one in EVERY])
def test_help_in_a_terminal_is_plain_text(command: str, converter: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module(f"diffatlas_pipeline.commands.{COMMANDS[command]}").main([*filter(None, [converter]), "-h"])
    shown = capsys.readouterr().out
    assert "`" not in shown and "](" not in shown and ".md" not in shown


def test_rows_tell_defaults_and_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=3, metavar="N", help="of [both](a.md) (default: 4)")
    parser.add_argument("-r", "--rate", type=float, default=1.0, help="(default: %(default)s)")
    parser.add_argument("--fold", help="which | one (default: the only one)")
    parser.add_argument("--kind", choices=("a", "b"), required=True, help="of it")
    parser.add_argument("--off", action="store_true", help="not")
    monkeypatch.setattr(reference, "parser_of", lambda name: parser)
    assert reference.table("x").splitlines()[2:] == [
        "| `--steps N` | 4 | of [both](a.md) |",
        "| `-r`, `--rate` | 1 |  |",
        "| `--fold` | the only one | which \\| one |",
        "| `--kind` | needed | of it: `a`, `b` |",
        "| `--off` | off | not |",
    ]
    steps, rate = [*reference.actions_of("x")][:2]
    assert help_problem(steps) == "its help says 4, the parser has 3" and help_problem(rate) == ""
