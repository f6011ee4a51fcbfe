"""A benchmark, from what is asked for to its table: check, plan, run what is not done. What is done is kept."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffatlas_pipeline import cluster
from diffatlas_pipeline.benchmark import paper_table
from diffatlas_pipeline.benchmark.cells import Conditions, plan_cells, safe
from diffatlas_pipeline.benchmark.choices import MEAN_ATLAS, MethodChoice
from diffatlas_pipeline.benchmark.on_cluster import OnCluster
from diffatlas_pipeline.benchmark.record import FAILED, Benchmark, Cell
from diffatlas_pipeline.benchmark.run import Runner
from diffatlas_pipeline.benchmark.schedule import Schedule
from diffatlas_pipeline.benchmark.settings import PreparedSetting, check_settings, known_splits, prepare_settings
from diffatlas_pipeline.benchmark.status import Status
from diffatlas_pipeline.children import Children
from diffatlas_pipeline.console import say
from diffatlas_pipeline.datasets.description import RawDataset
from diffatlas_pipeline.datasets.links import link_cases
from diffatlas_pipeline.datasets.raw import read_dataset
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.fields import at_least, problems_of
from diffatlas_pipeline.files import alone_in, read_json
from diffatlas_pipeline.machine import default_workers, usable_cores
from diffatlas_pipeline.methods.registry import METHODS as KNOWN
from diffatlas_pipeline.methods.registry import check_plan, recipe_of, training_digest, usable_recipes
from diffatlas_pipeline.networks.execution import resolve_device
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.preprocessing.store import list_stored

METHODS = ("diffatlas", "icf", "icmd", "rba")


@dataclass(frozen=True)
class Comparison:
    """What is asked for.

    ``max_time_s``: seconds for each training, None as long as the plan says. ``output`` None: the folder
    DATASET_``name`` in the workspace's benchmarks/, where ``name`` "" is the time. ``test_cases``: the first so many,
    None for all. ``overwrite``: replace models that were trained with other options.
    """

    dataset: str
    methods: Sequence[str] = METHODS
    settings: Sequence[str] = ("full",)
    seeds: Sequence[int] = field(default=(0,), metadata=at_least(0))
    max_time_s: float | None = None
    output: Path | None = None
    name: str = ""
    splits_file: Path | None = None
    test_cases: int | None = field(default=None, metadata=at_least(1))
    tolerance_mm: float = field(default=1.0, metadata=at_least(0))
    mean_atlas: bool = True
    device: str = "auto"
    jobs: int = field(default=1, metadata=at_least(1))
    overwrite: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of it: the averages as a table to read, the files with all numbers, the cells that failed."""

    folder: Path
    table: str
    files: tuple[Path, ...]
    count: int
    failed: tuple[Cell, ...]


def run_benchmark(asked: Comparison, workspace: Workspace) -> Outcome:
    """Train, predict and evaluate every method in every setting with every seed, and write the table.

    In :func:`~diffatlas_pipeline.cluster.on` the workers of a cluster do it, as many ``jobs`` at a time as they can.
    UserError for anything that can be seen to be wrong before it starts. A cell that fails does not end the others.
    """
    _check(asked)
    device = resolve_device(asked.device).type

    def find(name: str) -> RawDataset:
        return read_dataset(workspace.raw_dataset(name))

    dataset, methods = find(asked.dataset), _methods(asked)
    settings = check_settings(asked.settings, dataset, find)
    name = asked.name or ("planned" if asked.max_time_s is None else f"{asked.max_time_s:g}s")
    folder = asked.output or workspace.results.parent / "benchmarks" / f"{dataset.folder.name}_{name}"
    folder = folder.expanduser().resolve()
    scheduler, jobs = cluster.scheduler(), asked.jobs
    environment = _environment(workspace, folder, jobs)
    here = Children(environment)
    children: Children | OnCluster = here
    _plan_if_needed(dataset, workspace, device, here, scheduler)
    if scheduler is not None:
        children, jobs = OnCluster(scheduler, environment, device == "cuda"), cluster.slots()
    source = workspace.preprocessed / dataset.folder.name
    plan = _plan(source / "plans.json", methods)
    splits = known_splits(source / "splits.json", asked.splits_file, [files.case for files in dataset.training])
    seeds = list(dict.fromkeys(asked.seeds))
    prepared = prepare_settings(settings, dataset, splits, seeds, asked.test_cases)
    digests = _digests(plan, methods)
    conditions = Conditions(dataset.folder.name, asked.max_time_s, asked.tolerance_mm, plan.digest(), device, digests)
    cells = plan_cells(methods, prepared, seeds, conditions)
    with alone_in(folder, "a benchmark", "Wait for it, or give another folder as `output`."):
        status = Status(folder)
        _clear_conflicts(status, dataset.folder.name, cells, asked.overwrite)
        left_out = status.begin(_described(dataset, methods, prepared, conditions, seeds), cells, conditions)
        if left_out:
            say(f"{left_out} finished cell(s) of an earlier run with other options leave the table.")
        schedule = Schedule(cells, [cell for cell in cells if not status.is_done(cell)], status, jobs)
        schedule.announce(prepared)
        if schedule.todo:
            named = {setting.text: setting for setting in prepared}
            test_sets = {one.test.dataset: folder / "test_sets" / safe(one.test.dataset) for one in prepared}
            for one in prepared:
                link_cases(one.test.cases, one.test.description, test_sets[one.test.dataset])
            workers = 1 if jobs > 1 else default_workers()
            labels_json = dataset.folder / "dataset.json"
            schedule.run(Runner(status, children.do, named, test_sets, asked.device, labels_json, workers), children)
        return _outcome(status, cells)


