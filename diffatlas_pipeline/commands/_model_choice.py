"""Which trained model a command uses."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from diffatlas_pipeline.commands import _common

if TYPE_CHECKING:
    from diffatlas_pipeline.models.folder import ModelFolder


def add_model_choice(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Options that choose a model; the group is returned, for the fold."""
    choice = parser.add_argument_group("which model (not needed if there is only one)")
    choice.add_argument("-d", "--dataset", help="number or name of the data set it was trained on (default: the only one)")
    choice.add_argument(
        "-m",
        "--model",
        type=Path,
        metavar="FOLDER",
        help="a model folder anywhere, or a zip file of one (default: found in the workspace)",
    )
    choice.add_argument("--method", help="method it was trained with, such as `diffatlas` (default: the only one)")
    choice.add_argument("--recipe", help="recipe it was trained with, such as `default` or `paper` (default: the only one)")
    return choice


def chosen_model(arguments: argparse.Namespace) -> ModelFolder | Path:
    """The one model that fits, or a zip file of one. UserError lists the candidates."""
    from diffatlas_pipeline.models.find import find_model

    path = arguments.model and arguments.model.expanduser()
    if path is not None and path.is_file():  # an archive, which load_model unpacks
        return Path(path)
    workspace = _common.workspace_of(arguments)
    return find_model(workspace, arguments.dataset, arguments.method, arguments.recipe, path)
