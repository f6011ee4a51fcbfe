"""DiffAtlas_find_best_configuration: which trained model and settings to predict with, by the validation cases."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from diffatlas_pipeline.commands import _common

if TYPE_CHECKING:
    from diffatlas_pipeline.api.best_configuration import BestConfiguration

STEPS = (1, 2, 4)  # as in the room api, which the parser does not load


def main(argv: list[str] | None = None) -> None:
    parser = _common.command_parser(
        "Segment the validation cases of all trained models of a data set, with several settings; say which is best, and\n"
        "how to predict with it.",
        "DiffAtlas_find_best_configuration -d 001",
    )
    parser.add_argument("-d", "--dataset", required=True, help="data set: number, folder name or path")
    parser.add_argument(
        "--steps",
        nargs="+",
        type=int,
        default=STEPS,
        metavar="N",
        help="sampling steps to try with methods that sample, beside those of their recipe; 0 means all T steps of the plan "
        "(default: 1 2 4)",
    )
    parser.add_argument(
        "--draws",
        nargs="+",
        type=int,
        metavar="N",
        help="draws to try with methods that sample, beside those of their recipe; several are averaged (default: none)",
    )
    parser.add_argument(
        "--with-atlases", action="store_true", help="also try the network averaged with registered training cases; takes long"
    )
    _common.add_device(parser)
    _common.add_workers(parser)
    _common.add_workspace(parser)
    _common.run(_find, parser, argv)


def _find(arguments: argparse.Namespace) -> None:
    from diffatlas_pipeline.api.best_configuration import find_best_configuration

    found = find_best_configuration(
        arguments.dataset,
        steps=arguments.steps,
        draws=arguments.draws or (),
        with_atlases=arguments.with_atlases,
        device=arguments.device,
        workers=arguments.workers,
        workspace=arguments.workspace,
    )
    print(_table(found))
    if found.chosen is not found.tried[0]:
        print("The best mean Dice is not told from the chosen one's by so few cases; the chosen one is faster.")
    print(f"Written: {found.summary}")
    print(f"Next: {shlex.join(_predict_words(found))}")


def _table(found: BestConfiguration) -> str:
    from diffatlas_pipeline.evaluation.summary_table import format_table

    header = [f"configuration ({found.cases} held-out cases)", "Dice", "NSD (1 mm)", "s/case", ""]
    rows = [
        [
            one.configuration.name,
            f"{one.mean_dice:.4f}",
            f"{one.mean_nsd:.4f}",
            f"{one.seconds_per_case:.2f}",
            "chosen" if one is found.chosen else "",
        ]
        for one in found.tried
    ]
    return format_table(header, rows)


def _predict_words(found: BestConfiguration) -> list[str]:
    """The command that predicts so."""
    one = found.chosen.configuration
    words = ["DiffAtlas_predict", "-i", "INPUT_FOLDER", "-o", "OUTPUT_FOLDER", "-m", str(one.model), "-f", *one.folds]
    words += [] if one.steps is None else ["--steps", str(one.steps)]
    words += [] if one.draws is None else ["--draws", str(one.draws)]
    return [*words, *(["--with-atlases"] if one.with_atlases else [])]
