"""The pipeline's public commands, run as a user would type them."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from diffatlas_pipeline.errors import UserError


class CommandFailed(Exception):
    """A command failed; ``code`` is its exit code."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.code = code


def main_of(parser: argparse.ArgumentParser, run: Callable[..., None], argv: Sequence[str] | None) -> None:
    """``run`` with the arguments by name. A user's mistake ends in exit code 2, a failed command in its own."""
    try:
        run(**vars(parser.parse_args(argv)))
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except CommandFailed as stopped:
        print(f"The benchmark stopped at: {stopped}", file=sys.stderr)
        sys.exit(stopped.code)


def add_places(parser: argparse.ArgumentParser) -> None:
    """--workspace, and --data for the folder with the real data sets."""
    parser.add_argument(
        "--workspace",
        type=Path,
        default=Path(os.environ.get("DIFFATLAS_WORKSPACE", "diffatlas_workspace")),
        metavar="FOLDER",
        help="(default: $DIFFATLAS_WORKSPACE, else ./diffatlas_workspace)",
    )
    data = os.environ.get("DIFFATLAS_TEST_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(data) if data else None,
        metavar="FOLDER",
        help="holds Task04_Hippocampus, Dataset031_CardiacBSSFP, Dataset032_CardiacLGE (default: $DIFFATLAS_TEST_DATA)",
    )


def do(command: str, words: Sequence[str]) -> float:
    """Print ``DiffAtlas_<command>`` as typed, run it, and return its seconds. CommandFailed if it fails."""
    line = shlex.join([f"DiffAtlas_{command}", *words])
    print(f"\n$ {line}", flush=True)
    start = time.monotonic()
    code = subprocess.run([sys.executable, "-m", "diffatlas_pipeline", command, *words], check=False).returncode
    if code:
        raise CommandFailed(line, code)
    seconds = time.monotonic() - start
    print(f"[{seconds:.0f} s]", flush=True)
    return seconds
