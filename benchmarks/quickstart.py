"""The quickstart as a newcomer runs it, timed; adds one row to a results file."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.commands import CommandFailed, do
from benchmarks.record import RESULTS, append_row, machine
from diffatlas_pipeline.errors import UserError


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Run DiffAtlas_quickstart in an empty folder; other options go to it as they are.",
        epilog="example:\n  python -m benchmarks.quickstart --seed 1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS / "quickstart.csv", metavar="FILE", help="(default: documentation/results/)"
    )
    arguments, others = parser.parse_known_args(argv)
    if any(word.startswith("--workspace") for word in others):
        parser.error("--workspace: it always runs in an empty folder of its own, which is deleted afterwards")
    try:
        with tempfile.TemporaryDirectory() as folder:
            seconds = do("quickstart", [*others, "--workspace", folder])
            summary = json.loads((Path(folder) / "evaluation" / "summary.json").read_text(encoding="utf-8"))
        append_row(arguments.results, row(summary, seconds, others))
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except CommandFailed as stopped:
        sys.exit(stopped.code)
    print(f"Added to {arguments.results}")


def row(summary: dict, seconds: float, others: list[str]) -> dict[str, object]:
    """Minutes of everything, Dice per label and mean of the held-out cases."""
    dice = {f"dice_{name}": round(values["dice"]["mean"], 4) for name, values in summary["labels"].items()}
    scores = {**dice, "dice_mean": round(summary["mean"]["dice"], 4), "cases": summary["case_count"]}
    return {**machine(), "minutes": round(seconds / 60, 2), **scores, "command": " ".join(["DiffAtlas_quickstart", *others])}


if __name__ == "__main__":
    main()
