"""What all commands share: error handling, the workspace argument, the number of workers."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.workspace import Workspace


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
    """An argument parser whose help ends with an example."""
    return argparse.ArgumentParser(
        description=description, epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_workspace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workspace",
        metavar="FOLDER",
        help="folder with raw/, preprocessed/ and results/ (default: $DIFFATLAS_WORKSPACE, else $DiffAtlas_raw, "
        "$DiffAtlas_preprocessed and $DiffAtlas_results, else ./diffatlas_workspace)",
    )


def workspace_of(arguments: argparse.Namespace) -> Workspace:
    return Workspace.resolve(arguments.workspace)


def add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=int, default=default_workers(), metavar="N", help="parallel processes (default: %(default)s)"
    )


def default_workers() -> int:
    """As many processes as cores this process may use, at most eight."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores))
