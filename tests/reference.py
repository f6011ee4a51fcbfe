"""The tables of options in the reference pages, made from the parsers.

python -m tests.reference --write
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from diffatlas_pipeline.commands._completion import parser_of
from tests.pages import ROOT

PAGES = sorted((ROOT / "documentation" / "reference").glob("*.md"))
BEGIN, END = "<!-- options of {} -->", "<!-- end of options -->"
_BLOCK = re.compile(BEGIN.format(r"(DiffAtlas_(\w+)(?: (\w+))?)") + rf"\n.*?{END}", re.DOTALL)
_DEFAULT = re.compile(r" *\(default: (.*)\)$", re.DOTALL)
_MACHINE = ": %(default)s here"  # a default that this computer has


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compare the reference's tables of options with the parsers.")
    parser.add_argument("--write", action="store_true", help="write those that differ; default is to exit with 1")
    arguments = parser.parse_args(argv)
    differing = [(page, text) for page in PAGES if (text := renewed(read(page))) != read(page)]
    for page, text in differing:
        print(f"{page.relative_to(ROOT)}: {'written' if arguments.write else 'differs'}")
        if arguments.write:
            page.write_text(text, encoding="utf-8")
    sys.exit(1 if differing and not arguments.write else 0)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def renewed(text: str) -> str:
    """A page with the tables that the parsers have now."""
    return _BLOCK.sub(lambda found: f"{BEGIN.format(found[1])}\n{table(found[2], found[3])}\n{END}", text)


def tables_of(text: str) -> list[str]:
    """The commands, and converters behind theirs, whose options a page lists."""
    return [found[1] for found in _BLOCK.finditer(text)]


def table(command: str, converter: str | None = None) -> str:
    """A row for each option and argument of DiffAtlas_``command``, or of one of its converters."""
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *map(_row, actions_of(command, converter))])


def actions_of(command: str, converter: str | None = None) -> Iterator[argparse.Action]:
    """What the parser takes, but for -h and --version."""
    parser = parser_of(command)
    if converter:
        parser = next(action.choices[converter] for action in parser._actions if action.dest == "converter")  # type: ignore[index]
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction | argparse._VersionAction | argparse._SubParsersAction):
            yield action


def _row(action: argparse.Action) -> str:
    value = "" if action.metavar is None or not action.option_strings else f" {action.metavar}"
    value += " ..." if value and action.nargs == "+" else ""
    *others, last = action.option_strings or [action.dest]
    names = ", ".join([*(f"`{name}`" for name in others), f"`{last}{value}`"])
    return " | ".join([f"| {_cell(names)}", _cell(default_of(action)), f"{_cell(meaning_of(action))} |"])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def meaning_of(action: argparse.Action) -> str:
    """The help without its default; with the choices where it names none."""
    meaning = _DEFAULT.sub("", str(action.help))
    choices = [f"`{choice}`" for choice in action.choices or ()]
    return meaning if any(choice in meaning for choice in choices) or not choices else f"{meaning}: {', '.join(choices)}"


def default_of(action: argparse.Action) -> str:
    """As the help tells it, with the parser's value."""
    told = _DEFAULT.search(str(action.help))
    if action.required:
        return "needed"
    if told is None:
        return "off" if isinstance(action.default, bool) else "none"
    if told[1] in ("%(default)s", "%(default)g"):
        return f"`{action.default}`" if isinstance(action.default, str) else f"{action.default:g}"
    return told[1].replace(_MACHINE, "") % {"default": action.default}


if __name__ == "__main__":
    main()
