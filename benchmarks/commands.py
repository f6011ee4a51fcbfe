"""The pipeline's public commands, run as a user would type them."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


class Stopped(Exception):
    """A command failed; ``code`` is its exit code."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.code = code


def do(command: str, words: Sequence[str]) -> float:
    """Print ``DiffAtlas_<command>`` with its arguments as typed, run it, and return its seconds. Raises Stopped if it fails."""
    line = shlex.join([f"DiffAtlas_{command}", *words])
    print(f"\n$ {line}", flush=True)
    start = time.monotonic()
    code = subprocess.run([*executable(command), *words], check=False).returncode
    if code:
        raise Stopped(line, code)
    seconds = time.monotonic() - start
    print(f"[{seconds:.0f} s]", flush=True)
    return seconds


def executable(command: str) -> list[str]:
    """The console script of this Python's environment, else its module run by this Python."""
    script = shutil.which(f"DiffAtlas_{command}", path=str(Path(sys.executable).parent))
    return [script] if script else [sys.executable, "-m", f"diffatlas_pipeline.commands.{command}"]
