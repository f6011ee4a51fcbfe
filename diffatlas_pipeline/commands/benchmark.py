"""DiffAtlas_benchmark: methods times settings times seeds, trained, tested and put into one table."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path

from diffatlas_pipeline.commands import _common
from diffatlas_pipeline.training.schedule import seconds_of

METHODS = ("diffatlas", "icf", "icmd", "rba")


def main(argv: list[str] | None = None) -> None:
    parser = _common.command_parser(
        "Compare methods: train, predict and evaluate every method in every setting with every seed, and write one table.\n"
        "What is done is kept: the same command goes on after an interruption, and tries again what failed.",
        "DiffAtlas_benchmark -d 001 --methods diffatlas icf --settings full 2-shot --seeds 0 1 2 --max-time 10m",
    )
    parser.add_argument(
        "-d",
        "--dataset",
        required=True,
        help="data set to train on: number, folder name or path. It is planned if it is not planned yet",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        metavar="METHOD",
        help="methods, each with an optional recipe, `diffatlas:paper`, `rba:staple`; with `+atlases` behind it, "
        "`diffatlas+atlases`, the same models predict `--with-atlases` (default: `diffatlas icf icmd rba`)",
    )
    parser.add_argument(
        "--settings",
        nargs="+",
        default=["full"],
        metavar="SETTING",
        help="`full`, `K-shot` (`2-shot`, ...), `zero-shot:DATASET`, `zero-shot:DATASET@K-shot`; `zero-shot-unadapted:...` "
        "leaves the contrast of another modality as it is (default: `full`)",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0],
        metavar="S",
        help="seeds of few-shot cases, training and sampling; the cases differ for 0, 1 and 2 (default: 0)",
    )
    parser.add_argument(
        "--max-time", metavar="TIME", help="time for each training (`90s`, `10m`, `2h`) (default: as long as the plan says)"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder for everything that is written (default: `benchmarks/DATASET_TIME` in the workspace)",
    )
    parser.add_argument(
        "--splits-file",
        type=Path,
        metavar="FILE",
        help="JSON file with splits; they win over the planned ones of the same name",
    )
    parser.add_argument("--test-cases", type=int, metavar="N", help="test on the first N test cases only (default: all)")
    parser.add_argument(
        "--tolerance-mm",
        type=float,
        default=1.0,
        metavar="MM",
        help="tolerance of the normalised surface distance (default: %(default)s)",
    )
    parser.add_argument("--no-mean-atlas", dest="mean_atlas", action="store_false", help="leave out the row of the mean atlas")
    _common.add_device(parser)
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="trainings at the same time; they share the device (default: %(default)s)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace models in the folder that were trained with other options"
    )
    _common.add_scheduler(parser)
    _common.add_workspace(parser)
    _common.run(_benchmark, parser, argv)


def _benchmark(arguments: argparse.Namespace) -> None:
    from diffatlas_pipeline.benchmark.job import Comparison, run_benchmark

    arguments.max_time_s = seconds_of(arguments.max_time) if arguments.max_time else None
    arguments.name = (arguments.max_time or "planned").replace(" ", "")
    asked = Comparison(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Comparison)})
    outcome = run_benchmark(asked, _common.workspace_of(arguments))
    print(f"\n{outcome.table}")
    for path in outcome.files:
        print(f"Written: {path}")
    print(f"Next: {shlex.join(['DiffAtlas_report', '-b', str(outcome.folder)])}")
    if outcome.failed:
        print(
            f"Error: {len(outcome.failed)} of {outcome.count} cells failed; the same command tries them again:", file=sys.stderr
        )
        for cell in outcome.failed:
            print(f"  {cell.title}: {cell.message} (log: {outcome.folder / cell.log})", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
