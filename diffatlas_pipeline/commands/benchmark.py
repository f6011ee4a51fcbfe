"""DiffAtlas_benchmark: methods times settings times seeds, trained, tested and put into one table."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffatlas_pipeline.commands import _common
from diffatlas_pipeline.commands.train import seconds_of
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.machine import default_workers, usable_cores

if TYPE_CHECKING:
    from diffatlas_pipeline.benchmark.cells import Cell, Conditions, Status
    from diffatlas_pipeline.benchmark.children import Children
    from diffatlas_pipeline.benchmark.settings import MethodChoice, PreparedSetting, Setting
    from diffatlas_pipeline.datasets.description import RawDataset

METHODS = ("diffatlas", "icf", "icmd", "rba")


def main(argv: list[str] | None = None) -> None:
    parser = _common.command_parser(
        "Compare methods: train, predict and evaluate every method in every setting with every seed, and write one table.\n"
        "What is done is kept: the same command goes on after an interruption, and tries again what failed.",
        "DiffAtlas_benchmark -d 001 --methods diffatlas icf --settings full 2-shot --seeds 0 1 2 --max-time 10m",
    )
    parser.add_argument("-d", "--dataset", required=True, help="data set to train on: number, folder name or path")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        metavar="METHOD",
        help="methods, with a recipe as in diffatlas:paper or rba:staple, with training cases beside it as diffatlas+atlases "
        f"(default: {' '.join(METHODS)})",
    )
    parser.add_argument(
        "--settings",
        nargs="+",
        default=["full"],
        metavar="SETTING",
        help="full, K-shot (2-shot, ...), zero-shot:DATASET, zero-shot:DATASET@2-shot, zero-shot-unadapted:... (default: full)",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0],
        metavar="S",
        help="of training and of the draw of few-shot cases, which differ for 0, 1 and 2 (default: 0)",
    )
    parser.add_argument(
        "--max-time", metavar="TIME", help="time for each training, e.g. 90s, 10m, 2h (default: as long as the plan says)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="(default: benchmarks/DATASET_TIME in the workspace)"
    )
    parser.add_argument(
        "--splits-file", type=Path, metavar="FILE", help="splits of one's own; they win over the planned ones of the same name"
    )
    parser.add_argument("--test-cases", type=int, metavar="N", help="test on the first N test cases only (default: all)")
    parser.add_argument(
        "--tolerance-mm", type=float, default=1.0, metavar="MM", help="tolerance of the surface distance (default: %(default)s)"
    )
    parser.add_argument("--no-mean-atlas", action="store_true", help="leave out the row of the mean atlas")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="trainings at the same time; they share the device (default: 1)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace models that were trained with other options")
    _common.add_workspace(parser)
    _common.run(_benchmark, parser, argv)


def _benchmark(arguments: argparse.Namespace) -> None:
    _check_numbers(arguments)
    if arguments.max_time:
        seconds_of(arguments.max_time)

    from diffatlas_pipeline.benchmark.cells import Status
    from diffatlas_pipeline.benchmark.children import Children
    from diffatlas_pipeline.benchmark.settings import check_settings
    from diffatlas_pipeline.datasets.raw import read_dataset
    from diffatlas_pipeline.networks.execution import resolve_device

    device = resolve_device(arguments.device).type
    workspace = _common.workspace_of(arguments)
    find: Callable[[str], RawDataset] = lambda name: read_dataset(workspace.raw_dataset(name))  # noqa: E731
    dataset = find(arguments.dataset)
    methods = _methods(arguments)
    settings = check_settings(arguments.settings, dataset, find)
    time_name = str(arguments.max_time or "planned").replace(" ", "")
    folder = arguments.output or workspace.results.parent / "benchmarks" / f"{dataset.folder.name}_{time_name}"
    folder = folder.expanduser().resolve()
    children = Children(_environment(workspace, folder, arguments.jobs))
    _plan_if_needed(dataset, workspace, device, children)
    prepared, conditions = _prepare(arguments, dataset, workspace, methods, settings, device)
    _make_folder(folder)
    with _only_one(folder):
        status = Status(folder)
        cells = _cells(methods, prepared, arguments, conditions)
        _clear_conflicts(status, cells, arguments)
        left_out = status.begin(_header(arguments, dataset, methods, prepared, cells), cells)
        if left_out:
            print(f"{left_out} finished cell(s) of an earlier run with other options leave the table.")
        _run_cells(cells, status, prepared, dataset, children, arguments)
        _finish(status, cells)


def _check_numbers(arguments: argparse.Namespace) -> None:
    for flag, value, least in (
        ("--jobs", arguments.jobs, 1),
        ("--test-cases", arguments.test_cases, 1),
        ("--tolerance-mm", arguments.tolerance_mm, 0),
        ("--seeds", min(arguments.seeds), 0),
    ):
        if value is not None and not value >= least:
            raise UserError(f"{flag} {value}: must be {least} or more.")
    if arguments.splits_file is not None and not arguments.splits_file.is_file():
        raise UserError(f"--splits-file {arguments.splits_file}: no such file.")
    arguments.seeds = list(dict.fromkeys(arguments.seeds))


def _methods(arguments: argparse.Namespace) -> list[MethodChoice]:
    """The methods asked for, and the mean atlas. UserError for an unknown one."""
    from diffatlas_pipeline.benchmark.settings import MEAN_ATLAS, MethodChoice
    from diffatlas_pipeline.methods.base import LearnedMethod
    from diffatlas_pipeline.methods.registry import known_method

    texts = [*arguments.methods, *([] if arguments.no_mean_atlas else [MEAN_ATLAS])]
    methods = list(dict.fromkeys(MethodChoice.parse(text) for text in texts))
    for method in methods:
        if method.with_atlases and not issubclass(known_method(method.name), LearnedMethod):
            raise UserError(f"--methods {method.text}: {method.name} has no network to average with atlases. Leave it out.")
        known_method(method.name)
    return methods


def _environment(workspace: Workspace, folder: Path, jobs: int) -> dict[str, str]:
    """The user's data, but models of the benchmark's own; jobs at the same time share the cores."""
    environment = {name: value for name, value in os.environ.items() if name != "DIFFATLAS_WORKSPACE"}
    environment |= {"DiffAtlas_raw": str(workspace.raw), "DiffAtlas_preprocessed": str(workspace.preprocessed)}
    environment["DiffAtlas_results"] = str(folder / "models")
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // jobs)))
    return environment


def _plan_if_needed(dataset: RawDataset, workspace: Workspace, device: str, children: Children) -> None:
    """Run DiffAtlas_plan_and_preprocess unless all training cases are preprocessed. UserError if it fails."""
    from diffatlas_pipeline.preprocessing.store import list_stored

    source = workspace.preprocessed / dataset.folder.name
    stored = set(list_stored(source)) if (source / "plans.json").is_file() else set()
    if stored >= {files.case for files in dataset.training} and (source / "splits.json").is_file():
        return
    words = ["-d", str(dataset.folder), "--device", device]
    print(f"{dataset.folder.name} is not planned yet:\n$ {shlex.join(['DiffAtlas_plan_and_preprocess', *words])}", flush=True)
    if children.do("plan_and_preprocess", words, None):
        raise UserError(f"{dataset.folder.name} could not be planned; the message above says why.")
    print()


def _prepare(
    arguments: argparse.Namespace,
    dataset: RawDataset,
    workspace: Workspace,
    methods: list[MethodChoice],
    settings: dict[Setting, RawDataset],
    device: str,
) -> tuple[list[PreparedSetting], Conditions]:
    """The settings with their cases, and what all cells share. UserError for anything that does not fit the plan."""
    from diffatlas_pipeline.benchmark.cells import Conditions
    from diffatlas_pipeline.benchmark.settings import MethodChoice, known_splits, prepare_settings
    from diffatlas_pipeline.files import from_json
    from diffatlas_pipeline.methods.registry import METHODS as KNOWN
    from diffatlas_pipeline.planning.plan import Plan
    from diffatlas_pipeline.training.plan_check import check_plan

    source = workspace.preprocessed / dataset.folder.name
    plan = from_json(Plan, (source / "plans.json").read_text(encoding="utf-8"), str(source / "plans.json"))
    check_plan(plan, str(source / "plans.json"))
    for method in methods:
        plan.recipe(method.trained, method.name)
    splits = known_splits(source / "splits.json", arguments.splits_file, [files.case for files in dataset.training])
    prepared = prepare_settings(settings, dataset, splits, arguments.seeds, arguments.test_cases)
    limit_s = seconds_of(arguments.max_time) if arguments.max_time else None
    planned = [MethodChoice(recipe.method, recipe.name) for recipe in plan.recipes]
    known = [*methods, *planned, *map(MethodChoice, KNOWN)]
    recipes = {MethodChoice(one.name, one.trained).text: plan.digest(one.name, one.trained) for one in known}
    return prepared, Conditions(dataset.folder.name, limit_s, arguments.tolerance_mm, plan.digest(), device, recipes)


def _cells(
    methods: list[MethodChoice], prepared: list[PreparedSetting], arguments: argparse.Namespace, conditions: Conditions
) -> list[Cell]:
    from diffatlas_pipeline.benchmark.cells import plan_cells
    from diffatlas_pipeline.methods.base import LearnedMethod
    from diffatlas_pipeline.methods.registry import known_method

    learned = {method.name: issubclass(known_method(method.name), LearnedMethod) for method in methods}
    return plan_cells(methods, prepared, arguments.seeds, conditions, learned)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".probe").touch()
        (folder / ".probe").unlink()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}). Give another folder with -o.") from error


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """UserError if another benchmark is running in ``folder``; not noticed where the system has no such locks (Windows)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{folder}: a benchmark is running there already. Wait for it, or give another -o.") from error
        yield


