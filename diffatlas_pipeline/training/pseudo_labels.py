"""Scans without labels in a training: only their images are learnt, or another model gives them pseudo-labels first."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffatlas_pipeline import console
from diffatlas_pipeline.atlases.policy import AtlasUse
from diffatlas_pipeline.atlases.registered import registrations_folder
from diffatlas_pipeline.atlases.segmenter import Segmenter
from diffatlas_pipeline.data.batches import Unlabelled
from diffatlas_pipeline.datasets.codes import codes_of
from diffatlas_pipeline.datasets.splits import load_splits
from diffatlas_pipeline.errors import ModelError, UserError
from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.methods.base import LearnedMethod, Method
from diffatlas_pipeline.models.folder import ModelFolder, TrainedFold
from diffatlas_pipeline.preprocessing.distance_maps import decode_labels, encode_labels
from diffatlas_pipeline.preprocessing.store import list_stored, open_case, write_case
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.training.cases import FoldCases, known_splits
from diffatlas_pipeline.training.options import TrainingOptions

PSEUDO_LABELLED_FRACTION = 2 / 3  # share of samples with pseudo-labels, unless the recipe has an unlabelled_fraction
FOLDER = "taught"  # in the folder of the fold, while it trains


@dataclass(frozen=True)
class UnlabelledScans:
    """Stored cases whose labels are not used, their share of the samples, and the model that labels them, if any
    does.
    """

    cases: tuple[str, ...] = ()
    fraction: float = 0.0
    teacher: TrainedFold | None = None

    def settings(self, source: Path) -> dict[str, Any]:
        """What the model depends on: cases, teacher, and the modalities that its training scans do not have."""
        said = {"unlabelled_cases": list(self.cases), "teacher": self.teacher.fold if self.teacher else None}
        if self.teacher is None:
            return said
        modalities = {open_case(source, case).facts.modality for case in self.cases}
        return said | {"learnt_modalities": sorted(modality for modality in modalities if modality)}

    def make_ready(
        self, source: Path, folder: Path, method: Method, options: TrainingOptions, device: torch.device
    ) -> tuple[Unlabelled, float]:
        """What batches are made from, and the seconds that labelling took; labels lie in the fold's ``folder``
        meanwhile.
        """
        if self.teacher is None:
            return self.ready(folder), 0.0
        count = len(self.teacher.atlases)
        console.say(f"{self.teacher.fold} labels {len(self.cases)} scans, with {count} training cases as atlases.")
        start = time.monotonic()
        ready = self.ready(folder)
        assert ready.labelled is not None
        predictor = Predictor([self.teacher], device, method.recipe, options.seed)
        label_scans(predictor, self.teacher.atlases, source, self.cases, ready.labelled, options.registrations)
        return ready, time.monotonic() - start

    def ready(self, folder: Path) -> Unlabelled:
        """What batches are made from, once scans are labelled in the fold's ``folder``."""
        return Unlabelled(self.cases, self.fraction, folder / FOLDER / self.teacher.fold if self.teacher else None)


