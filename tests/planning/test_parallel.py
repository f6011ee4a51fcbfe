from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from diffatlas_pipeline.contracts import CaseFiles
from diffatlas_pipeline.errors import DatasetError
from diffatlas_pipeline.planning.parallel import SMALL_BYTES, run_cases, useful_workers


def square(number: int) -> int:
    return number * number


def die_at_two(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def stall_at_one(number: int) -> int:
    if number == 1:
        time.sleep(60)
    return number


def fail(number: int) -> int:
    raise ZeroDivisionError("a bug of ours")


NAMES = ["a", "b", "dies", "d"]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_keep_the_order(workers: int) -> None:
    assert run_cases(square, [3, 1, 2, 0], NAMES, workers, "Test") == [9, 1, 4, 0]


def test_a_killed_worker_is_named_with_its_case() -> None:
    with pytest.raises(DatasetError, match=r"killed.*dies"):
        run_cases(die_at_two, [0, 1, 2, 3], NAMES, 2, "Test")


def test_a_stalled_worker_is_named_and_ended() -> None:
    started = time.monotonic()
    with pytest.raises(DatasetError, match=r"No case was finished in 5 s while working on b"):
        run_cases(stall_at_one, [0, 1], NAMES[:2], 2, "Test", timeout_s=5)
    assert time.monotonic() - started < 40


@pytest.mark.parametrize("workers", [1, 2])
def test_bugs_keep_their_type(workers: int) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug of ours"):
        run_cases(fail, [0, 1], NAMES[:2], workers, "Test")


def test_small_data_start_no_processes(tmp_path: Path) -> None:
    (tmp_path / "small.nii").write_bytes(b"x")
    with (tmp_path / "large.nii").open("wb") as file:
        file.truncate(SMALL_BYTES + 1)
    small, large = (CaseFiles(name, (tmp_path / f"{name}.nii",), None) for name in ("small", "large"))
    assert useful_workers([small], 4) == 1
    assert useful_workers([small, large], 4) == 4
