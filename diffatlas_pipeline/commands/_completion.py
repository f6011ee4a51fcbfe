"""``python -m diffatlas_pipeline completion SHELL``: what makes a shell complete all commands."""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Iterable
from pathlib import Path

from diffatlas_pipeline.commands import _common
from diffatlas_pipeline.commands._converters import CONVERTERS
from diffatlas_pipeline.commands._help import plain
from diffatlas_pipeline.errors import UserError

SHELLS = ("bash", "zsh", "fish")
# Offered for arguments that take other words, too, so that their parsers name no choices.
OFFERED = {
    "fold": ("fold0", "fold1", "fold2", "fold3", "fold4", "all-folds", "all"),
    "method": ("diffatlas", "icf", "icmd", "rba", "mean"),
    "recipe": ("default", "paper", "paper-noise", "any-contrast"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "precision": ("auto", "float32", "bfloat16"),
    "solver": ("dpmpp_2m", "ddim", "ddpm"),
    "preset": ("cpu", "gpu8", "gpu24", "gpu80"),
}
_FOLDERS = ("workspace", "dataset")  # given as text; a data set is a number, a name or a folder


def main(names: Iterable[str], argv: list[str]) -> None:
    """Print the script of one shell for the commands ``names``; exits as commands do."""
    parser = _common.command_parser(
        "Print what makes a shell complete the options, files and choices of all commands with the key Tab.",
        "python -m diffatlas_pipeline completion bash > ~/.diffatlas.bash\n  echo 'source ~/.diffatlas.bash' >> ~/.bashrc",
    )
    parser.prog = "python -m diffatlas_pipeline completion"
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to read it")
    _common.run(lambda arguments: print(script(arguments.shell, names)), parser, argv)


def script(shell: str, names: Iterable[str]) -> str:
    """What ``shell``, one of SHELLS, has to read to complete the commands ``names``. UserError without shtab."""
    try:
        import shtab
    except ImportError:
        raise UserError("Completion needs the package shtab, which is not installed. Run: pip install shtab") from None
    parsers = [parser_of(name) for name in names]
    for parser in parsers:
        for action in _common.actions_of(parser):
            action.help = action.help and plain(action.help)
            if action.type is Path or action.dest in _FOLDERS:
                action.complete = shtab.DIRECTORY if _is_folder(action) else shtab.FILE  # type: ignore[attr-defined]
            elif action.choices is None and action.dest in OFFERED:
                action.choices = OFFERED[action.dest]
    text = "\n".join(shtab.complete(parser, shell) for parser in parsers)
    return f"eval {shlex.quote(text)}" if shell == "zsh" else text  # what zsh only sources is not registered


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of DiffAtlas_``name``, with the options of all its sub-commands."""
    command = importlib.import_module(f"diffatlas_pipeline.commands.{name}")
    parser = _common.parser_of(command.main, [*CONVERTERS] if name == "convert" else [])
    parser.prog = f"DiffAtlas_{name}"
    return parser


def _is_folder(action: argparse.Action) -> bool:
    return action.metavar == "FOLDER" or action.dest in _FOLDERS
