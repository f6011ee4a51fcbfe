"""Models that travel: pack one, install one, and tell what one is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.models.archive import opened
from diffatlas_pipeline.models.card import facts_of, model_card
from diffatlas_pipeline.models.find import model_at
from diffatlas_pipeline.models.folder import PLANS, ModelFolder
from diffatlas_pipeline.models.install import install_package
from diffatlas_pipeline.models.package import Manifest, licence_of, pack_model


def export_model(
    model: str | Path | ModelFolder,
    output: str | Path,
    *,
    folds: Sequence[str] | None = None,
    with_scans: bool = False,
    licence: str = "",
    overwrite: bool = False,
) -> Manifest:
    """Write a trained model to the zip file ``output``, which :func:`install_model` and ``load_model`` take.

    ``with_scans``: also the few training scans that it keeps, and the names of its cases. ``licence`` says what others
    may do with it. Raises UserError.
    """
    folder = model if isinstance(model, ModelFolder) else model_at(Path(model).expanduser().resolve())
    return pack_model(folder, Path(output).expanduser(), folds, with_scans, licence, overwrite)


def install_model(archive: str | Path, *, workspace: str | Path | None = None, overwrite: bool = False) -> Path:
    """Check a model that :func:`export_model` packed, and put it into the workspace; returns its folder.

    Raises UserError.
    """
    return install_package(Path(archive).expanduser(), Workspace.resolve(workspace), overwrite).path


def card_of(model: str | Path | ModelFolder) -> str:
    """What a model is, as Markdown: of a model folder, or of a zip file of one. Raises UserError."""
    with opened(model.path if isinstance(model, ModelFolder) else Path(model)) as folder:
        return model_card(folder, folder.folds(), licence_of(folder.path))


def overview(workspace: str | Path | None = None) -> str:
    """What is in a workspace: raw data sets, planned ones, and trained models with the Dice of their held-out cases."""
    places = Workspace.resolve(workspace)
    models = [ModelFolder(plans.parent) for plans in sorted(places.results.glob(f"Dataset*_*/*__*/{PLANS}"))]
    lines = [*_listed("Raw data sets", places.raw), "", *_listed("Planned and preprocessed", places.preprocessed)]
    lines += ["", f"Trained models in {places.results}:"]
    for model in models:
        facts = [facts_of(model, fold) for fold in model.folds()]
        folds = (one.fold if math.isnan(one.mean_dice) else f"{one.fold} (Dice {one.mean_dice:.3f})" for one in facts)
        lines.append(f"  {model.dataset}/{model.path.name}: {', '.join(folds) or 'not trained to the end'}")
    return "\n".join(lines if models else [*lines, "  none"])


def _listed(title: str, folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.glob("Dataset*_*") if path.is_dir())
    return [f"{title} in {folder}:", *(f"  {name}" for name in names or ["none"])]
