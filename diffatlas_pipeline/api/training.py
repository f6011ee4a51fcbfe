"""Train one fold of a planned data set."""

from __future__ import annotations

from pathlib import Path

from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.processes import check_main_guard
from diffatlas_pipeline.training.cross_validation import run_trainings
from diffatlas_pipeline.training.options import TrainingOptions
from diffatlas_pipeline.training.schedule import seconds_of


def train(
    dataset: str | int | Path,
    fold: str | int,
    *,
    method: str = "diffatlas",
    recipe: str = "default",
    any_contrast: bool = False,
    given_labels: bool = False,
    low_resolution: bool = False,
    max_time: float | str | None = None,
    iterations: int | None = None,
    num_cases: int | None = None,
    splits_file: str | Path | None = None,
    unlabelled_from: str | None = None,
    num_unlabelled: int | None = None,
    teacher: str | int | None = None,
    registrations: str | Path | None = None,
    init_from: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int = 1,
    precision: str = "auto",
    compile: bool = False,
    validation: bool = True,
    overwrite: bool = False,
    workspace: str | Path | None = None,
) -> Path:
    """Train one fold of a planned data set, or go on with one that was interrupted; returns the model folder.

    ``fold``: "fold0" ... "fold4" (or 0 ... 4), "all-folds" for each of them, "all" for one model of all cases, or a
    split of splits.json or of one's own ``splits_file``.
    ``method``: "diffatlas", "icf" (feed-forward), "icmd" (mask diffusion), "rba" (registered atlases) or "mean".
    ``recipe``: "default", "paper" (as published), or another in plans.json; ``any_contrast``: with synthetic contrasts,
    for scans of other modalities; ``given_labels``: also to complete what a reader has drawn. ``low_resolution``: the
    network that finds the structures in large scans, for which there is a second plan. ``max_time`` (seconds, or "90s",
    "30m", "2h") and ``iterations`` replace the plan's. ``num_cases``: use so many training cases, drawn with
    ``seed``. Scans without labels: those of imagesUn, or the training cases of the split ``unlabelled_from``,
    ``num_unlabelled`` of them; the trained fold ``teacher`` labels them, with registrations kept in the folder
    ``registrations``. ``init_from``: a trained model to begin with (its folder, zip file, or one fold's folder).
    ``validation``: score validation cases. ``precision``: "float32", "bfloat16", or "auto": the faster.
    ``overwrite``: start again, deleting what is there. A script calls it under ``if __name__ == "__main__":``: it
    starts processes. UserError for what cannot be trained.
    """
    check_main_guard()
    options = TrainingOptions(
        dataset=str(dataset),
        fold=str(fold),
        method=method,
        recipe=recipe,
        any_contrast=any_contrast,
        given_labels=given_labels,
        low_resolution=low_resolution,
        max_time_s=None if max_time is None else seconds_of(str(max_time)),
        iterations=iterations,
        num_cases=num_cases,
        splits_file=None if splits_file is None else Path(splits_file).expanduser(),
        unlabelled_from=unlabelled_from,
        num_unlabelled=num_unlabelled,
        teacher=None if teacher is None else str(teacher),
        registrations=None if registrations is None else Path(registrations).expanduser(),
        init_from=None if init_from is None else Path(init_from),
        seed=seed,
        device=device,
        workers=workers,
        precision=precision,
        compile=compile,
        validation=validation,
        overwrite=overwrite,
    )
    return run_trainings(options, Workspace.resolve(workspace))[0].model
