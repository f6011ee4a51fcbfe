"""The pages agree with the commands: what is shown can be typed, and the reference tells what the parsers have."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from diffatlas_pipeline.commands._converters import CONVERTERS
from tests.pages import PAGES, ROOT, page_id, prose_of

COMMANDS_PAGE = ROOT / "documentation" / "reference" / "commands.md"
PREDICT_PAGE = ROOT / "documentation" / "reference" / "predict.md"
CONVERT_PAGE = ROOT / "documentation" / "reference" / "convert.md"
PREDICT_PAGE = ROOT / "documentation" / "reference" / "predict.md"
SHARING_PAGE = ROOT / "documentation" / "reference" / "sharing.md"
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
SHARING = ("DiffAtlas_info", "DiffAtlas_export_model", "DiffAtlas_install_model")


def actions_by_option(parser: argparse.ArgumentParser, words: list[str]) -> dict[str, argparse.Action]:
    """The options of a parser or of the sub-command that ``words`` chooses, and its arguments by their names."""
    found: dict[str, argparse.Action] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= actions_by_option(action.choices[words[0]], words[1:])
        elif not isinstance(action, argparse._HelpAction | argparse._VersionAction):
            found |= dict.fromkeys(action.option_strings or [action.dest], action)
    return found


def section_of(command: str, converter: str | None) -> str:
    """The reference's section of a command or converter."""
    page = CONVERT_PAGE if converter else SHARING_PAGE if command in SHARING else COMMANDS_PAGE
    command, page = ("Options", PREDICT_PAGE) if command == "DiffAtlas_predict" else (command, page)
    return page.read_text(encoding="utf-8").split(f"\n## {converter or command}\n")[1].split("\n## ")[0]


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


# -------------------------------------------------------------------------------------------------- defaults, choices
@dataclass(frozen=True)
class Described:
    """What the reference says of one option, or of one argument without a name."""

    default: str
    text: str
    named: frozenset[str]
    """All words in backquotes of its row."""


def described(section: str) -> dict[str, Described]:
    """What a section says, by option. A row may hold several options with ``;`` between them, and between defaults."""
    found: dict[str, Described] = {}
    for row in re.findall(r"^\| (`.*) \|$", section, flags=re.MULTILINE):
        cells = re.split(r"(?<!\\) \| ", row)
        groups = [re.findall(r"`([^`]+)`", group) for group in cells[0].split(";")]
        defaults = cells[1].split("; ") if len(cells) > 2 else [""]
        if len(defaults) not in (1, len(groups)):
            raise AssertionError(f"{cells[0]}: {len(groups)} options, {len(defaults)} defaults")
        named = frozenset(word for span in re.findall(r"`([^`]+)`", row) for word in span.split())
        for index, options in enumerate(groups):
            for option in options:
                if option in found:
                    raise AssertionError(f"{option}: described twice")
                found[option] = Described(defaults[index if len(defaults) > 1 else 0], cells[-1], named)
    return found


def shown(value: Any) -> str:
    """A default as the reference writes it."""
    if isinstance(value, list | tuple):
        return " ".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def same(told: str, value: Any) -> bool:
    told = told.replace("`", "").removeprefix("./")
    if isinstance(value, int | float):
        return re.fullmatch(r"\d+(\.\d+)?", told) is not None and float(told) == value
    return told == (shown(value) or "none")


def default_problem(action: argparse.Action, told: str) -> str:
    """Why the default that the reference tells is not the parser's, or nothing."""
    if told == "see `-h`" or (action.dest == "workers" and told.startswith("by cores")):
        return ""  # what depends on the machine, or is said there
    if action.required:
        return "" if told == "needed" else "it is needed"
    if action.default is False or action.default is True:
        return "" if told.split()[0] in ("off", "this") else "it is off"
    if action.default is not None:
        return "" if same(told, action.default) else f"the parser has {shown(action.default)}"
    named = re.findall(r"`(\w(?:[\w./-]*\w)?)`|(?<![\w.])(\d[\d.]*)(?![\w.])", told)
    absent = [word for pair in named if (word := "".join(pair)) not in str(action.help)]
    return f"the parser has none and its help does not name {absent}" if absent and not told.startswith("this or") else ""


def help_problem(action: argparse.Action) -> str:
    """Why the default that the help tells is not the parser's, or nothing."""
    told = re.search(r"\(default: ([^%),]+)\)", str(action.help))
    if told is None or action.default in (None, False, argparse.SUPPRESS) or action.dest in ("precision", "adapt_contrast"):
        return ""
    return "" if same(told[1], action.default) else f"its help says {told[1]}, the parser has {shown(action.default)}"


EVERY = [(command, words) for command, variants in MINIMAL.items() for words in variants]


@pytest.mark.parametrize(("command", "words"), EVERY, ids=[" ".join([command, *words[:1]]) for command, words in EVERY])
def test_reference_tells_defaults_and_choices_as_the_parsers_have_them(
    command: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = described(section_of(command, words[0] if command == "DiffAtlas_convert" else None))
    actions = actions_by_option(parser_of(command, words, monkeypatch), words)
    assert {*told} == {*actions}
    found = []
    for option, action in actions.items():
        one = told[option]
        problem = "" if action.option_strings == [] else default_problem(action, one.default)
        found += [f"{option}: the reference says {one.default}, {problem}"] if problem else []
        found += [f"{option}: {problem}"] if (problem := help_problem(action)) else []
        named = set(one.named)
        for other in re.findall(r"as for `(DiffAtlas_\w+)`", one.text):
            named |= described(section_of(other, None))[option].named
        found += [f"{option}: {choice} is not named" for choice in action.choices or () if str(choice) not in named]
    assert not found


def test_the_check_sees_drift() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=3, help="(default: 4)")
    parser.add_argument("--rate", type=float, default=1.0, help="(default: %(default)s)")
    parser.add_argument("--fold", help="(default: the only one)")
    actions = actions_by_option(parser, [])
    rows = described("| `--steps`; `--rate` | 3; 1.5 | of `both` |\n| `--fold` | `all` | which |")
    assert default_problem(actions["--steps"], rows["--steps"].default) == ""
    assert default_problem(actions["--rate"], rows["--rate"].default) == "the parser has 1"
    assert "does not name" in default_problem(actions["--fold"], rows["--fold"].default)
    assert help_problem(actions["--steps"]) == "its help says 4, the parser has 3"
    assert help_problem(actions["--rate"]) == "" and rows["--rate"].named == {"--steps", "--rate", "both"}
    with pytest.raises(AssertionError, match="described twice"):
        described("| `--a` | 1 | x |\n| `--a` | 2 | y |")
