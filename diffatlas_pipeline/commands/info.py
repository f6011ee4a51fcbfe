"""DiffAtlas_info: what a model is, or what a workspace holds."""

from __future__ import annotations

import argparse
from pathlib import Path

from diffatlas_pipeline.commands import _common


def main(argv: list[str] | None = None) -> None:
    parser = _common.command_parser(
        "Tell what a model segments, what it has learnt from and how good it was found to be; without a model, what the\n"
        "workspace holds.",
        "DiffAtlas_info model.zip",
    )
    parser.add_argument(
        "model",
        type=Path,
        nargs="?",
        metavar="MODEL",
        help="a model folder, or a zip file of one (default: all that the workspace holds)",
    )
    _common.add_workspace(parser)
    _common.run(_inform, parser, argv)


def _inform(arguments: argparse.Namespace) -> None:
    from diffatlas_pipeline.api.sharing import card_of, overview

    print(overview(arguments.workspace) if arguments.model is None else card_of(arguments.model))
