"""A Dask cluster on the loopback, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


class Dask:
    """A scheduler on the loopback, and its workers. A task that lost more than ``failures`` of them is given up."""

    def __init__(self, folder: Path, failures: int = 3) -> None:
        self.file = folder / "scheduler.json"
        self.workers: list[subprocess.Popen[bytes]] = []
        options = ["--port", "0", "--no-dashboard", "--scheduler-file", str(self.file)]
        self.scheduler = self._start("scheduler", *options, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=str(failures))
        deadline = time.monotonic() + 60
        while not self.file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def add_worker(self, *words: str, threads: int = 1) -> None:
        options = ["--scheduler-file", str(self.file), "--nthreads", str(threads), "--no-nanny", "--no-dashboard"]
        self.workers.append(self._start("worker", *options, "--memory-limit", "0", *words))

    def wait_for_workers(self) -> None:
        """Until all that were added are known to the scheduler."""
        from distributed import Client

        with Client(scheduler_file=str(self.file), set_as_default=False) as client:
            client.wait_for_workers(len(self.workers), timeout=60)

    def close(self) -> None:
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()

    @staticmethod
    def _start(kind: str, *words: str, **variables: str) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).parents[1])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"PYTHONPATH": path} | variables
        line = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *words]
        return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
