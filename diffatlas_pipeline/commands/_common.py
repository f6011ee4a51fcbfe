"""What all commands share: error handling, the workspace argument, the number of workers."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from diffatlas_pipeline import __version__
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.machine import default_workers


def run(command: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, argv: list[str] | None = None) -> None:
    """Parse, run, exit: 0 done, 2 the user's mistake (one line, no traceback), 130 interrupted. Others keep theirs."""
    arguments = parser.parse_args(argv)
    try:
        command(arguments)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Interrupted. What was finished is kept; the same command goes on from there.", file=sys.stderr)
        sys.exit(130)


def command_parser(description: str, example: str) -> argparse.ArgumentParser:
    """An argument parser that knows --version, and whose help ends with an example."""
    parser = argparse.ArgumentParser(
        description=description, epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"DiffAtlas pipeline {__version__}", help="print the version")
    return parser


def add_workspace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workspace",
        metavar="FOLDER",
        help="folder with raw/, preprocessed/ and results/ (default: $DIFFATLAS_WORKSPACE, else $DiffAtlas_raw, "
        "$DiffAtlas_preprocessed and $DiffAtlas_results, else ./diffatlas_workspace)",
    )


def workspace_of(arguments: argparse.Namespace) -> Workspace:
    return Workspace.resolve(arguments.workspace)


def check_registrations(folder: Path | None) -> None:
    """UserError if --registrations names something that is not a folder."""
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"--registrations {folder}: not a folder. Give one, it is made if it is not there.")


def same_workspace(arguments: argparse.Namespace) -> str:
    """What the next command must carry to find what this one wrote: " --workspace FOLDER", or nothing if none was given."""
    return f" --workspace {shlex.quote(str(arguments.workspace))}" if arguments.workspace else ""


def add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=int, default=default_workers(), metavar="N", help="parallel processes (default: %(default)s)"
    )
