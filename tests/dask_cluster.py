"""A Dask cluster on the loopback, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


class Dask:
    """A scheduler on the loopback, and its workers."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(self.file))
        deadline = time.monotonic() + 60
        while not self.file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def add_worker(self, *words: str) -> None:
        options = ["--scheduler-file", str(self.file), "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        self.workers.append(self._start("worker", *options, "--memory-limit", "0", *words))

    def close(self) -> None:
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()

    @staticmethod
    def _start(kind: str, *words: str) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).parents[1])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
        line = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *words]
        return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