def _check(asked: Comparison) -> None:
    for problem in problems_of(asked):
        name, _, wrong = problem.partition(" ")
        raise UserError(f"`{name}` {wrong}.")
    if asked.splits_file is not None and not asked.splits_file.is_file():
        raise UserError(f"`splits_file` {asked.splits_file}: no such file. Check its name.")


def _methods(asked: Comparison) -> list[MethodChoice]:
    """The methods asked for, and the mean atlas. UserError for an unknown one."""
    texts = [*asked.methods, *([MEAN_ATLAS] if asked.mean_atlas else [])]
    methods = list(dict.fromkeys(MethodChoice.parse(text) for text in texts))
    for method in methods:
        if not method.learned and method.with_atlases:
            raise UserError(f"`methods` {method.text}: {method.name} has no network to average with atlases. Leave it out.")
    return methods


def _environment(workspace: Workspace, folder: Path, jobs: int) -> dict[str, str]:
    """The user's data, but models of the benchmark's own; jobs at the same time share the cores."""
    environment = {name: value for name, value in os.environ.items() if name != "DIFFATLAS_WORKSPACE"}
    environment |= {"DiffAtlas_raw": str(workspace.raw), "DiffAtlas_preprocessed": str(workspace.preprocessed)}
    environment["DiffAtlas_results"] = str(folder / "models")
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // jobs)))
    return environment


def _plan_if_needed(dataset: RawDataset, workspace: Workspace, device: str, children: Children, scheduler: str | None) -> None:
    """Plan and preprocess unless all training cases are preprocessed. UserError if that fails."""
    source = workspace.preprocessed / dataset.folder.name
    stored = set(list_stored(source)) if (source / "plans.json").is_file() else set()
    if stored >= {files.case for files in dataset.training} and (source / "splits.json").is_file():
        return
    words = ["-d", str(dataset.folder), "--device", device, *(["--scheduler", scheduler] if scheduler else [])]
    say(f"{dataset.folder.name} is not planned yet:\n$ {shlex.join(['DiffAtlas_plan_and_preprocess', *words])}")
    if children.do("plan_and_preprocess", words, None):
        raise UserError(f"{dataset.folder.name} could not be planned; the message above says why.")
    say("")


def _plan(path: Path, methods: Sequence[MethodChoice]) -> Plan:
    """The plan of the data set. UserError if it is not usable or has not the recipe of one of ``methods``."""
    plan = read_json(Plan, path)
    check_plan(plan, str(path))
    for method in methods:
        recipe_of(plan, method.name, method.trained)
    return plan


def _digests(plan: Plan, methods: Sequence[MethodChoice]) -> dict[str, str]:
    """What a training depends on in the plan, for ``methods`` and all that earlier runs may have had, by text."""
    planned = [MethodChoice(method, name) for method in plan.recipes for name in usable_recipes(plan, method)]
    known = [*methods, *planned, *map(MethodChoice, KNOWN)]
    return {MethodChoice(one.name, one.trained).text: training_digest(plan, one.name, one.trained) for one in known}


def _clear_conflicts(status: Status, dataset: str, cells: Sequence[Cell], overwrite: bool) -> None:
    """Remove models trained with other options, if that is allowed, else UserError; also for another data set."""
    if status.benchmark and status.benchmark.dataset != dataset:
        raise UserError(f"{status.folder} holds a benchmark of {status.benchmark.dataset}. Give another folder as `output`.")
    others = {cell.model: cell for cell in cells if status.model_matches(cell) is False}
    if overwrite:
        status.remove_models(list(others.values()))
    elif others:
        model, cell = next(iter(others.items()))
        known, asked = status.models.get(model), cell.options.training
        different = ", ".join(name for name in vars(asked) if getattr(known, name, None) != getattr(asked, name))
        raise UserError(
            f"{status.folder}: {len(others)} model(s) there were trained with other options (for example {model}, other "
            f"{different}). Give another folder as `output`, or `overwrite` to train them again."
        )


def _described(
    dataset: RawDataset,
    methods: Sequence[MethodChoice],
    prepared: Sequence[PreparedSetting],
    conditions: Conditions,
    seeds: Sequence[int],
) -> Benchmark:
    """The record of what is asked for, without cells."""
    notes = [note for setting in prepared for note in setting.notes]
    once = list(dict.fromkeys(method.name for method in methods if not method.learned))
    if once and len(seeds) > 1:
        notes.append(
            f"{', '.join(once)}: nothing is trained by gradient; run once for each different set of training cases, so a row "
            "can have fewer seeds."
        )
    if MEAN_ATLAS in once:
        notes.append(
            f"{MEAN_ATLAS}: the mean distance map of the training cases, without a look at the image. A method shows skill "
            "only as far as it is above this row."
        )
    return Benchmark(
        dataset=dataset.folder.name,
        labels=tuple(label.name for label in dataset.description.labels),
        methods=tuple(method.text for method in methods),
        settings=tuple(setting.text for setting in prepared),
        seeds=tuple(seeds),
        max_time_s=conditions.max_time_s,
        tolerance_mm=conditions.tolerance_mm,
        notes=tuple(notes),
        models={},
    )


def _outcome(status: Status, cells: Sequence[Cell]) -> Outcome:
    files = paper_table.write_tables(status.folder, status.begun)
    table = paper_table.plain(paper_table.summarise(status.folder, status.begun), status.begun)
    keys = {cell.key for cell in cells}
    failed = tuple(cell for cell in status.cells if cell.key in keys and cell.status == FAILED)
    return Outcome(status.folder, table, files, len(cells), failed)
