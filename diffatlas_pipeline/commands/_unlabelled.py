"""Scans without labels in a training: their images are learnt, or a teacher labels them first."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from diffatlas_pipeline.errors import UserError

if TYPE_CHECKING:
    import argparse

    import torch

    from diffatlas_pipeline.data.loader import Unlabelled
    from diffatlas_pipeline.inference.model_folder import ModelFolder, TrainedFold
    from diffatlas_pipeline.methods.base import Method

TAUGHT_FRACTION = 2 / 3  # share of samples with a teacher's labels, unless the recipe has an unlabelled_fraction
FOLDER = "taught"  # in the folder of the training, while it lasts


def images_to_learn(arguments: argparse.Namespace, method: Method, source: Path, known: list[str]) -> Unlabelled:
    """Scans of which only the image is learnt, as the recipe says; none of ``known``, the training and validation cases.

    UserError if scans are named for a recipe that learns nothing of them.
    """
    from diffatlas_pipeline.data.loader import Unlabelled

    fraction = method.recipe.unlabelled_fraction
    flags = {"--unlabelled-from": arguments.unlabelled_from, "--num-unlabelled": arguments.num_unlabelled}
    given = [flag for flag, value in flags.items() if value is not None]
    if (given or fraction) and not (fraction and getattr(method, "learns_images", False)):
        asked = ", ".join(given) or f"unlabelled_fraction {fraction:g} in plans.json"
        raise UserError(
            f"{asked}: {arguments.method} ({method.recipe.name}) learns nothing of unlabelled scans. Leave it out, give a "
            "--teacher, or use a recipe of diffatlas whose unlabelled_fraction is above 0."
        )
    return Unlabelled(_chosen(arguments, source, known), fraction) if fraction else Unlabelled()


def scans_to_be_taught(arguments: argparse.Namespace, method: Method, source: Path, known: list[str]) -> tuple[str, ...]:
    """Scans that a teacher labels for this training; none of ``known``. UserError if there is none, or no use for them."""
    from diffatlas_pipeline.methods.base import LearnedMethod

    if not isinstance(method, LearnedMethod):
        raise UserError(f"--teacher: {method.name} keeps its training cases as they are. Leave it out.")
    cases = _chosen(arguments, source, known)
    if not cases:
        raise UserError(
            f"--teacher: no scan to be labelled. Put scans into imagesUn of the raw data set and run "
            f"DiffAtlas_plan_and_preprocess -d {arguments.dataset}, or name a split with --unlabelled-from."
        )
    return cases


def load_teacher(model: ModelFolder, name: str, validation: list[str]) -> TrainedFold:
    """The trained fold ``name``. UserError if it has learnt cases that are to validate, ModelError if it is not trained."""
    teacher = model.load(name)
    seen = sorted(set(validation) & set(teacher.metadata.get("training_cases", ())))
    if seen:
        raise UserError(
            f"--teacher {name}: it was trained on {len(seen)} case(s) that are to validate this training ({seen[0]}, ...), so "
            "their labels would leak into it. Take a teacher that was trained on the same split."
        )
    return teacher


def taught(
    arguments: argparse.Namespace,
    method: Method,
    teacher: TrainedFold,
    cases: tuple[str, ...],
    source: Path,
    folder: Path,
    device: torch.device,
) -> Unlabelled:
    """``cases`` of the preprocessed data set ``source``, stored in ``folder`` with the labels that ``teacher`` gives them."""
    from diffatlas_pipeline.data.loader import Unlabelled
    from diffatlas_pipeline.inference.predictor import Predictor
    from diffatlas_pipeline.inference.teaching import teach

    print(f"{teacher.fold} labels {len(cases)} scans, with {len(teacher.references)} training cases as atlases.")
    teach(Predictor([teacher], device, method.recipe, arguments.seed), source, cases, folder)
    return Unlabelled(cases, method.recipe.unlabelled_fraction or TAUGHT_FRACTION, folder)


def modalities_of(source: Path, cases: tuple[str, ...]) -> list[str]:
    """What the stored ``cases`` were said to be, of other modalities than the training scans."""
    from diffatlas_pipeline.preprocessing.store import open_case

    return sorted({modality for case in cases if (modality := open_case(source, case).facts.modality)})


def _chosen(arguments: argparse.Namespace, source: Path, known: list[str]) -> tuple[str, ...]:
    """Training cases of the split --unlabelled-from, else the stored cases without labels; --num-unlabelled of them."""
    from diffatlas_pipeline.planning.splits import load_splits
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
