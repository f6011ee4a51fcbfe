"""Which cases a training learns from and which validate it, and what its fold is called."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffatlas_pipeline import console
from diffatlas_pipeline.datasets.splits import Split, load_splits
from diffatlas_pipeline.datasets.workspace import LOW_RESOLUTION
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.methods.base import DiffusionRecipe, Method
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.preprocessing.store import list_stored, open_case
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.training.options import TrainingOptions


@dataclass(frozen=True)
class FoldCases:
    """Names of the cases that train and that validate; ``fold`` names the training in its model folder."""

    fold: str
    training: tuple[str, ...]
    validation: tuple[str, ...]


def known_splits(source: Path, splits_file: Path | None) -> dict[str, Split]:
    """The splits of the preprocessed data set ``source``, or those of one's own ``splits_file``. UserError if
    damaged.
    """
    home = source.parent if source.name == LOW_RESOLUTION else source  # both resolutions learn the same folds
    return load_splits(splits_file or home / "splits.json", list_stored(source))


def cases_of_fold(options: TrainingOptions, source: Path) -> FoldCases:
    """The cases of a fold of the preprocessed data set ``source`` ("0" means "fold0"), or some of them.

    Trainings of one split that differ in what they learn from lie side by side, so the name says it: fold0_8cases,
    fold0_seed1, fold0_taught (with pseudo-labels). UserError lists the splits, or says how many cases there are.
    """
    fold, num_cases, seed = options.fold, options.num_cases, options.seed
    splits = known_splits(source, options.splits_file)
    if fold is None:
        raise UserError(
            f"Which fold? {source.name} has {', '.join(splits)}: `train({options.dataset!r}, {next(iter(splits))!r})`"
        )
    name = f"fold{fold}" if fold.isdigit() else fold
    if name not in splits:
        raise UserError(f"'{fold}': no such fold or split of {source.name}. There are {', '.join(splits)}.")
    training, validation = splits[name].train, splits[name].validation
    if num_cases is not None:
        if not 1 <= num_cases <= len(training):
            raise UserError(f"`num_cases` {num_cases}: {name} has {len(training)} training cases; give 1 to {len(training)}.")
        training = tuple(sorted(random.Random(seed).sample(training, num_cases)))
        name = f"{name}_{num_cases}cases"
    if seed:
        name = f"{name}_seed{seed}"
    if options.teacher:
        name = f"{name}_taught"
    return FoldCases(name, training, validation)


def check_any_contrast(source: Path, cases: Sequence[str], plan: Plan) -> None:
    """UserError if the ``cases`` of a CT data set were stored by a release that cut fat, lung and air down to one
    value: synthetic contrasts need to tell them apart.
    """
    if not any(channel.scheme == "ct" for channel in plan.channels):
        return
    old = [case for case in cases if not open_case(source, case).facts.beyond]
    if old:
        raise UserError(
            f"{source}: {len(old)} of {len(cases)} cases (such as '{old[0]}') were stored by an earlier release, without the "
            "intensities outside the planned window, which synthetic contrasts need. Run `plan_and_preprocess` again, with "
            "`overwrite`."
        )


def check_partly_known(method: Method) -> None:
    """UserError if labels may be unknown, and ``method`` cannot learn from what is known of such a case."""
    recipe = method.recipe
    if method.plan.dataset.ignore is None or not isinstance(recipe, DiffusionRecipe):
        return
    if recipe.objective.prediction == "epsilon":
        raise UserError(
            "`recipe`: a network that predicts noise cannot learn from labels that are known in part, which the ignore label "
            "of dataset.json says. Take one that predicts x0 or v, such as the default."
        )


def whole_cases(source: Path, cases: Sequence[str], labels: int, needed: bool = False) -> Iterator[Atlas]:
    """The preprocessed ``cases``, one after the other: images (C, x, y, z) and signed distances (K, x, y, z) of the
    ``labels``, float32.

    Cases whose labels are known in part only are left out, which is said; UserError if there is no other, and one is
    ``needed``.
    """
    partly = []
    for case in cases:
        stored = open_case(source, case)
        high, low = stored.read_distances(labels)
        if low is high:
            yield Atlas(case, stored.read_image(), high)
        else:
            partly.append(case)
    if needed and partly and len(partly) == len(cases):
        raise UserError(
            f"{source}: each of the {len(cases)} training cases has voxels with the ignore label, so none can be an atlas. "
            "Annotate at least one case completely."
        )
    if partly:
        console.warn(f"{len(partly)} of {len(cases)} cases have voxels with the ignore label; they are no atlases.")
