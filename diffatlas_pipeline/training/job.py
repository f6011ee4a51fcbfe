"""A training from its options to a model folder: check all that was asked, train or go on, write, validate."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from diffatlas_pipeline import console
from diffatlas_pipeline.atlases.bank import kept_atlases, spread_evenly
from diffatlas_pipeline.data.batches import Unlabelled
from diffatlas_pipeline.data.loader import training_batches
from diffatlas_pipeline.datasets.workspace import LOW_RESOLUTION, Workspace
from diffatlas_pipeline.errors import Stopped, UserError
from diffatlas_pipeline.files import alone_in, read_json
from diffatlas_pipeline.methods.base import LearnedMethod, Method
from diffatlas_pipeline.methods.registry import (
    any_contrast_name,
    check_plan,
    create_method,
    drawback_of,
    given_labels_name,
    known_method,
    recipe_of,
    training_digest,
    with_written_recipe,
)
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.networks.execution import resolve_device
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.training.cases import FoldCases, cases_of_fold, check_any_contrast, check_partly_known, whole_cases
from diffatlas_pipeline.training.checkpoints import remove_checkpoints
from diffatlas_pipeline.training.fit import fit
from diffatlas_pipeline.training.initial_weights import InitialWeights, initial_weights, read_initial_fold
from diffatlas_pipeline.training.loop import Run, Trained
from diffatlas_pipeline.training.options import TrainingOptions
from diffatlas_pipeline.training.pseudo_labels import UnlabelledScans, choose_scans, remove_pseudo_labels
from diffatlas_pipeline.training.ranks import Ranks, joined
from diffatlas_pipeline.training.schedule import Duration
from diffatlas_pipeline.training.validation import keep_known_cases, sampled_dice, segment_validation

MUCH_WAITING = 0.2  # of the time of a training
FEW_CASES = 12  # trained on so few, a network has been measured to be better with atlases beside it
UNLIMITED = 10**9  # iterations of a training that a time limit ends
WHOLE = "whole"
_FOR_NETWORKS = {
    "any_contrast": "learn contrasts",
    "given_labels": "complete drawings",
    "low_resolution": "find structures",
}
_NOTHING, _TRAIN = 0, 1  # what the first of several processes says that there is to do


@dataclass(frozen=True)
class TrainingOutcome:
    """The model folder and the fold in it; whether it was there already, and is likely to be better with atlases.

    ``lacks`` is the other of two networks that segment together, if it is planned and not trained yet:
    :data:`LOW_RESOLUTION`, :data:`WHOLE`, or "".
    """

    model: Path
    fold: str
    was_trained: bool = False
    better_with_atlases: bool = False
    lacks: str = ""

    @property
    def whole(self) -> Path:
        """The folder of the model that prediction takes, in which a network of low resolution may lie."""
        return self.model.parent if self.model.name == LOW_RESOLUTION else self.model


@dataclass(frozen=True)
class Job:
    """A training of which everything asked for has been checked, and nothing is written."""

    options: TrainingOptions
    source: Path
    plan: Plan
    method: Method
    cases: FoldCases
    scans: UnlabelledScans
    device: torch.device
    model: ModelFolder
    initial: InitialWeights | None = None

    @property
    def folder(self) -> Path:
        """Where this training writes: the fold's folder in the model's."""
        return self.model.path / self.cases.fold

    @property
    def validates(self) -> bool:
        """Whether its validation cases are segmented when it is trained."""
        return bool(self.cases.validation and self.options.validation)

    @property
    def duration(self) -> Duration:
        planned = self.plan.training.iterations if self.options.max_time_s is None else UNLIMITED
        return Duration(self.options.iterations or planned, self.options.max_time_s)

    def settings(self) -> dict[str, Any]:
        """What the weights depend on: a training goes on only with the same."""
        return {
            "recipe": self.options.recipe,
            "seed": self.options.seed,
            "iterations": self.duration.iterations,
            "max_time_s": self.duration.seconds,
            "training_cases": list(self.cases.training),
            **self.scans.settings(self.source),
            **({"init_from": self.initial.digest} if self.initial else {}),
            "plan": training_digest(self.plan, self.options.method, self.options.recipe),
        }


def run_training(options: TrainingOptions, workspace: Workspace) -> TrainingOutcome:
    """Train a fold, or go on where an interrupted training with these options stopped; then segment its validation
    cases.

    A fold that is trained is left as it is, unless ``overwrite``. UserError for what cannot be trained, before anything
    is written, and while another process trains the fold; Stopped after SIGTERM, which says what is kept.
    """
    job = checked_job(options, workspace)
    name = f".{job.model.path.name}.{job.cases.fold}.lock"
    with joined(job.device) as ranks:
        job = replace(job, device=ranks.device)
        check_shared(job, ranks.count)
        if not ranks.leads:
            return _follow(job, ranks)
        with alone_in(job.model.path.parent, f"a training of {job.cases.fold}", "Wait for it, or stop it first.", name):
            return _trained(job, workspace, ranks)


def check_shared(job: Job, count: int) -> None:
    """UserError if there is not a sample of each batch for each of ``count`` processes."""
    if count > 1 and not isinstance(job.method, LearnedMethod):
        raise UserError(f"`num_gpus` {count}: {job.method.name} learns nothing that could be shared. Leave it out.")
    if count > (size := job.plan.training.batch_size):
        raise UserError(
            f"`num_gpus` {count}: the plan's batches have {size} sample(s), and each process needs one. Give at most "
            f"{size}, or raise training.batch_size in plans.json."
        )


def _follow(job: Job, ranks: Ranks) -> TrainingOutcome:
    """Train with the first rank, which does all else: nothing is written here."""
    if ranks.told() == _TRAIN:
        _fit(job, job.settings(), job.scans.ready(job.folder), ranks)
    return TrainingOutcome(job.model.path, job.cases.fold)


def _trained(job: Job, workspace: Workspace, ranks: Ranks) -> TrainingOutcome:
    options, fold = job.options, job.cases.fold
    model = ModelFolder.create(job.model.path, job.plan, replacing=fold if options.overwrite else None)
    was_trained = fold in model.folds() and not options.overwrite
    if not was_trained:
        if options.overwrite and job.folder.exists():
            shutil.rmtree(job.folder)
        stopped = _train(job, ranks)
        console.say(f"Model written to {job.folder}")
        if stopped:
            left = ", but its validation cases were not segmented: the same command does that" if job.validates else ""
            raise Stopped(f"Stopped. {fold} is trained and written{left}.")
    else:
        ranks.told(_NOTHING)
    _describe(job, workspace)
    few = len(job.cases.training) <= FEW_CASES and isinstance(job.method, LearnedMethod) and not options.low_resolution
    return TrainingOutcome(model.path, fold, was_trained, few and not was_trained, _lacking(job))


def _lacking(job: Job) -> str:
    """See :class:`TrainingOutcome`."""
    if job.options.low_resolution:
        return "" if ModelFolder(job.model.path.parent).is_trained(job.cases.fold) else WHOLE
    planned = isinstance(job.method, LearnedMethod) and (job.source / LOW_RESOLUTION / "plans.json").is_file()
    return LOW_RESOLUTION if planned and not job.model.low_resolution.is_trained(job.cases.fold) else ""


def _describe(job: Job, workspace: Workspace) -> None:
    """What follows a training, as far as it is not there yet: an earlier run may have been killed before or within
    it.
    """
    options, model, cases = job.options, job.model, job.cases
    if not model.has_known_cases(cases.fold):
        keep_known_cases(model, cases.fold, cases, job.source, options.seed, job.device)
    if job.validates and not model.has_calibration(cases.fold):
        segment_validation(model, cases.fold, cases.validation, workspace, options.dataset, options.seed, job.device)


def checked_job(options: TrainingOptions, workspace: Workspace) -> Job:
    """Find everything that ``options`` name. UserError for what is not there or not allowed.

    Nothing is written yet: a model folder without a fold would mislead prediction.
    """
    planned = source = workspace.preprocessed_dataset(options.dataset)
    if options.low_resolution:
        source = _low_resolution_of(planned)
    plan = read_plan(source)
    if not issubclass(known_method(options.method), LearnedMethod):
        for name, use in _FOR_NETWORKS.items():
            if getattr(options, name):
                raise UserError(f"`{name}`: {options.method} has no network that could {use}. Leave it out.")
    if options.any_contrast:
        options = replace(options, recipe=any_contrast_name(options.recipe), any_contrast=False)
    if options.given_labels:
        options = replace(options, recipe=given_labels_name(options.recipe), given_labels=False)
    recipe = recipe_of(plan, options.method, options.recipe)
    plan = with_written_recipe(plan, options.method, options.recipe)
    device = resolve_device(options.device)
    cases = cases_of_fold(options, source)
    if options.iterations is not None and options.iterations < 1:
        raise UserError(f"`iterations` {options.iterations}: must be at least 1.")
    method = create_method(options.method, plan, recipe)
    if method.any_contrast:
        check_any_contrast(source, cases.training, plan)
    check_partly_known(method)
    model = ModelFolder(ModelFolder.location(workspace, planned.name, options.method, options.recipe))
    model = model.low_resolution if options.low_resolution else model
    scans = choose_scans(options, method, model, source, cases)
    initial = None if options.init_from is None else _initial(options.init_from, method, options.seed)
    return Job(options, source, plan, method, cases, scans, device, model, initial)


def _low_resolution_of(planned: Path) -> Path:
    """Where the cases of the second plan are. UserError if there is none."""
    source = planned / LOW_RESOLUTION
    if not (source / "plans.json").is_file():
        raise UserError(
            f"`low_resolution`: {planned.name} has no plan for it, since a patch sees enough of a case. Leave it out."
        )
    return source


def _initial(path: Path, method: Method, seed: int) -> InitialWeights:
    if not isinstance(method, LearnedMethod):
        raise UserError(f"`init_from`: {method.name} has no network that could begin with weights. Leave it out.")
    return initial_weights(method, read_initial_fold(path), seed)


def read_plan(source: Path) -> Plan:
    """The plan of the preprocessed data set ``source``. UserError if it is missing, damaged or cannot be trained."""
    path = source / "plans.json"
    if not path.is_file():
        raise UserError(f"{path} is missing. Run `plan_and_preprocess` first.")
    plan = read_json(Plan, path)
    check_plan(plan, str(path))
    return plan


def _train(job: Job, ranks: Ranks) -> bool:
    """Label what is to be labelled, train, and write the fold; returns whether the process was told to stop."""
    options, training = job.options, list(job.cases.training)
    settings = job.settings()
    resolution = ", low resolution" if options.low_resolution else ""
    console.say(
        f"Training {options.method} ({options.recipe}{resolution}) on {len(training)} cases of {job.model.dataset}, "
        f"{job.cases.fold}, on {job.device}; {len(job.cases.validation)} cases for validation."
    )
    if drawback := drawback_of(job.method.recipe, job.plan):
        console.warn(f"recipe {options.recipe}: {drawback}.")
    unlabelled, labelling_s = job.scans.make_ready(job.source, job.folder, job.method, options, job.device)
    if unlabelled:
        console.say(f"{len(unlabelled.cases)} unlabelled scans are {unlabelled.fraction:.0%} of what it sees.")
    if job.initial:
        console.say(f"Begins with {options.init_from}: {job.initial.said}")
    if not job.cases.validation:
        console.say("No validation case: the log will hold no validation Dice.")
    if ranks.count > 1:
        console.say(f"{ranks.count} processes share each batch of {job.plan.training.batch_size} samples.")
    ranks.told(_TRAIN)
    trained = _fit(job, settings, unlabelled, ranks)
    described = {
        "method": options.method,
        "recipe": options.recipe,
        "fold": job.cases.fold,
        **settings,
        "validation_cases": list(job.cases.validation),
        "iterations": trained.iterations,
        "seconds": round(trained.seconds, 1),
        "teaching_seconds": round(labelling_s, 1),
        "precision": trained.precision,
        "skipped_batches": trained.skipped,
        "waiting_share": round(trained.waiting_share, 4),
    }
    if trained.iterations:
        _say_waiting(trained.waiting_share)
    atlases = kept_atlases(whole_cases(job.source, spread_evenly(training), len(job.plan.dataset.labels)), job.plan.spacing_mm)
    job.model.write_fold(job.cases.fold, trained.weights, described, atlases)
    remove_checkpoints(job.folder)
    remove_pseudo_labels(job.folder)
    return trained.told_to_stop


def _say_waiting(share: float) -> None:
    console.say(f"It waited for data for {share:.1%} of the time.")
    if share > MUCH_WAITING:
        console.warn("that is much: give more `workers`, or put the preprocessed data on a faster disk.")


def _fit(job: Job, settings: dict[str, Any], unlabelled: Unlabelled, ranks: Ranks) -> Trained:
    options, plan, source, training = job.options, job.plan, job.source, list(job.cases.training)
    validate = None
    if options.validation and job.cases.validation:
        validate = sampled_dice(job.method, source, job.cases.validation, options.seed, job.device)
    duration = job.duration
    return fit(
        job.method,
        Run(
            job.folder,
            duration,
            options.seed,
            job.device,
            settings,
            options.precision,
            options.compile,
            quiet=not ranks.leads,
            initial=None if job.initial is None else job.initial.state,
        ),
        lambda first: training_batches(
            source,
            training,
            plan,
            options.seed,
            first,
            duration.iterations,
            options.workers,
            unlabelled,
            job.method.any_contrast,
            ranks.rank,
            ranks.count,
        ),
        lambda: console.each(
            whole_cases(source, training, len(plan.dataset.labels), needed=True), "memorising", len(training), "cases"
        ),
        validate if ranks.leads else None,
        ranks,
    )
