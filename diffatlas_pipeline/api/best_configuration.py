"""Which trained model, and which settings of prediction, are best on held-out cases."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffatlas_pipeline import console
from diffatlas_pipeline.api.model import load_model
from diffatlas_pipeline.datasets.description import RawDataset
from diffatlas_pipeline.datasets.raw import listed, read_dataset
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.evaluate import Evaluation, evaluate_folders
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.inference.earlier import digest_of_file
from diffatlas_pipeline.inference.export import RECORD, read_record, write_record
from diffatlas_pipeline.methods.base import DiffusionRecipe, LearnedMethod
from diffatlas_pipeline.methods.registry import known_method, recipe_of
from diffatlas_pipeline.models import atlas_file
from diffatlas_pipeline.models.folder import PLANS, WEIGHTS, ModelFolder

FOLDER, SUMMARY = "configurations", "best_configuration.json"
FOLDS = "folds.json"  # beside the segmentations: SHA-256 of the weights of each fold that has made some
STEPS = (1, 2, 4)


@dataclass(frozen=True)
class Configuration:
    """The ``folds`` of one ``model``, and how they are asked: ``steps`` of sampling and mean of so many ``draws``
    (None: as the recipe says), and ``with_atlases`` averaged.
    """

    model: Path
    folds: tuple[str, ...]
    steps: int | None = None
    draws: int | None = None
    with_atlases: bool = False

    @property
    def name(self) -> str:
        numbers = {"steps": self.steps, "draws": self.draws}
        sampled = [f"{name}{number}" for name, number in numbers.items() if number is not None]
        return "__".join([self.model.name, *sampled, *(["atlases"] if self.with_atlases else [])])


@dataclass(frozen=True)
class Tried:
    """A configuration on held-out cases: ``dice`` by case, means over labels and cases, and seconds a case."""

    configuration: Configuration
    dice: Mapping[str, float]
    mean_dice: float
    mean_nsd: float
    seconds_per_case: float


@dataclass(frozen=True)
class BestConfiguration:
    """All that were ``tried``, best mean Dice first, and the one that is ``chosen``: the fastest of those that cannot
    be told from the best. ``summary`` is the file that tells all of it.
    """

    tried: tuple[Tried, ...]
    chosen: Tried
    cases: int
    summary: Path


def find_best_configuration(
    dataset: str | int | Path,
    *,
    steps: Sequence[int] = STEPS,
    draws: Sequence[int] = (),
    with_atlases: bool = False,
    device: str = "auto",
    workers: int = 1,
    workspace: str | Path | None = None,
) -> BestConfiguration:
    """Try all trained models of ``dataset`` on their validation cases, each with several settings, and choose.

    Every case is segmented by the fold that has not learnt from it, from its raw scan. Methods that sample are asked as
    their recipe says, and with each number of ``steps`` and of ``draws``; ``with_atlases`` also tries the registered
    training cases, which takes long. Models are compared on the cases that all of them have validated. What is there is
    kept, so the same call goes on after an interruption. Raises UserError, if no trained model has validation cases, or
    a case fails.
    """
    if wrong := [one for one in steps if one < 0]:
        raise UserError(f"`steps` {listed(wrong)}: must be 0 or more; 0 means all training steps.")
    if wrong := [one for one in draws if one < 1]:
        raise UserError(f"`draws` {listed(wrong)}: must be 1 or more.")
    search = _Search(Workspace.resolve(workspace), str(dataset), device, workers)
    configurations = [
        one for model in search.models for one in _configurations(model, search.folds[model], steps, draws, with_atlases)
    ]
    tried = [search.tried(one) for one in console.each(configurations, "Trying", len(configurations), "configurations")]
    ordered = tuple(sorted(tried, key=lambda one: -one.mean_dice))
    chosen = chosen_of(ordered)
    return BestConfiguration(ordered, chosen, len(search.cases), search.write(ordered, chosen))


def chosen_of(ordered: Sequence[Tried]) -> Tried:
    """The fastest of those whose mean Dice is no further below the first one's than its standard error: that of the
    differences of the same cases.
    """
    best = ordered[0]

    def cannot_be_told(other: Tried) -> bool:
        differences = np.array([best.dice[case] - other.dice[case] for case in best.dice if case in other.dice])
        if len(differences) < 2:
            return other is best
        return float(differences.mean()) <= float(differences.std(ddof=1)) / math.sqrt(len(differences))

    alike = [one for one in ordered if one is best or cannot_be_told(one)]
    return min(alike, key=lambda one: (one.seconds_per_case, -one.mean_dice))


class _Search:
    """The trained models of a data set, and the cases that all of them can be compared on."""

    def __init__(self, workspace: Workspace, dataset: str, device: str, workers: int) -> None:
        self.raw: RawDataset = read_dataset(workspace.raw_dataset(dataset))
        self.device, self.workers = device, workers
        self.place = workspace.results / self.raw.folder.name
        models = [ModelFolder(plans.parent) for plans in sorted(self.place.glob(f"*__*/{PLANS}"))]
        self.folds = {model: found for model in models if (found := dict(_validated(model)))}
        if not self.folds:
            raise UserError(
                f"{self.place}: no trained fold with validation cases. Train at least one, such as fold0, or all-folds."
            )
        self.models = tuple(self.folds)
        known = {files.case for files in self.raw.training}
        self.cases = sorted(
            set.intersection(known, *({case for one in found.values() for case in one} for found in self.folds.values()))
        )
        if not self.cases:
            names = ", ".join(model.path.name for model in self.models)
            raise UserError(f"{self.place}: {names} have no validation case in common. Train the same folds of each.")

    @cached_property
    def images(self) -> dict[str, tuple[Path, ...]]:
        return {files.case: files.images for files in self.raw.training}

    def tried(self, one: Configuration) -> Tried:
        """Segment the cases as ``one`` says, and score them."""
        output, folds = self.place / FOLDER / one.name, self.folds[self._model(one)]
        for fold in one.folds:
            own = [case for case in folds[fold] if case in self.cases]
            if own:
                self._segment(one, fold, own, output)
        evaluation = evaluate_folders(
            output, self.raw.folder / "labelsTr", self.raw.description.label_set, workers=self.workers, missing="skip"
        )
        return _scored(one, evaluation, output, self.cases)

    def _model(self, one: Configuration) -> ModelFolder:
        return next(model for model in self.models if model.path == one.model)

    def _segment(self, one: Configuration, fold: str, cases: Sequence[str], output: Path) -> None:
        model = load_model(self._model(one), self.device, folds=fold, steps=one.steps, draws=one.draws)
        sources = [path for case in cases for path in self.images[case]]
        known, digest = read_record(output / FOLDS), digest_of_file(one.model / fold / WEIGHTS)
        stale = known.get(fold) not in (None, digest) or (fold not in known and (output / RECORD).is_file())
        prediction = model.prepare_folder(sources, output, with_atlases=one.with_atlases, overwrite=stale)
        failed = prediction.run().of("failed")
        if failed:
            raise UserError("; ".join(f"{one.name}: {outcome.case}: {outcome.message}" for outcome in failed))
        write_record(output / FOLDS, {**known, fold: digest})

    def write(self, ordered: Sequence[Tried], chosen: Tried) -> Path:
        """Write ``best_configuration.json``; returns its path. UserError if that is not possible."""
        path = self.place / FOLDER / SUMMARY
        told = {"cases": self.cases, "chosen": _as_json(chosen), "tried": [_as_json(one) for one in ordered]}
        try:
            write_text_atomically(path, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror or error}). Make room there.") from error
        return path


def _validated(model: ModelFolder) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The trained folds of a cross-validation, with their validation cases."""
    for fold in model.folds():
        try:
            cases = model.metadata(fold).get("validation_cases") or ()
        except (OSError, ValueError):
            continue  # loading it would say what is wrong
        if cases and re.fullmatch(r"fold\d+", fold):
            yield fold, tuple(cases)


