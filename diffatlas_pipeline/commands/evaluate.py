"""DiffAtlas_evaluate: score predictions against references."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from diffatlas_pipeline import console
from diffatlas_pipeline.commands import _common

TOLERANCE_MM = 1.0


def main(argv: list[str] | None = None) -> None:
    parser = _common.command_parser(
        "Score predicted segmentations against reference segmentations: Dice, normalised surface distance, HD95,\n"
        "volumes; with pictures of the worst, the median and the best case.",
        "DiffAtlas_evaluate -p predictions/ -r DatasetXXX_Name/labelsTs/",
    )
    parser.add_argument("-p", "--predictions", type=Path, required=True, help="folder of predictions, or one file")
    parser.add_argument(
        "-r", "--references", type=Path, required=True, help="folder of references with the same names, or one file"
    )
    parser.add_argument("-o", "--output", type=Path, help="folder for the results (default: `PREDICTIONS/evaluation`)")
    parser.add_argument(
        "--tolerance-mm",
        type=float,
        default=TOLERANCE_MM,
        metavar="MM",
        help="tolerance of the normalised surface distance (default: %(default)s)",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="scans to show in the pictures (default: `imagesTr` or `imagesTs` beside the labels)",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="JSON",
        help="file that names the labels (default: `dataset.json` in or beside REFERENCES, else all values found)",
    )
    parser.add_argument(
        "--missing",
        choices=("error", "empty", "skip"),
        default="error",
        help="what a reference without prediction means: `error`, `empty` (scored as an empty segmentation) or `skip` "
        "(default: %(default)s)",
    )
    _common.add_workers(parser)
    _common.add_scheduler(parser)
    _common.run(_evaluate, parser, argv)


def _evaluate(arguments: argparse.Namespace) -> None:
    from diffatlas_pipeline.evaluation.folders import score_and_write
    from diffatlas_pipeline.evaluation.summary_table import results_table

    scored = score_and_write(
        arguments.predictions,
        arguments.references,
        arguments.output,
        labels=arguments.labels,
        images=arguments.images,
        tolerance_mm=arguments.tolerance_mm,
        missing=arguments.missing,
        workers=arguments.workers,
    )
    print(results_table(scored.evaluation))
    for warning in scored.warnings:
        console.warn(warning)
    for path in scored.files:
        print(f"Written: {path}")
    if arguments.predictions.is_dir():
        print(f"Next: {shlex.join(_report_words(arguments))}")


def _report_words(arguments: argparse.Namespace) -> list[str]:
    """The command that shows these scores as a page. It finds those in their default folder, and scores again
    elsewhere.
    """
    words = ["DiffAtlas_report", "-p", str(arguments.predictions)]
    if arguments.output:
        words += ["-r", str(arguments.references)]
        words += ["--labels", str(arguments.labels)] if arguments.labels else []
        words += ["--tolerance-mm", f"{arguments.tolerance_mm:g}"] if arguments.tolerance_mm != TOLERANCE_MM else []
        words += ["--missing", arguments.missing] if arguments.missing != "error" else []
    return [*words, *(["-i", str(arguments.images)] if arguments.images else [])]
