"""Scans without labels in a training: their images are learnt, or a teacher labels them first."""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffatlas_pipeline.errors import UserError

if TYPE_CHECKING:
    import argparse

    import torch

    from diffatlas_pipeline.data.loader import Unlabelled
    from diffatlas_pipeline.methods.base import Method
    from diffatlas_pipeline.models.folder import ModelFolder, TrainedFold

TAUGHT_FRACTION = 2 / 3  # share of samples with a teacher's labels, unless the recipe has an unlabelled_fraction
FOLDER = "taught"  # in the folder of the training, while it lasts


@dataclass(frozen=True)
class Scans:
    """Stored cases whose labels are not used, their share of the samples, and who labels them, if anybody does."""

    cases: tuple[str, ...] = ()
    fraction: float = 0.0
    teacher: TrainedFold | None = None

    def settings(self, source: Path) -> dict[str, Any]:
        """What the model depends on: cases, teacher, and the modalities that its training scans do not have."""
        from diffatlas_pipeline.preprocessing.store import open_case

        said = {"unlabelled_cases": list(self.cases), "teacher": self.teacher.fold if self.teacher else None}
        if self.teacher is None:
            return said
        modalities = {open_case(source, case).facts.modality for case in self.cases}
        return said | {"learnt_modalities": sorted(modality for modality in modalities if modality)}

    def make_ready(
        self, source: Path, folder: Path, method: Method, seed: int, device: torch.device, registrations: Path | None = None
    ) -> tuple[Unlabelled, float]:
        """What the batches are made from, and the seconds that the teacher took; its labels lie in ``folder``
        meanwhile.

        What registration finds is kept in the folder ``registrations``, and used again.
        """
        from diffatlas_pipeline.data.loader import Unlabelled
        from diffatlas_pipeline.inference.predictor import Predictor
        from diffatlas_pipeline.training.pseudo_labels import teach

        if self.teacher is None:
            return Unlabelled(self.cases, self.fraction), 0.0
        count = len(self.teacher.atlases)
        print(f"{self.teacher.fold} labels {len(self.cases)} scans, with {count} training cases as atlases.")
        start = time.monotonic()
        place = folder / FOLDER / self.teacher.fold
        teacher = Predictor([self.teacher], device, method.recipe, seed)
        teach(teacher, self.teacher.atlases, source, self.cases, place, registrations)
        return Unlabelled(self.cases, self.fraction, place), time.monotonic() - start


def remove_labels(folder: Path) -> None:
    """Delete what a teacher has written for a training that is over."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def chosen_scans(
    arguments: argparse.Namespace, method: Method, model: ModelFolder, source: Path, training: list[str], validation: list[str]
) -> Scans:
    """The scans that the command asks for; none of those that train or validate.

    UserError if there is no use for them or none of them, or the teacher would leak labels; ModelError if it is not
    trained.
    """
    fraction = method.unlabelled_fraction
    known = {*training, *validation}
    if arguments.registrations is not None and not arguments.teacher:
        raise UserError("--registrations: only a --teacher registers scans. Leave it out, or give one.")
    if arguments.teacher:
        cases = _to_be_taught(arguments, method, source, known)
        return Scans(cases, fraction or TAUGHT_FRACTION, _teacher(model, arguments.teacher, validation))
    flags = {"--unlabelled-from": arguments.unlabelled_from, "--num-unlabelled": arguments.num_unlabelled}
    given = [flag for flag, value in flags.items() if value is not None]
    if given and not fraction:
        raise UserError(
            f"{', '.join(given)}: {arguments.method} ({arguments.recipe}) learns nothing of unlabelled scans. Leave it "
            "out, give a --teacher, or use a recipe of diffatlas whose unlabelled_fraction is above 0."
        )
    return Scans(_among_stored(arguments, source, known), fraction) if fraction else Scans()


def _to_be_taught(arguments: argparse.Namespace, method: Method, source: Path, known: set[str]) -> tuple[str, ...]:
    from diffatlas_pipeline.methods.base import LearnedMethod

    if not isinstance(method, LearnedMethod):
        raise UserError(f"--teacher: {method.name} keeps its training cases as they are. Leave it out.")
    cases = _among_stored(arguments, source, known)
    if not cases:
        raise UserError(
            f"--teacher: no scan to be labelled. Put scans into imagesUn of the raw data set and run "
            f"DiffAtlas_plan_and_preprocess -d {arguments.dataset}, or name a split with --unlabelled-from."
        )
    return cases


def _teacher(model: ModelFolder, name: str, validation: list[str]) -> TrainedFold:
    """The trained fold ``name``."""
    teacher = model.load(name)
    seen = sorted(set(validation) & set(teacher.metadata.get("training_cases", ())))
    if seen:
        raise UserError(
            f"--teacher {name}: it was trained on {len(seen)} case(s) that are to validate this training ({seen[0]}, ...), so "
            "their labels would leak into it. Take a teacher that was trained on the same split."
        )
    return teacher


def _among_stored(arguments: argparse.Namespace, source: Path, known: set[str]) -> tuple[str, ...]:
    """Training cases of the split --unlabelled-from, else the stored cases without labels; --num-unlabelled of them."""
    from diffatlas_pipeline.datasets.splits import load_splits
    from diffatlas_pipeline.preprocessing.store import list_stored, open_case

    stored = list_stored(source)
    name = arguments.unlabelled_from
    if name:
        splits = load_splits(source / "splits.json", stored)
        if arguments.splits_file:
            splits |= load_splits(Path(arguments.splits_file), stored)
        if name not in splits:
            raise UserError(f"--unlabelled-from {name}: no such split. There are {', '.join(splits)}.")
        cases = [case for case in splits[name].train if case not in known]
    else:
        cases = [case for case in stored if open_case(source, case).facts.distances is None]
    count = arguments.num_unlabelled
    if count is None:
        return tuple(cases)
    if not 1 <= count <= len(cases):
        raise UserError(f"--num-unlabelled {count}: there are {len(cases)} scans to choose from; give 1 to {len(cases)}.")
    return tuple(sorted(random.Random(arguments.seed).sample(cases, count)))
