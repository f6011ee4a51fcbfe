"""Commands as processes that do not outlive who started them.

``python -m diffatlas_pipeline.children COMMAND ARGUMENTS`` is ``python -m diffatlas_pipeline COMMAND
ARGUMENTS`` that ends when its standard input does, which whoever started it holds open. So a benchmark that is killed
leaves no training behind that would write to the same files as the next one.
"""

from __future__ import annotations

import os
import runpy
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

ENDED, PATIENCE_S = 143, 10.0


def line_of(command: str, words: Sequence[str]) -> list[str]:
    """What starts ``DiffAtlas_<command> words`` as a process that ends when its standard input does."""
    return [sys.executable, "-m", "diffatlas_pipeline.children", command, *words]


class ChildrenStopped(Exception):
    """The children were told to stop."""


class Children:
    """Runs commands as processes that end with this one, or when told to. Safe to use from several threads."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**environment, "PYTHONUNBUFFERED": "1"}
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopping = False
        self._lock = threading.Lock()

    def do(self, command: str, words: Sequence[str], log: Path | None) -> int:
        """Exit code of ``DiffAtlas_<command> words``; what it prints is added to ``log``, or shown. ChildrenStopped if
        told to stop.
        """
        line = line_of(command, words)
        with nullcontext() if log is None else log.open("ab") as file:
            if file is not None:
                file.write(f"$ {shlex.join([f'DiffAtlas_{command}', *words])}\n".encode())
                file.flush()
            errors = None if file is None else subprocess.STDOUT
            with self._lock:
                if self._stopping:
                    raise ChildrenStopped
                child = subprocess.Popen(  # in a session of its own: Ctrl-C is for this process, which then stops its children
                    line, stdin=subprocess.PIPE, stdout=file, stderr=errors, env=self._environment, start_new_session=True
                )
                self._running.add(child)
            try:
                code = child.wait()
            except BaseException:
                child.terminate()
                raise
        with self._lock:
            self._running.discard(child)
        child.stdin.close()  # type: ignore[union-attr]  # a pipe
        if self._stopping:
            raise ChildrenStopped
        return code

    def stop(self) -> None:
        """End all that run, and start no more."""
        with self._lock:
            self._stopping = True
            for child in self._running:
                child.terminate()


def _end_with_parent() -> None:
    """Wait until the standard input ends, then end as if told to, which saves what is trained so far."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE_S)
    os._exit(ENDED)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    runpy.run_module("diffatlas_pipeline", run_name="__main__", alter_sys=True)