def remove_pseudo_labels(folder: Path) -> None:
    """Delete the pseudo-labels of a training that is over."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def choose_scans(
    options: TrainingOptions, method: Method, model: ModelFolder, source: Path, cases: FoldCases
) -> UnlabelledScans:
    """The scans without labels that are asked for; none of those that train or validate.

    UserError if there is no use for them or none of them, or if the teacher has seen the validation cases; ModelError
    if it is not trained.
    """
    fraction = method.unlabelled_fraction
    _check_registrations(options)
    if options.teacher:
        if not isinstance(method, LearnedMethod):
            raise UserError(f"`teacher`: {method.name} keeps its training cases as they are. Leave it out.")
        scans = _among_stored(options, source, cases)
        if not scans:
            raise UserError(
                "`teacher`: no scan to be labelled. Put scans into imagesUn of the raw data set and run "
                f"`plan_and_preprocess({options.dataset!r})`, or name a split with `unlabelled_from`."
            )
        return UnlabelledScans(scans, fraction or PSEUDO_LABELLED_FRACTION, _teacher(model, options.teacher, cases.validation))
    named = {"`unlabelled_from`": options.unlabelled_from, "`num_unlabelled`": options.num_unlabelled}
    given = [name for name, value in named.items() if value is not None]
    if given and not fraction:
        raise UserError(
            f"{', '.join(given)}: {method.name} ({options.recipe}) learns nothing of unlabelled scans. Leave it out, give "
            "a `teacher`, or use a recipe of diffatlas whose unlabelled_fraction is above 0."
        )
    return UnlabelledScans(_among_stored(options, source, cases), fraction) if fraction else UnlabelledScans()


def label_scans(
    teacher: Predictor,
    atlases: Sequence[Atlas],
    source: Path,
    cases: Sequence[str],
    folder: Path,
    registrations: Path | None = None,
    quiet: bool = False,
) -> None:
    """Store ``cases`` of the preprocessed data set ``source`` in ``folder``, with the labels that ``teacher`` gives
    them.

    Its ``atlases`` are registered to each scan and fused with its answer. A scan of a modality that the teacher has not
    learnt is shown to it with the contrast of the training scans, but stored as it is: the model to be trained is to
    learn its contrast. Cases that are in ``folder`` already stay as they are, so an interrupted call goes on.
    """
    labels = teacher.plan.dataset.labels
    there = set(list_stored(folder)) if folder.is_dir() else set()
    todo = [case for case in cases if case not in there]
    for case in console.each(todo, "labelling", len(todo), "scans", quiet):
        stored = open_case(source, case)
        image = stored.read_image()
        modality = stored.facts.modality
        adapt = "atlases" if atlases and teacher.is_out_of_domain(modality) else "off"
        segmenter = Segmenter(teacher, atlases, AtlasUse(adapt, bool(atlases)), modality, registrations)
        found = segmenter.segment(segmenter.prepare_stored(image, stored.record))
        values = decode_labels(found.distances.numpy(), codes_of(labels))
        distances = encode_labels(values, labels, stored.record.planned_spacing_mm, teacher.plan.distance.tau_mm)
        maps, beyond = np.concatenate([distances] * (teacher.plan.dataset.distance_maps // len(labels))), stored.facts.beyond
        write_case(
            folder, case, stored.read_stored_image(), maps, stored.record, modality=modality, beyond=beyond, labels=len(labels)
        )


def _check_registrations(options: TrainingOptions) -> None:
    if options.registrations is None:
        return
    if not options.teacher:
        raise UserError("`registrations`: only a `teacher` registers scans. Leave it out, or give one.")
    registrations_folder(options.registrations)


def _teacher(model: ModelFolder, name: str, validation: Sequence[str]) -> TrainedFold:
    """The trained fold ``name``, which must not have trained on cases of ``validation``."""
    try:
        (fold,) = model.choose_folds([name])
    except ModelError as error:
        known = ", ".join(model.folds()) or "none"
        raise ModelError(
            f"`teacher` {name}: not trained in {model.path} (trained: {known}). Name a trained fold, or train it first."
        ) from error
    teacher = model.load(fold)
    seen = sorted(set(validation) & set(teacher.metadata.get("training_cases", ())))
    if seen:
        raise UserError(
            f"`teacher` {name}: it was trained on {len(seen)} case(s) that are to validate this training ({seen[0]}, ...), so "
            "their labels would leak into it. Take a teacher that was trained on the same split."
        )
    return teacher


def _among_stored(options: TrainingOptions, source: Path, used: FoldCases) -> tuple[str, ...]:
    """The stored cases that are asked for, as many as are asked for; none of those ``used``."""
    name, count = options.unlabelled_from, options.num_unlabelled
    stored = list_stored(source)
    if name:
        splits = load_splits(source / "splits.json", stored)
        if options.splits_file:
            splits |= known_splits(source, options.splits_file)
        if name not in splits:
            raise UserError(f"`unlabelled_from` {name}: no such split. There are {', '.join(splits)}.")
        known = {*used.training, *used.validation}
        cases = [case for case in splits[name].train if case not in known]
    else:
        cases = [case for case in stored if open_case(source, case).facts.distances is None]
    if count is None:
        return tuple(cases)
    if not 1 <= count <= len(cases):
        raise UserError(f"`num_unlabelled` {count}: there are {len(cases)} scans to choose from; give 1 to {len(cases)}.")
    return tuple(sorted(random.Random(options.seed).sample(cases, count)))