def _configurations(
    model: ModelFolder, folds: Mapping[str, Sequence[str]], steps: Sequence[int], draws: Sequence[int], with_atlases: bool
) -> Iterator[Configuration]:
    """As the recipe says, and with other ``steps`` and ``draws``; with atlases where all folds keep some."""
    recipe = recipe_of(model.plan(), model.method, model.recipe)
    sampler = recipe.sampler if isinstance(recipe, DiffusionRecipe) else None
    other_steps = [] if sampler is None else [number for number in dict.fromkeys(steps) if number != sampler.steps]
    other_draws = [] if sampler is None else [number for number in dict.fromkeys(draws) if number != sampler.draws]
    learned = issubclass(known_method(model.method), LearnedMethod)
    keeps = learned and all((model.path / fold / atlas_file.FILE).is_file() for fold in folds)
    for number, drawn in itertools.product((None, *other_steps), (None, *other_draws)):
        for atlases in (False, True) if with_atlases and keeps else (False,):
            yield Configuration(model.path, tuple(folds), number, drawn, atlases)


def _scored(one: Configuration, evaluation: Evaluation, output: Path, cases: Sequence[str]) -> Tried:
    """Of ``cases`` alone: others may be there from a call with other models."""
    rows: pd.DataFrame = evaluation.cases[evaluation.cases["case"].isin(cases)]
    means = rows.groupby("label")[["dice", "nsd"]].mean().mean()  # every label counts the same
    entries = read_record(output / RECORD).get("cases") or {}
    seconds = [sum(entries[case]["seconds"].values()) for case in cases if entries.get(case, {}).get("seconds")]
    dice = rows.groupby("case")["dice"].mean().dropna()
    per_case = sum(seconds) / len(seconds) if seconds else math.nan
    return Tried(
        one, {str(case): float(value) for case, value in dice.items()}, float(means["dice"]), float(means["nsd"]), per_case
    )


def _as_json(one: Tried) -> dict[str, Any]:
    told = asdict(one)
    told["configuration"]["model"] = str(one.configuration.model)
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in told.items()}
