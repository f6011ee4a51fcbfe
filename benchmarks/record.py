"""What every result says of the machine and the code it was made with, and how rows are added to a results file."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import write_text_atomically

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "documentation" / "results"


def machine() -> dict[str, str | int]:
    """Date, processor, cores that this process may use, threads of torch, its version, and the commit of the code."""
    import torch

    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "torch": importlib.metadata.version("torch"),
        "commit": commit(),
    }


def commit() -> str:
    """Short name of the commit, with a '+' if tracked files differ from it; '' outside a git repository."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        return name + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _processor() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        match = None
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def read_rows(path: Path) -> pd.DataFrame:
    """The rows of the CSV file ``path``. A commit stays text: 47e8853 is not a number."""
    import pandas as pd  # here: a machine that only measures has none

    return pd.read_csv(path, dtype={"commit": str})


def append_row(path: Path, row: dict[str, object]) -> None:
    """Add ``row`` to the CSV file ``path``, which is made if it is not there; columns that a row lacks stay empty.

    UserError if the file cannot be read or written.
    """
    import pandas as pd

    try:
        # As text: what earlier rows say is not to be reformatted.
        before = pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else pd.DataFrame()
        table = pd.concat([before, pd.DataFrame([row])], ignore_index=True)
        write_text_atomically(path, table.to_csv(index=False, na_rep="", lineterminator="\n"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read or written ({error}). Mend it, or give another file with --results."
        ) from error
