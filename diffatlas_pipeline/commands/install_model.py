"""DiffAtlas_install_model: put a packed model where the commands find it."""

from __future__ import annotations

import argparse
from pathlib import Path

from diffatlas_pipeline.commands import _common


def main(argv: list[str] | None = None) -> None:
    parser = _common.command_parser(
        "Check a model that DiffAtlas_export_model packed, and put it into the workspace, where DiffAtlas_predict finds it.",
        "DiffAtlas_install_model model.zip",
    )
    parser.add_argument("archive", type=Path, metavar="FILE", help="zip file of a model")
    parser.add_argument("--overwrite", action="store_true", help="replace a model of that name that is there already")
    _common.add_workspace(parser)
    _common.run(_install, parser, argv)


def _install(arguments: argparse.Namespace) -> None:
    from diffatlas_pipeline.api.sharing import card_of, install_model

    place = install_model(arguments.archive, workspace=arguments.workspace, overwrite=arguments.overwrite)
    print(card_of(place))
    print(f"Installed: {place}")
    dataset = place.parent.name.removeprefix("Dataset")[:3]
    print(f"Next: DiffAtlas_predict -i scans/ -o segmentations/ -d {dataset}{_common.same_workspace(arguments)}")
