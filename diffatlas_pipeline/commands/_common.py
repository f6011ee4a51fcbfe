"""What all commands share: error handling, the workspace argument, the number of workers."""

from __future__ import annotations

import argparse
import io
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from diffatlas_pipeline import __version__, cluster, console
from diffatlas_pipeline.commands._help import HelpFormatter
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import Stopped, UserError
from diffatlas_pipeline.files import drive_fault
from diffatlas_pipeline.machine import default_workers, wait_briefly

TERMINATED = 128 + signal.SIGTERM
SCRIPTS = {
    name: f"DiffAtlas_{name}"
    for name in ("plan_and_preprocess", "train", "predict", "evaluate", "report", "benchmark", "export_model", "install_model")
} | {"load_model": "DiffAtlas_predict"}
_LEADING = {"plan_and_preprocess": "-d"}  # an argument by position in Python, an option on the command line
_kept: list[argparse.ArgumentParser] | None = None  # parsers that run() is to keep instead of running their commands


def run(command: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, argv: list[str] | None = None) -> None:
    """Parse, run, exit: 0 done, 2 the user's mistake (one line, no traceback), 130 interrupted, 143 ended by SIGTERM.

    Other errors keep their traceback.

    What the library says of parameters is shown as the options of ``parser``.
    """
    if _kept is not None:
        _kept.append(parser)
        return
    arguments = parser.parse_args(argv)
    wait_briefly()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be in any encoding
            stream.reconfigure(errors="backslashreplace")
    with console.speaking(words_of(parser)), _stoppable(), cluster.on(getattr(arguments, "scheduler", None)):
        try:
            command(arguments)
        except UserError as error:
            print(f"Error: {console.in_words(str(error))}", file=sys.stderr)
            sys.exit(2)
        except OSError as error:
            told = drive_fault(error)
            if told is None:
                raise
            print(f"Error: {console.in_words(str(told))}", file=sys.stderr)
            sys.exit(2)
        except Stopped as error:
            print(error, file=sys.stderr)
            sys.exit(TERMINATED)
        except KeyboardInterrupt:
            print("Interrupted. What was finished is kept; the same command goes on from there.", file=sys.stderr)
            sys.exit(130)


def parser_of(main: Callable[[list[str]], None], words: list[str]) -> argparse.ArgumentParser:
    """The parser that the command ``main`` makes when it gets ``words``; nothing is parsed or run."""
    global _kept
    _kept = []
    try:
        main(words)
        (parser,) = _kept
    finally:
        _kept = None
    return parser


@contextmanager
def _stoppable() -> Iterator[None]:
    """In here SIGTERM raises Stopped, so that what is open is closed. Only the main thread hears signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise Stopped("Stopped. What was finished is kept; the same command goes on from there.")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def words_of(parser: argparse.ArgumentParser) -> console.Words:
    """The words of a command: the option of each parameter, the short one if there are two."""
    options: dict[str, str] = {}
    for action in actions_of(parser):
        option = action.option_strings[0] if action.option_strings else ""
        options[action.dest] = option
        if action.dest.startswith("no_"):  # a switch against a parameter: --no-validation
            options[action.dest.removeprefix("no_")] = option
    return console.Words(options, SCRIPTS, _LEADING)


def actions_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a command and of its sub-commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for choice in action.choices.values():
                yield from actions_of(choice)


def command_parser(description: str, example: str) -> argparse.ArgumentParser:
    """An argument parser that knows --version, and whose help ends with an example."""
    parser = argparse.ArgumentParser(description=description, epilog=f"example:\n  {example}", formatter_class=HelpFormatter)
    parser.add_argument("--version", action="version", version=f"DiffAtlas pipeline {__version__}", help="print the version")
    return parser


def add_workspace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workspace",
        metavar="FOLDER",
        help="folder with `raw/`, `preprocessed/` and `results/` (default: `$DIFFATLAS_WORKSPACE`, [`$DiffAtlas_raw` and "
        "others](dataset-format.md#workspace), or `./diffatlas_workspace`)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="`auto`, `cpu`, `cuda`, `cuda:1` or `mps` (default: %(default)s)")


def workspace_of(arguments: argparse.Namespace) -> Workspace:
    return Workspace.resolve(arguments.workspace)


def same_workspace(arguments: argparse.Namespace) -> str:
    """What the next command must carry to find what this one wrote: " --workspace FOLDER", or nothing if none was
    given.
    """
    return f" --workspace {shlex.quote(str(arguments.workspace))}" if arguments.workspace else ""


def add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=int,
        default=default_workers(),
        metavar="N",
        help="parallel processes (default: by cores and free memory, at most 8: %(default)s here)",
    )


def add_scheduler(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="let the [workers of a Dask cluster](../how-to/gpu-and-cluster.md#many-machines) do the work: address "
        "(`tcp://HOST:8786`) or scheduler file (default: this machine does it)",
    )
