from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.folders import write_benchmark


@pytest.fixture(scope="session")
def benchmark_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark of three cases; not to be changed."""
    return write_benchmark(tmp_path_factory.mktemp("benchmark"), ["a", "b", "c"])
