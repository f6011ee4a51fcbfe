"""What the workers of a test's cluster are given to do."""

from __future__ import annotations

import os
import time
from pathlib import Path

from diffatlas_pipeline.errors import DatasetError


def noted(item: tuple[str, str, float]) -> str:
    """Write down that (folder, name, seconds) was begun, and when it is done, where; returns the name."""
    folder, name, seconds = item
    (Path(folder) / f"{name}_begun_{os.getpid()}_{time.time_ns()}").touch()
    time.sleep(seconds)
    (Path(folder) / f"{name}_done_{os.getpid()}_{time.time_ns()}").touch()
    return name


def deadly(item: tuple[str, str, float]) -> str:
    """The case "bad" ends its worker, after half of the seconds."""
    if item[1] == "bad":
        time.sleep(item[2] / 2)
        os._exit(1)
    return noted(item)


def wrong(item: tuple[str, str, float]) -> str:
    raise DatasetError(f"{item[1]}: a header that is damaged. Export it again.")


def here(item: object) -> str:
    return str(Path.cwd())
