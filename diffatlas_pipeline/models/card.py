"""The model card: what a model segments, what it has learnt from, how good it was found to be, and what is in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffatlas_pipeline.datasets.description import DatasetDescription
from diffatlas_pipeline.errors import ModelError
from diffatlas_pipeline.methods.base import LearnedRecipe
from diffatlas_pipeline.methods.registry import recipe_of
from diffatlas_pipeline.models.atlas_file import count_atlases
from diffatlas_pipeline.models.folder import ModelFolder

SCORES = Path("validation") / "summary.json"  # in a fold's folder
NO_LICENCE = "not stated: ask who gave you the model before you pass it on"
TRAINING_CASES = "number_of_training_cases"  # in the metadata of a model whose cases are not named


@dataclass(frozen=True)
class FoldFacts:
    """One trained fold: training cases, iterations, minutes, kept scans, and mean Dice of held-out cases by label."""

    fold: str
    training_cases: int | None
    iterations: int | None
    minutes: float | None
    scans: int
    validated: int
    dice: dict[str, float]

    @property
    def mean_dice(self) -> float:
        """NaN where no case was held out."""
        found = [value for value in self.dice.values() if not math.isnan(value)]
        return sum(found) / len(found) if found else math.nan


def facts_of(model: ModelFolder, fold: str) -> FoldFacts:
    """What the files of a trained ``fold`` tell. ModelError if its atlases are damaged."""
    metadata = model.remembered(fold)
    cases = metadata.get("training_cases")
    scores = read_scores(model.path / fold / SCORES)
    labels: Mapping[str, Any] = scores.get("labels", {})
    dice = {name: _number(found.get("dice", {}).get("mean")) for name, found in labels.items()}
    counts = [int(found.get("dice", {}).get("count") or 0) for found in labels.values()]
    seconds = metadata.get("seconds")
    try:
        scans = count_atlases(model.path / fold)
    except ValueError as error:
        raise ModelError(f"{error}. Delete it to do without its atlases.") from error
    return FoldFacts(
        fold,
        len(cases) if cases else metadata.get(TRAINING_CASES),
        metadata.get("iterations"),
        seconds / 60 if isinstance(seconds, int | float) else None,
        scans,
        max(counts, default=0),
        dice,
    )


def read_scores(path: Path) -> dict[str, Any]:
    """The scores of held-out cases; {} where there are none, or where they cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def model_card(model: ModelFolder, folds: Sequence[str], licence: str = "", with_scans: bool = True) -> str:
    """The card of ``model`` as Markdown, or of a copy of it without training scans. UserError if it is damaged."""
    plan, facts = model.plan(), [facts_of(model, fold) for fold in folds]
    facts = facts if with_scans else [replace(one, scans=0) for one in facts]
    recipe = recipe_of(plan, model.method, model.recipe)
    anything = isinstance(recipe, LearnedRecipe) and recipe.any_contrast > 0
    spacing = " x ".join(f"{value:.3g}" for value in plan.spacing_mm)
    rows = {
        "segments": ", ".join(f"{label.name} ({label.value})" for label in plan.dataset.labels),
        "in scans of": _channels(plan.dataset) + (", or of another contrast: it was trained with any" if anything else ""),
        "method, recipe": f"{model.method}, {model.recipe}",
        "works at": f"{spacing} mm, {'slices' if plan.dimensions == 2 else 'volumes'}{_finds(model, folds)}",
        "holds training scans": _scans(facts),
        "licence": licence or NO_LICENCE,
    }
    lines = [f"# {plan.dataset.name}", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {_cell(text)} |" for name, text in rows.items()]
    lines += ["", "## Folds", "", *_folds_table(facts)]
    lines += ["", "Dice is that of cases of the same data set which the fold was not trained on. Scans of another scanner,"]
    lines += ["protocol or disease may be segmented worse. It is not a medical device: look at every segmentation.", ""]
    return "\n".join(lines)


def _finds(model: ModelFolder, folds: Sequence[str]) -> str:
    """Of a model with a network of low resolution."""
    if not all(model.low_resolution.is_trained(fold) for fold in folds) or not folds:
        return ""
    spacing = " x ".join(f"{value:.3g}" for value in model.low_resolution.plan().spacing_mm)
    return f"; finds the structures in large scans at {spacing} mm"


def _channels(dataset: DatasetDescription) -> str:
    return " and ".join(dataset.channels)


def _scans(facts: Sequence[FoldFacts]) -> str:
    if any(one.scans for one in facts):
        return "yes, " + ", ".join(f"{one.scans} in {one.fold}" for one in facts if one.scans)
    return "no: scans are segmented as they are, without atlases and without adaptation of their contrast"


def _folds_table(facts: Sequence[FoldFacts]) -> list[str]:
    labels = list(dict.fromkeys(name for one in facts for name in one.dice))
    header = ["fold", "trained on", "iterations", "minutes", "held out", "mean Dice", *labels]
    lines = ["| " + " | ".join(map(_cell, header)) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    for one in facts:
        cells = [one.fold, _count(one.training_cases), _count(one.iterations)]
        cells += ["" if one.minutes is None else f"{one.minutes:.0f}", _count(one.validated or None), _dice(one.mean_dice)]
        cells += [_dice(one.dice.get(label, math.nan)) for label in labels]
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _dice(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
