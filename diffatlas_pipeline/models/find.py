"""Find the model that is meant among those of a workspace."""

from __future__ import annotations

import re
from pathlib import Path

from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import ModelError
from diffatlas_pipeline.models.folder import PLANS, WEIGHTS, ModelFolder


def find_model(
    workspace: Workspace,
    dataset: str | None = None,
    method: str | None = None,
    recipe: str | None = None,
    path: Path | str | None = None,
) -> ModelFolder:
    """The one trained model that fits; with a single model in the workspace nothing need be named.

    ``dataset`` is an id or a folder name, ``path`` a model folder anywhere. ModelError lists the candidates and the
    parameters that choose between them, or says what to train.
    """
    if path is not None:
        return model_at(Path(path).expanduser().resolve())
    known = [ModelFolder(plans.parent) for plans in sorted(workspace.results.glob(f"Dataset*_*/*__*/{PLANS}"))]
    fitting = [model for model in known if _fits(model, dataset, method, recipe)]
    trained = [model for model in fitting if model.folds()]
    if len(trained) == 1:
        return trained[0]
    named = {"dataset": dataset, "method": method, "recipe": recipe}
    wanted = " ".join(f"`{name}` {value}" for name, value in named.items() if value)
    if trained:
        lines = "\n".join(f"  {_how_to_choose(model)}" for model in trained)
        raise ModelError(f"Several trained models fit{' ' + wanted if wanted else ''}. Choose one:\n{lines}")
    if fitting:
        raise ModelError(f"{fitting[0].path} has no trained fold yet (no {WEIGHTS}). Finish `train` first.")
    others = "\n".join(f"  {_how_to_choose(model)}" for model in known if model.folds())
    rest = f"choose one of these:\n{others}" if others else "give a model folder as `model`."
    found = f"Train one with `train`, or {rest}"
    raise ModelError(f"No trained model{' for ' + wanted if wanted else ''} in {workspace.results}. {found}")


def model_at(path: Path) -> ModelFolder:
    """The model in the folder ``path``. ModelError if it is none."""
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder. Give the folder of a model, or a zip file of one.")
    if (path / PLANS).is_file():
        return ModelFolder(path)
    if (path.parent / PLANS).is_file():
        raise ModelError(f"{path} is one fold of a model. Give its parent instead: `model` {path.parent} `folds` {path.name}")
    raise ModelError(
        f"{path} is not a model folder (it has no {PLANS}). Give a folder like .../DatasetXXX_Name/diffatlas__default."
    )


def _fits(model: ModelFolder, dataset: str | None, method: str | None, recipe: str | None) -> bool:
    same_dataset = dataset is None or _same_dataset(model.dataset, dataset)
    return same_dataset and method in (None, model.method) and recipe in (None, model.recipe)


def _same_dataset(folder: str, wanted: str) -> bool:
    number = re.match(r"Dataset(\d+)_", folder)
    by_number = wanted.isdigit() and number is not None and int(wanted) == int(number.group(1))
    return by_number or Path(wanted).name == folder


def _how_to_choose(model: ModelFolder) -> str:
    folds = ", ".join(model.folds())
    return f"`dataset` {model.dataset} `method` {model.method} `recipe` {model.recipe}   (folds: {folds})"
