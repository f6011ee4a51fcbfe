"""DiffAtlas_report: one offline HTML page of predictions or of a benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from diffatlas_pipeline import console
from diffatlas_pipeline.commands import _common
from diffatlas_pipeline.errors import UserError

if TYPE_CHECKING:
    from diffatlas_pipeline.report.sources import Source


def main(argv: list[str] | None = None) -> None:
    parser = _common.command_parser(
        "Render a folder of predictions, with or without references, or a benchmark as one HTML page that needs no network:\n"
        "tables, box plots, training curves, pictures, and a viewer for the volumes.",
        "DiffAtlas_report -p predictions/ -r DatasetXXX_Name/labelsTs/",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-p", "--predictions", type=Path, help="folder of predictions; this or `-b` is needed")
    what.add_argument("-b", "--benchmark", type=Path, help="folder that `DiffAtlas_benchmark` wrote; this or `-p` is needed")
    parser.add_argument(
        "-r",
        "--references",
        type=Path,
        help="folder of references with the same names; scored anew (default: those that `PREDICTIONS/evaluation` was scored "
        "with)",
    )
    parser.add_argument(
        "-i", "--images", type=Path, help="folder of the scans (default: `imagesTr` or `imagesTs` beside the references)"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the page; `.html` is added to a name without it (default: `report.html` in the folder)",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="JSON",
        help="file that names the labels (default: `dataset.json` in or beside REFERENCES, else `prediction.json`, else all "
        "values found)",
    )
    parser.add_argument(
        "--tolerance-mm",
        type=float,
        default=1.0,
        metavar="MM",
        help="as of `DiffAtlas_evaluate`, with `-r` (default: %(default)s)",
    )
    parser.add_argument(
        "--missing",
        choices=("error", "empty", "skip"),
        default="error",
        help="as of `DiffAtlas_evaluate`, with `-r`: `error`, `empty` or `skip` (default: %(default)s)",
    )
    parser.add_argument(
        "--max-mb", type=float, default=100.0, metavar="MB", help="size of the page, at most about (default: %(default)g)"
    )
    _common.add_workers(parser)
    _common.run(_report, parser, argv)


def _report(arguments: argparse.Namespace) -> None:
    folder = arguments.predictions or arguments.benchmark
    for path in (folder, arguments.references, arguments.images):
        if path is not None and not path.exists():
            raise UserError(f"{path}: no such file or folder. Check its name.")
    if not folder.is_dir():
        raise UserError(f"{folder}: must be a folder. Give the one that holds the files.")
    if not arguments.max_mb > 0:
        raise UserError(f"--max-mb {arguments.max_mb:g}: must be above 0.")
    if arguments.benchmark and (arguments.references or arguments.images or arguments.labels):
        raise UserError("-r, -i and --labels go with -p: a benchmark knows its references, scans and labels.")
    output = _page(arguments.output or folder / "report.html")

    from diffatlas_pipeline.report.page import write_page
    from diffatlas_pipeline.report.sources import benchmark_source

    source = benchmark_source(arguments.benchmark) if arguments.benchmark else _prediction_source(arguments)
    for note in write_page(source, output, arguments.max_mb, arguments.workers):
        console.say(f"Note: {note}")
    print(f"Written: {output} ({output.stat().st_size / 1e6:.1f} MB)")


def _page(output: Path) -> Path:
    """The file to write, in a folder that is there. UserError if it cannot be written."""
    if output.is_dir():
        raise UserError(f"{output}: is a folder. Give the name of the page, such as -o {output / 'report.html'}.")
    if output.suffix.lower() not in (".html", ".htm"):  # else browsers would show its source, or save it
        output = output.with_name(f"{output.name}.html")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error}). Choose another file with -o.") from error
    return output


def _prediction_source(arguments: argparse.Namespace) -> Source:
    from diffatlas_pipeline.evaluation.evaluate import evaluate_folders, read_labels_json
    from diffatlas_pipeline.evaluation.stored import read_evaluation
    from diffatlas_pipeline.report.sources import labels_of, prediction_source

    labels = read_labels_json(arguments.labels) if arguments.labels else None
    evaluation, scored = None, arguments.predictions / "evaluation"
    if arguments.references:
        evaluation = evaluate_folders(
            arguments.predictions, arguments.references, labels, arguments.tolerance_mm, arguments.workers, arguments.missing
        )
    elif (scored / "summary.json").is_file():
        evaluation = read_evaluation(scored)
    if evaluation:
        shown = evaluation.labels
    else:
        shown = labels.labels if labels else labels_of(arguments.predictions, arguments.workers)
    return prediction_source(arguments.predictions, evaluation, shown, arguments.images)
