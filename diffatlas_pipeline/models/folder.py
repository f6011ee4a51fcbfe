"""Model folders: what training leaves behind, and all that prediction needs.

Layout::

    <results>/DatasetXXX_Name/<method>__<recipe>/
        plans.json  dataset.json  versions.json
        <fold>/checkpoint_final.safetensors   (EMA weights)
        <fold>/checkpoint_final.json          (what it was trained on, how and how long)
        <fold>/references.safetensors         (a few training cases, to register scans to)
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

from diffatlas_pipeline.atlases.bank import FILE as REFERENCES
from diffatlas_pipeline.atlases.bank import read_references
from diffatlas_pipeline.datasets.description import DatasetDescription
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import ModelError, UserError
from diffatlas_pipeline.files import from_json, to_json, write_text_atomically
from diffatlas_pipeline.models.tensors import read_tensors
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.registration.atlas import Atlas

PLANS, DATASET, VERSIONS = "plans.json", "dataset.json", "versions.json"
WEIGHTS, METADATA = "checkpoint_final.safetensors", "checkpoint_final.json"
_FOLD = re.compile(r"fold\d+")
_RECORDED = ("diffatlas-pipeline", "torch", "numpy", "scipy", "nibabel", "SimpleITK")


@dataclass(frozen=True)
class TrainedFold:
    """One trained model: the plan it was built from, the method and recipe it was trained with, and its checkpoint.

    ``references`` are a few of its training cases on the planned grid.
    """

    plan: Plan
    method: str
    recipe: str
    fold: str
    state: dict[str, Tensor]
    metadata: dict[str, Any]
    references: tuple[Atlas, ...] = ()


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a plan and, once trained, one sub-folder per fold."""

    path: Path

    @staticmethod
    def location(workspace: Workspace, dataset: str, method: str, recipe: str) -> Path:
        """Where the model of ``dataset`` (its folder name, DatasetXXX_Name) belongs."""
        return workspace.results / dataset / f"{method}__{recipe}"

    @staticmethod
    def create(path: Path, plan: Plan, replacing: str | None = None) -> ModelFolder:
        """Write plans.json, dataset.json (nnU-Net v2 layout) and versions.json into ``path``.

        ModelError if ``path`` already holds trained folds of another plan; the fold ``replacing`` may be of another.
        """
        folder = ModelFolder(path)
        if set(folder.folds()) - {replacing} and not folder._is_of(plan):
            raise ModelError(f"{path} holds models trained with another plan. Move it away, then train again.")
        try:
            write_text_atomically(path / PLANS, to_json(plan))
            write_text_atomically(path / DATASET, _json(dataset_json(plan.dataset)))
            write_text_atomically(path / VERSIONS, _json(versions()))
        except OSError as error:
            raise ModelError(f"Cannot write the model folder {path} ({error.strerror}). Choose another --workspace.") from error
        return folder

    @staticmethod
    def find(
        workspace: Workspace,
        dataset: str | None = None,
        method: str | None = None,
        recipe: str | None = None,
        path: Path | str | None = None,
    ) -> ModelFolder:
        """The one trained model that fits; with a single model in the workspace nothing need be named.

        ``dataset`` is an id or a folder name, ``path`` a model folder anywhere. ModelError lists the candidates and the flags
        that choose between them, or says what to train.
        """
        if path is not None:
            return _explicit(Path(path).expanduser().resolve())
        known = [ModelFolder(plans.parent) for plans in sorted(workspace.results.glob(f"Dataset*_*/*__*/{PLANS}"))]
        fitting = [model for model in known if model._fits(dataset, method, recipe)]
        trained = [model for model in fitting if model.folds()]
        if len(trained) == 1:
            return trained[0]
        wanted = " ".join(f"{flag} {value}" for flag, value in _flags(dataset, method, recipe) if value)
        if trained:
            lines = "\n".join(f"  {model._how_to_choose()}" for model in trained)
            raise ModelError(f"Several trained models fit{' ' + wanted if wanted else ''}. Choose one:\n{lines}")
        if fitting:
            raise ModelError(f"{fitting[0].path} has no trained fold yet (no {WEIGHTS}). Finish DiffAtlas_train first.")
        others = "\n".join(f"  {model._how_to_choose()}" for model in known if model.folds())
        rest = f"choose one of these:\n{others}" if others else "give a model folder with -m."
        found = f"Train one with DiffAtlas_train, or {rest}"
        raise ModelError(f"No trained model{' for ' + wanted if wanted else ''} in {workspace.results}. {found}")

    @property
    def dataset(self) -> str:
        """Name of the data set's folder, when the model lies in a workspace."""
        return self.path.parent.name

    @property
    def method(self) -> str:
        return self._parts()[0]

    @property
    def recipe(self) -> str:
        return self._parts()[1]

    def plan(self) -> Plan:
        """The plan. ModelError if the folder has none."""
        try:
            text = (self.path / PLANS).read_text(encoding="utf-8")
        except OSError as error:
            raise ModelError(f"{self.path}: {PLANS} cannot be read ({error.strerror}). Give a model folder with -m.") from error
        return from_json(Plan, text, str(self.path / PLANS))

    def folds(self) -> tuple[str, ...]:
        """Names of the trained folds, in order."""
        return tuple(sorted(weights.parent.name for weights in self.path.glob(f"*/{WEIGHTS}")))

    def choose_folds(self, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
        """The folds to use: ``wanted`` ('0' means 'fold0'), else the only one, else all cross-validation folds as an ensemble.

        ModelError lists the trained folds if a wanted one is not trained, or if the choice is not clear.
        """
        trained = self.folds()
        listed = ", ".join(trained) or "none"
        if wanted:
            chosen = tuple(dict.fromkeys(f"fold{int(fold)}" if fold.isdigit() else fold for fold in wanted))
            missing = [fold for fold in chosen if fold not in trained]
            if missing:
                raise ModelError(
                    f"{', '.join(missing)}: not trained in {self.path} (trained: {listed}). Choose with -f, or train it."
                )
            return chosen
        if not trained:
            raise ModelError(f"{self.path} has no trained fold (no {WEIGHTS}). Finish DiffAtlas_train first.")
        if len(trained) == 1 or all(_FOLD.fullmatch(fold) for fold in trained):
            return trained
        raise ModelError(f"{self.path} has several trained folds ({listed}). Choose one, or several to average, with -f.")

    def load(self, fold: str) -> TrainedFold:
        """Plan, method, recipe and weights of one trained fold. ModelError if it is missing or damaged."""
        (name,) = self.choose_folds([fold])
        weights, described = self.path / name / WEIGHTS, self.path / name / METADATA
        try:
            state, _ = read_tensors(weights)
        except ValueError as error:
            raise ModelError(f"{weights}: damaged ({error}). Copy it again, or train again.") from error
        try:
            metadata = json.loads(described.read_text(encoding="utf-8"))
            method, recipe = metadata["method"], metadata["recipe"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{described}: missing or damaged ({error}). Copy it again, or train again.") from error
        try:
            references = read_references(self.path / name)
        except ValueError as error:
            raise ModelError(
                f"{self.path / name / REFERENCES}: damaged ({error}). Delete it to do without its training scans."
            ) from error
        return TrainedFold(self.plan(), str(method), str(recipe), name, state, metadata, references)

    def _parts(self) -> tuple[str, str]:
        """Method and recipe: from the first trained fold's metadata, else from the folder's name."""
        for fold in self.folds():
            try:
                metadata = json.loads((self.path / fold / METADATA).read_text(encoding="utf-8"))
                return str(metadata["method"]), str(metadata["recipe"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # load() says what is wrong with it
        method, _, recipe = self.path.name.partition("__")
        return method, recipe

    def _is_of(self, plan: Plan) -> bool:
        """Whether the trained folds could have been trained with ``plan``; other methods' recipes in it do not count."""
        try:
            return self.plan().digest(self.method, self.recipe) == plan.digest(self.method, self.recipe)
        except UserError:
            return False  # one of them has no such recipe, or cannot be read

    def _fits(self, dataset: str | None, method: str | None, recipe: str | None) -> bool:
        same_dataset = dataset is None or _same_dataset(self.dataset, dataset)
        return same_dataset and method in (None, self.method) and recipe in (None, self.recipe)

    def _how_to_choose(self) -> str:
        return f"-d {self.dataset} --method {self.method} --recipe {self.recipe}   (folds: {', '.join(self.folds())})"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in _RECORDED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def dataset_json(description: DatasetDescription) -> dict[str, Any]:
    """``description`` in the layout of nnU-Net v2's dataset.json."""
    return {
        "name": description.name,
        "channel_names": {str(index): name for index, name in enumerate(description.channels)},
        "labels": {"background": 0, **{label.name: label.value for label in description.labels}},
        "file_ending": description.file_ending,
    }


def _explicit(path: Path) -> ModelFolder:
    if (path / PLANS).is_file():
        return ModelFolder(path)
    if (path.parent / PLANS).is_file():
        raise ModelError(f"{path} is one fold of a model. Give its parent instead: -m {path.parent} -f {path.name}")
    raise ModelError(
        f"{path} is not a model folder (it has no {PLANS}). Give a folder like .../DatasetXXX_Name/diffatlas__default."
    )


def _same_dataset(folder: str, wanted: str) -> bool:
    number = re.match(r"Dataset(\d+)_", folder)
    by_number = wanted.isdigit() and number is not None and int(wanted) == int(number.group(1))
    return by_number or Path(wanted).name == folder


def _flags(dataset: str | None, method: str | None, recipe: str | None) -> list[tuple[str, str | None]]:
    return [("-d", dataset), ("--method", method), ("--recipe", recipe)]


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