def _clear_conflicts(status: Status, cells: list[Cell], arguments: argparse.Namespace) -> None:
    """Remove models that were trained with other options, if that is allowed, else UserError; also for another data set."""
    dataset = cells[0].conditions.dataset
    if status.content and status.content["dataset"] != dataset:
        raise UserError(f"{status.folder} holds a benchmark of {status.content['dataset']}. Give another folder with -o.")
    others = {cell.model: cell for cell in cells if status.model_matches(cell) is False}
    if arguments.overwrite:
        status.remove_models(list(others.values()))
    elif others:
        model, cell = next(iter(others.items()))
        known, asked = status.content.get("models", {}).get(model, {}), cell.training_options()
        different = ", ".join(name for name in asked if known.get(name) != asked[name])
        raise UserError(
            f"{status.folder}: {len(others)} model(s) there were trained with other options (for example {model}, other "
            f"{different}). Give another folder with -o, or --overwrite to train them again."
        )


def _header(
    arguments: argparse.Namespace,
    dataset: RawDataset,
    methods: list[MethodChoice],
    prepared: list[PreparedSetting],
    cells: list[Cell],
) -> dict[str, Any]:
    from diffatlas_pipeline.benchmark.settings import MEAN_ATLAS

    notes = [note for setting in prepared for note in setting.notes]
    once = list(dict.fromkeys(cell.method for cell in cells if not cell.learned))
    if once and len(arguments.seeds) > 1:
        notes.append(
            f"{', '.join(once)}: nothing is trained by gradient; run once for each different set of training cases, so a row "
            "can have fewer seeds."
        )
    if MEAN_ATLAS in once:
        notes.append(
            f"{MEAN_ATLAS}: the mean distance map of the training cases, without a look at the image. A method shows skill "
            "only as far as it is above this row."
        )
    return {
        "dataset": dataset.folder.name,
        "labels": [label.name for label in dataset.description.labels],
        "methods": [method.text for method in methods],
        "settings": [setting.text for setting in prepared],
        "seeds": arguments.seeds,
        "max_time_s": cells[0].conditions.max_time_s,
        "tolerance_mm": arguments.tolerance_mm,
        "notes": notes,
    }


