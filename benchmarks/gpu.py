"""Accuracy, speed and correctness on one GPU, in minutes, on a machine with little more than torch.

``pack`` makes a folder with all that is needed, ``run`` measures where the GPU is, ``keep`` puts the results into the
documentation. Of the other packages, ``run`` uses only what the folder brings.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.commands import main_of
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import write_text_atomically

RESULTS_FILE = "gpu.json"
PARTS = ("speed", "dice", "checks")


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Hippocampus on a GPU: pack a folder here, run it there, keep the results here.",
        epilog="example:\n  python -m benchmarks.gpu pack gpu/ --python 3.12\n  python -m benchmarks.gpu run gpu/\n"
        "  python -m benchmarks.gpu keep gpu/results/",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    steps = made.add_subparsers(required=True)
    pack = steps.add_parser("pack", help="preprocessed cases and Python packages, for a machine without them")
    pack.set_defaults(act=pack_folder)
    pack.add_argument("folder", type=Path)
    data = os.environ.get("DIFFATLAS_TEST_DATA")
    pack.add_argument("--data", type=Path, default=Path(data) if data else None, metavar="FOLDER",
                      help="holds Task04_Hippocampus (default: $DIFFATLAS_TEST_DATA)")  # fmt: skip
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    pack.add_argument("--python", default=running, metavar="X.Y", help="version there (default: %(default)s)")
    measure = steps.add_parser("run", help="measure; results are written after each part")
    measure.set_defaults(act=run_folder)
    measure.add_argument("folder", type=Path)
    measure.add_argument("--minutes", type=float, default=8.0, metavar="N", help="for everything (default: %(default)s)")
    measure.add_argument("--device", default="cuda", help="(default: %(default)s)")
    measure.add_argument("--output", type=Path, metavar="FOLDER", help="(default: results/ in the folder)")
    measure.add_argument("--tiny", action="store_true", help="a toy network, to see whether the script runs")
    keep = steps.add_parser("keep", help="put the results of a run into documentation/results/")
    keep.set_defaults(act=keep_results)
    keep.add_argument("folder", type=Path, help="with the gpu.json of a run")
    keep.add_argument("--results", type=Path, metavar="FOLDER", help="(default: documentation/results/)")
    return made


def run(act: Callable[..., None], **asked: Any) -> None:
    """What was asked for. UserError for what the user has to mend."""
    act(**asked)


def pack_folder(folder: Path, data: Path | None, python: str) -> None:
    from benchmarks.gpu_folder import write_folder

    write_folder(folder, data, python)


def run_folder(folder: Path, minutes: float, device: str, output: Path | None, tiny: bool) -> None:
    """SystemExit(1) if a part failed or a check did not hold; the others are done and written all the same."""
    started_s = time.monotonic()  # importing takes of the time, too
    sys.path.insert(0, str(folder.resolve() / "site"))  # also for the processes that make batches
    from benchmarks.gpu_folder import read_folder
    from benchmarks.gpu_parts import Clock, Results, measure
    from diffatlas_pipeline.networks.execution import resolve_device

    place, packed = resolve_device(device), read_folder(folder)
    results = Results((output or folder / "results") / RESULTS_FILE, packed.commit, place, minutes, tiny)
    measure(packed, place, Clock(started_s, 60 * minutes), results, tiny)
    print(f"Written: {results.path}")
    if results.bad():
        sys.exit(1)


def keep_results(folder: Path, results: Path | None) -> None:
    """Replace the results files of an earlier run. UserError for what is no result of a GPU."""
    import pandas as pd

    from benchmarks.record import RESULTS

    path = folder / RESULTS_FILE
    if not path.is_file():
        raise UserError(f"{path} is missing: give the folder that a run wrote its results to.")
    told = json.loads(path.read_text(encoding="utf-8"))
    if told["tiny"] or not told["machine"]["accelerator"]:
        raise UserError(f"{path}: results of a toy network or of a CPU. Run without --tiny where a GPU is.")
    for part in PARTS:
        rows = pd.DataFrame([told["machine"] | row for row in told[part]])
        if len(rows):
            file = (results or RESULTS) / f"gpu_{part}.csv"
            write_text_atomically(file, rows.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
            print(f"Written: {file}")
    print("Next: python -m benchmarks.tables --write")


if __name__ == "__main__":
    main()
