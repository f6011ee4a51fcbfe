"""All folds of a cross-validation, one after the other: every case is segmented by a model that has not seen it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from diffatlas_pipeline import console
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.models.card import facts_of
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.training.cases import known_splits
from diffatlas_pipeline.training.job import TrainingOutcome, check_shared, checked_job, run_training
from diffatlas_pipeline.training.options import TrainingOptions

ALL_FOLDS = "all-folds"


def run_trainings(options: TrainingOptions, workspace: Workspace) -> tuple[TrainingOutcome, ...]:
    """Train the fold of ``options``; where that is :data:`ALL_FOLDS`, each fold of the cross-validation.

    Folds that are trained already are left as they are, so the same call goes on after an interruption. What cannot be
    trained is said before the first begins (UserError).
    """
    each = folds_of(options, workspace)
    if options.fold != ALL_FOLDS:
        return (run_training(each[0], workspace),)
    for one in each:
        checked_job(one, workspace)
    made = []
    for number, one in enumerate(each, 1):
        console.say(f"{one.fold}: {number} of {len(each)}")
        made.append(run_training(one, workspace))
    console.say(_summary(made))
    return tuple(made)


def check_processes(options: TrainingOptions, workspace: Workspace, count: int) -> None:
    """UserError if what ``options`` ask for cannot be trained, or not by ``count`` processes."""
    for one in folds_of(options, workspace):
        check_shared(checked_job(one, workspace), count)


def folds_of(options: TrainingOptions, workspace: Workspace) -> list[TrainingOptions]:
    """``options`` for each fold that they name. UserError if there is none."""
    if options.fold != ALL_FOLDS:
        return [options]
    source = workspace.preprocessed_dataset(options.dataset)
    known = known_splits(source, options.splits_file)
    folds = [name for name in known if re.fullmatch(r"fold\d+", name)]
    if not folds:
        raise UserError(f"{source.name} has no split called fold0, fold1, ...; there are {', '.join(known)}. Give one of them.")
    return [replace(options, fold=fold) for fold in folds]


def _summary(made: Sequence[TrainingOutcome]) -> str:
    """Mean Dice of each fold's held-out cases, and over all folds."""
    facts = [facts_of(ModelFolder(one.model), one.fold) for one in made]
    scored = [one for one in facts if not math.isnan(one.mean_dice)]
    if not scored:
        return f"{len(made)} folds are trained; none was validated."
    cases = sum(one.validated for one in scored)
    mean = sum(one.mean_dice * one.validated for one in scored) / cases
    folds = ", ".join(f"{one.fold} {one.mean_dice:.3f}" for one in scored)
    return f"Cross-validation: mean Dice {mean:.3f} of {cases} held-out cases ({folds})."
