"""Commands in processes of their own, to be killed, stopped, or given a small disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

ONE_THREAD = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
LIMIT_S = 240


def command_line(command: str, *words: object) -> list[str]:
    return [sys.executable, "-m", "diffatlas_pipeline", command, *(str(word) for word in words)]


def run(command: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command_line(command, *words),
        env={**os.environ, **ONE_THREAD},
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT_S,
    )


def run_module(module: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a Python module of this repository to its end."""
    line = [sys.executable, "-m", module, *(str(word) for word in words)]
    return subprocess.run(
        line,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **ONE_THREAD},
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT_S,
    )


def killed_after(seconds: float, command: str, *words: object, alone: bool = False) -> bool:
    """Start a command and kill it after so many seconds, with all its processes or ``alone``: then the others have to
    end by themselves. False if it had ended by then.
    """
    process = subprocess.Popen(
        command_line(command, *words),
        env={**os.environ, **ONE_THREAD},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        (os.kill if alone else os.killpg)(process.pid, signal.SIGKILL)
        process.wait(LIMIT_S)
        wait_for_the_end(process.pid)
        return True
    return False


def wait_for_the_end(group: int, seconds: float = 60.0) -> None:
    """AssertionError if processes of a group outlive its first one for so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError(f"processes of group {group} are left")


def on_small_disk(
    scratch: Path, script: str, place: Path, kilobytes: int, options: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a Python ``script``, kept in ``scratch``, for which ``place`` is an empty disk of that size. Skips the test
    where users cannot mount one.
    """
    place.mkdir(parents=True, exist_ok=True)
    mount = f"mount -t tmpfs -o size={kilobytes}k{options} none {place}"
    if shutil.which("unshare") is None or _in_own_mounts(f"{mount} && true").returncode != 0:
        pytest.skip("this system lets nobody mount a disk of his own")
    path = scratch / "script.py"
    path.write_text(script, encoding="utf-8")
    return _in_own_mounts(f'{mount} && exec "$0" "$1"', sys.executable, str(path))


def _in_own_mounts(line: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    words: Sequence[str] = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", line, *arguments]
    return subprocess.run(words, env={**os.environ, **ONE_THREAD}, capture_output=True, encoding="utf-8", timeout=LIMIT_S)
