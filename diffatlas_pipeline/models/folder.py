"""Model folders: what training leaves behind, and all that prediction needs. Nothing else reads or writes their parts.

Layout::

    <results>/DatasetXXX_Name/<method>__<recipe>/
        plans.json  dataset.json  versions.json
        <fold>/checkpoint_final.safetensors   (EMA weights)
        <fold>/checkpoint_final.json          (what it was trained on, how and how long)
        <fold>/atlases.safetensors            (a few training cases, to register scans to)
        <fold>/known_cases.json               (numbers of cases that it should know, to tell foreign scans by)
        <fold>/calibration.json               (what held-out cases tell of its errors)
        <fold>/postprocessing.json            (what is done to its segmentations, chosen on held-out cases)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diffatlas_pipeline.datasets.description import DatasetDescription
from diffatlas_pipeline.datasets.label_entries import labels_entry
from diffatlas_pipeline.datasets.workspace import LOW_RESOLUTION, Workspace
from diffatlas_pipeline.errors import ModelError, UserError
from diffatlas_pipeline.files import read_json, to_json, write_text_atomically
from diffatlas_pipeline.methods.registry import check_plan, training_digest
from diffatlas_pipeline.models.atlas_file import read_atlases, write_atlases
from diffatlas_pipeline.models.postprocessing import Postprocessing, read_postprocessing
from diffatlas_pipeline.models.tensors import checksum, read_tensors, write_tensors
from diffatlas_pipeline.models.versions import versions
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.registration.atlas import Atlas

PLANS, DATASET, VERSIONS = "plans.json", "dataset.json", "versions.json"
WEIGHTS, METADATA = "checkpoint_final.safetensors", "checkpoint_final.json"
KNOWN_CASES, CALIBRATION, POSTPROCESSING = "known_cases.json", "calibration.json", "postprocessing.json"
_FOLD = re.compile(r"fold\d+")


@dataclass(frozen=True)
class TrainedFold:
    """One trained model: the plan it was built from, the method and recipe it was trained with, and its checkpoint.

    ``atlases`` are a few of its training cases on the planned grid. ``known_cases`` and ``calibration`` are the texts
    of the files of that name, None for a model without them, as is ``postprocessing``.
    """

    plan: Plan
    method: str
    recipe: str
    fold: str
    state: dict[str, Tensor]
    metadata: dict[str, Any]
    atlases: tuple[Atlas, ...] = ()
    known_cases: str | None = None
    calibration: str | None = None
    postprocessing: Postprocessing | None = None

    @property
    def weights(self) -> str:
        """Eight hexadecimal digits that tell its weights from those of another training."""
        return checksum(self.state)


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a plan and, once trained, one sub-folder per fold; ``archive`` is the file that it was unpacked
    from.
    """

    path: Path
    archive: Path | None = None

    @property
    def named(self) -> Path:
        """What its user knows it by."""
        return self.archive or self.path

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
        others = set(folder.folds()) - {replacing}
        if others and not folder._is_of(plan):
            raise ModelError(f"{path} holds models trained with another plan. Move it away, then train again.")
        try:
            if not any(PLANS in folder.remembered(fold) for fold in others):  # else theirs, which says the same, stays
                write_text_atomically(path / PLANS, to_json(plan))
            write_text_atomically(path / DATASET, _json(dataset_json(plan.dataset)))
            write_text_atomically(path / VERSIONS, _json(versions()))
        except OSError as error:
            raise ModelError(f"Cannot write the model folder {path} ({error.strerror}). Choose another `workspace`.") from error
        return folder

    @property
    def low_resolution(self) -> ModelFolder:
        """The model in it that finds structures at low resolution; without folds unless that was trained."""
        return ModelFolder(self.path / LOW_RESOLUTION, self.archive)

    @property
    def dataset(self) -> str:
        """Name of the data set's folder, when the model lies in a workspace."""
        return (self.path.parent if self.path.name == LOW_RESOLUTION else self.path).parent.name

    @property
    def method(self) -> str:
        return self._parts()[0]

    @property
    def recipe(self) -> str:
        return self._parts()[1]

    def plan(self) -> Plan:
        """The plan. ModelError if the folder has none, UserError if values in it are not allowed."""
        try:
            plan = read_json(Plan, self.path / PLANS)
        except OSError as error:
            raise ModelError(
                f"{self.path}: {PLANS} cannot be read ({error.strerror}). Give a model folder as `model`."
            ) from error
        check_plan(plan, str(self.path / PLANS))
        return plan

    def folds(self) -> tuple[str, ...]:
        """Names of the trained folds, in order."""
        return tuple(sorted(weights.parent.name for weights in self.path.glob(f"*/{WEIGHTS}")))

    def choose_folds(self, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
        """The folds to use: ``wanted`` ('0' means 'fold0'), else the only one, else all cross-validation folds as an
        ensemble.

        ModelError lists the trained folds if a wanted one is not trained, or if the choice is not clear.
        """
        trained = self.folds()
        listed = ", ".join(trained) or "none"
        if wanted is not None:
            chosen = tuple(dict.fromkeys(f"fold{int(fold)}" if fold.isdigit() else fold for fold in wanted))
            missing = [fold for fold in chosen if fold not in trained]
            if missing:
                raise ModelError(
                    f"{', '.join(missing)}: not trained in {self.path} (trained: {listed}). Choose with `folds`, or train it."
                )
            return chosen
        if not trained:
            raise ModelError(f"{self.path} has no trained fold (no {WEIGHTS}). Finish `train` first.")
        if len(trained) == 1 or all(_FOLD.fullmatch(fold) for fold in trained):
            return trained
        raise ModelError(f"{self.path} has several trained folds ({listed}). Choose one, or several to average, with `folds`.")

    def load(self, fold: str) -> TrainedFold:
        """Plan, method, recipe and weights of one trained fold. ModelError if it is missing or damaged."""
        (name,) = self.choose_folds([fold])
        weights, described = self.path / name / WEIGHTS, self.path / name / METADATA
        try:
            state, _ = read_tensors(weights)
        except ValueError as error:
            raise ModelError(f"{weights}: damaged ({error}). Copy it again, or train again.") from error
        try:
            metadata = self.metadata(name)
            method, recipe = metadata["method"], metadata["recipe"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{described}: missing or damaged ({error}). Copy it again, or train again.") from error
        try:
            atlases = read_atlases(self.path / name)
        except ValueError as error:
            raise ModelError(f"{error}. Delete it to do without its atlases.") from error
        plan = self.plan()
        self._check_untouched(name, metadata)
        kept = [self.path / name / file for file in (KNOWN_CASES, CALIBRATION)]
        known, told = (file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None for file in kept)
        steps = read_postprocessing(self.path / name / POSTPROCESSING, [label.name for label in plan.dataset.labels])
        return TrainedFold(plan, str(method), str(recipe), name, state, metadata, atlases, known, told, steps)

    def write_known_cases(self, fold: str, text: str) -> None:
        """Keep what foreign scans are told by: a file of its own, which is made after the training."""
        write_text_atomically(self.path / fold / KNOWN_CASES, text)

    def write_calibration(self, fold: str, text: str) -> None:
        """Keep what held-out cases tell of its errors: a file of its own, which is made after the training."""
        write_text_atomically(self.path / fold / CALIBRATION, text)

    def write_postprocessing(self, fold: str, chosen: Postprocessing) -> None:
        """Keep what is done to its segmentations: a file of its own, which is made after the training."""
        write_text_atomically(self.path / fold / POSTPROCESSING, to_json(chosen))

    def has_known_cases(self, fold: str) -> bool:
        return (self.path / fold / KNOWN_CASES).is_file()

    def has_calibration(self, fold: str) -> bool:
        return (self.path / fold / CALIBRATION).is_file()

    def is_trained(self, fold: str) -> bool:
        """Whether the training of ``fold`` was finished."""
        return (self.path / fold / WEIGHTS).is_file()

    def remembered(self, fold: str) -> dict[str, Any]:
        """:meth:`metadata`, or {} where that cannot be read."""
        try:
            return self.metadata(fold)
        except (OSError, ValueError):
            return {}

    def metadata(self, fold: str) -> dict[str, Any]:
        """What the trained ``fold`` was made from, how and how long. OSError or ValueError if that cannot be read."""
        return dict(json.loads((self.path / fold / METADATA).read_text(encoding="utf-8")))

    def write_fold(
        self, fold: str, weights: Mapping[str, Tensor], metadata: Mapping[str, Any], atlases: Sequence[Atlas] = ()
    ) -> None:
        """The result of a training: what it was made from with the versions here, its ``atlases``, and last its
        ``weights``.

        A fold with weights is complete.
        """
        folder = self.path / fold
        folder.mkdir(parents=True, exist_ok=True)
        if atlases:
            write_atlases(folder, atlases)
        digest = _digest_of_plans(self.path / PLANS, metadata)
        write_text_atomically(folder / METADATA, _json({**metadata, PLANS: digest, "versions": versions()}))
        temporary = folder / f".{WEIGHTS}.tmp"
        write_tensors(temporary, dict(weights), {})
        temporary.replace(folder / WEIGHTS)

    def _check_untouched(self, fold: str, metadata: Mapping[str, Any]) -> None:
        """ModelError if plans.json is not what ``fold`` was trained with; one of release 1 does not say."""
        if PLANS in metadata and metadata[PLANS] != _digest_of_plans(self.path / PLANS, metadata):
            raise ModelError(
                f"{self.path / PLANS} was changed after {fold} was trained: its weights would segment something else. "
                "Restore the file. To try another plan, edit that of the preprocessed data set and train again; `steps`, "
                "`draws` and the like are options of prediction."
            )

    def _parts(self) -> tuple[str, str]:
        """Method and recipe: from the first trained fold's metadata, else from the folder's name."""
        for fold in self.folds():
            try:
                metadata = self.metadata(fold)
                return str(metadata["method"]), str(metadata["recipe"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # load() says what is wrong with it
        method, _, recipe = self.path.name.partition("__")
        return method, recipe

    def _is_of(self, plan: Plan) -> bool:
        """Whether the trained folds could have been trained with ``plan``; other methods' recipes in it do not
        count.
        """
        try:
            return training_digest(self.plan(), self.method, self.recipe) == training_digest(plan, self.method, self.recipe)
        except UserError:
            return False  # one of them has no such recipe, or cannot be read


def dataset_json(description: DatasetDescription) -> dict[str, Any]:
    """``description`` in the layout of nnU-Net v2's dataset.json."""
    return {
        "name": description.name,
        "channel_names": {str(index): name for index, name in enumerate(description.channels)},
        **labels_entry(description),
        "file_ending": description.file_ending,
    }


def _digest_of_plans(path: Path, metadata: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits of all that segmentations depend on in the file: not reasons, nor other recipes."""
    raw = json.loads(path.read_text(encoding="utf-8-sig"))  # as read_json does
    own = raw.get("recipes", {}).get(metadata["method"], {}).get(metadata["recipe"])
    counted = {**raw, "recipes": own, "why": None}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:16]


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