def _run_cells(
    cells: list[Cell],
    status: Status,
    prepared: list[PreparedSetting],
    dataset: RawDataset,
    children: Children,
    arguments: argparse.Namespace,
) -> None:
    """Run what is not done, cells of one model together; print a line for each."""
    from concurrent.futures import ThreadPoolExecutor, as_completed

    from diffatlas_pipeline.benchmark.children import Stopped
    from diffatlas_pipeline.benchmark.paper_table import write_tables
    from diffatlas_pipeline.benchmark.run import Runner
    from diffatlas_pipeline.benchmark.test_sets import link_test_set
    from diffatlas_pipeline.benchmark.time_left import TimeLeft

    todo = [cell for cell in cells if not status.is_done(cell)]
    progress = TimeLeft(cells, todo, status, arguments.jobs)
    progress.announce(prepared)
    if not todo:
        return
    test_sets = {setting.test.dataset: link_test_set(setting.test, status.folder / "test_sets") for setting in prepared}

    def report(cell: Cell) -> None:
        progress.done(cell)
        write_tables(status.folder, status.content)

    workers = 1 if arguments.jobs > 1 else default_workers()
    runner = Runner(
        status, children.do, test_sets, arguments.max_time, arguments.device, dataset.folder / "dataset.json", workers, report
    )
    groups: dict[str, list[Cell]] = {}
    for cell in todo:
        groups.setdefault(cell.model, []).append(cell)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        try:
            for future in as_completed([pool.submit(runner.run, group) for group in groups.values()]):
                future.result()
        except BaseException as error:
            children.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, Stopped):
                raise KeyboardInterrupt from error
            raise


def _finish(status: Status, cells: list[Cell]) -> None:
    """Write and show the table; exits with 1 if a cell failed."""
    from diffatlas_pipeline.benchmark.cells import FAILED
    from diffatlas_pipeline.benchmark.paper_table import cells_frame, plain, summarise, write_tables

    paths = write_tables(status.folder, status.content)
    print("\n" + plain(summarise(cells_frame(status.folder, status.content), status.content), status.content))
    for path in paths:
        print(f"Written: {path}")
    failed = [cell for cell in cells if (status.entry(cell) or {})["status"] == FAILED]
    if failed:
        print(f"Error: {len(failed)} of {len(cells)} cells failed; the same command tries them again:", file=sys.stderr)
        for cell in failed:
            entry = status.entry(cell) or {}
            print(f"  {cell.title}: {entry['message']} (log: {status.folder / entry['log']})", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
