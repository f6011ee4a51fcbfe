"""What the processes of a test are given to do. They import this module first, so it is light."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def square(number: int) -> int:
    return number * number


def die_at_two(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop_at_one(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return number


def make_folder_or_die(folder: str) -> None:
    if folder.endswith("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    Path(folder).mkdir()


def make_folder_or_fail(folder: str) -> None:
    if folder.endswith("fails"):
        raise ZeroDivisionError("a bug of ours")
    if folder.endswith("large"):
        raise MemoryError
    Path(folder).mkdir()


def threads(_: int) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


def fail(number: int) -> int:
    raise ZeroDivisionError("a bug of ours")


def process_number(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


class Stubborn(Exception):
    """It cannot be made anew of its message alone."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"of two {first} and {second}")


def raise_stubborn(_: int) -> None:
    raise Stubborn(1, 2)
