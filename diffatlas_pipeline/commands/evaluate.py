"""DiffAtlas_evaluate: score predictions against references."""

from __future__ import annotations

import argparse
from pathlib import Path

from diffatlas_pipeline.commands import _common
from diffatlas_pipeline.errors import UserError


def main(argv: list[str] | None = None) -> None:
    parser = _common.command_parser(
        "Score predicted segmentations against reference segmentations: Dice, normalised surface distance, HD95,\n"
        "volumes; with pictures of the worst, the median and the best case.",
        "DiffAtlas_evaluate -p predictions/ -r DatasetXXX_Name/labelsTs/",
    )
    parser.add_argument("-p", "--predictions", type=Path, required=True, help="folder of predictions (or one file)")
    parser.add_argument(
        "-r", "--references", type=Path, required=True, help="folder of references of the same names (or one file)"
    )
    parser.add_argument("-o", "--output", type=Path, help="folder for the results (default: PREDICTIONS/evaluation)")
    parser.add_argument(
        "--tolerance-mm", type=float, default=1.0, metavar="MM", help="tolerance of the surface distance (default: %(default)s)"
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="scans to show in the pictures (default: imagesTr or imagesTs beside labels)",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="JSON",
        help="dataset.json that names the labels (default: the one in or beside REFERENCES, else all values found there)",
    )
    parser.add_argument(
        "--missing",
        choices=("error", "empty", "skip"),
        default="error",
        help="what a reference without prediction means: an error, an empty segmentation, or nothing (default: %(default)s)",
    )
    _common.add_workers(parser)
    _common.run(_evaluate, parser, argv)


def _evaluate(arguments: argparse.Namespace) -> None:
    for path in (arguments.predictions, arguments.references, arguments.images):
        if path is not None and not path.exists():
            raise UserError(f"{path}: no such file or folder.")

    from diffatlas_pipeline.evaluation.evaluate import evaluate_folders, read_labels_json
    from diffatlas_pipeline.evaluation.overlays import find_images, write_overlays
    from diffatlas_pipeline.evaluation.summary_table import results_table

    labels = read_labels_json(arguments.labels) if arguments.labels else None
    evaluation = evaluate_folders(
        arguments.predictions, arguments.references, labels, arguments.tolerance_mm, arguments.workers, arguments.missing
    )
    folder = arguments.predictions if arguments.predictions.is_dir() else arguments.predictions.parent
    output = arguments.output or folder / "evaluation"
    written = [*evaluation.write(output)]
    pictures, remarks = write_overlays(evaluation, output, arguments.images or find_images(arguments.references))
    print(results_table(evaluation))
    if evaluation.missing:
        meaning = "scored as empty" if evaluation.missing_rule == "empty" else "left out"
        print(f"{len(evaluation.missing)} references without prediction were {meaning}.")
    for line in (*evaluation.warnings, *remarks):
        print(f"Warning: {line}")
    for path in (*written, *pictures):
        print(f"Written: {path}")
