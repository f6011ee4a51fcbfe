"""DiffAtlas_plan_and_preprocess: check a raw data set, measure it, plan, and store its cases ready for training."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffatlas_pipeline.commands._common import add_workers, add_workspace, command_parser, run, same_workspace, workspace_of
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError

if TYPE_CHECKING:
    from diffatlas_pipeline.datasets.description import RawDataset
    from diffatlas_pipeline.planning.fingerprint import Fingerprint
    from diffatlas_pipeline.planning.plan import Budget
    from diffatlas_pipeline.planning.record import Record

DESCRIPTION = "Check raw data sets, measure them, plan spacing, network, diffusion and training, and store their cases."
EXAMPLE = "DiffAtlas_plan_and_preprocess -d 001"


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(DESCRIPTION, EXAMPLE)
    parser.add_argument(
        "-d",
        "--dataset",
        dest="datasets",
        action="extend",
        nargs="+",
        required=True,
        metavar="ID",
        help="raw data set: its number, its folder name or its path; several may be given",
    )
    parser.add_argument(
        "--memory-gb", type=float, default=8.0, metavar="GB", help="memory for training, of the device (default: %(default)g)"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda", "mps"), help="kind of device to train on (default: the best one here)"
    )
    parser.add_argument("--preset", metavar="NAME", help="cpu, gpu8, gpu24 or gpu80 (default: from device and memory)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace another plan that is already there, and redo all cases"
    )
    add_workers(parser)
    add_workspace(parser)
    run(plan_and_preprocess, parser, argv)


def plan_and_preprocess(arguments: argparse.Namespace) -> None:
    """Do it for each data set asked for. Raises UserError for anything the user has to mend, after the others are done."""
    from diffatlas_pipeline.planning.plan import Budget
    from diffatlas_pipeline.planning.topology import preset_for, preset_named

    if not arguments.memory_gb > 0:
        raise UserError(f"--memory-gb {arguments.memory_gb:g}: a number above 0 is needed.")
    if arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers}: at least 1 is needed.")
    device = arguments.device or _best_device()
    preset = arguments.preset or preset_for(device, arguments.memory_gb)
    preset_named(preset)
    budget = Budget(arguments.memory_gb, device, preset)
    workspace = workspace_of(arguments)
    _each_dataset(dict.fromkeys(arguments.datasets), workspace, budget, arguments)


def _each_dataset(identifiers: Iterable[str], workspace: Workspace, budget: Budget, arguments: argparse.Namespace) -> None:
    """One data set after the other: one that cannot be used does not stop the others, but is told at the end."""
    closing: dict[Path, str] = {}
    problems: list[UserError] = []
    for identifier in identifiers:
        try:
            folder = workspace.raw_dataset(identifier)
            if folder not in closing:
                closing[folder] = _one_dataset(folder, workspace, budget, arguments)
        except UserError as error:
            problems.append(error)
            if len(arguments.datasets) > 1:
                print(f"  -d {identifier}: stopped by an error, which is listed at the end", flush=True)
    if closing:
        print("\n".join(closing.values()), flush=True)
    if len(arguments.datasets) == 1 and problems:
        raise problems[0]
    if problems:
        rest = "; the others are done" if closing else ""
        listed = "\n".join(str(problem) for problem in problems)
        raise UserError(f"{len(problems)} of {len(arguments.datasets)} data sets cannot be used{rest}.\n{listed}")


def _one_dataset(source: Path, workspace: Workspace, budget: Budget, arguments: argparse.Namespace) -> str:
    """Check, fingerprint, plan, preprocess the data set in ``source``; returns the closing line."""
    from diffatlas_pipeline.datasets.raw import read_dataset
    from diffatlas_pipeline.files import to_json
    from diffatlas_pipeline.methods.registry import default_recipes
    from diffatlas_pipeline.planning.describe import plan_table
    from diffatlas_pipeline.planning.planner import make_plan
    from diffatlas_pipeline.preprocessing.run import preprocess_dataset

    number = re.fullmatch(r"Dataset(\d{3})_.+", source.name)
    if number is None:
        raise UserError(f"{source}: a raw data set's folder must be named DatasetXXX_Name (three digits). Rename it.")
    folder = workspace.preprocessed / source.name
    clock = _Clock()
    print(f"Data set {source.name}, {source}", flush=True)
    dataset = read_dataset(source)
    fingerprint, record = _measured(dataset, folder, arguments, clock)
    plan = make_plan(fingerprint, budget, default_recipes())
    clock.done("planned")
    print(f"\n{plan_table(plan)}\n", flush=True)
    cases = [files.case for files in dataset.training]
    texts = {"measured": record, "fingerprint": fingerprint, "dataset": dataset.description}
    _write(folder, to_json(plan), {name: to_json(value) for name, value in texts.items()}, arguments.overwrite)
    _write_splits(folder / "splits.json", source / "splits.json", cases, arguments.overwrite)
    preprocess_dataset(dataset, plan, folder, arguments.workers, arguments.overwrite)
    clock.done("preprocessed")
    count = len(dataset.training) + len(dataset.unlabelled)
    name = number.group(1) if source.parent == workspace.raw else str(source)  # a path, if it was named by one
    following = f"DiffAtlas_train {name} fold0{same_workspace(arguments)}"
    return f"Wrote the plan and {count} preprocessed cases to {folder}. Next: {following}"


def _measured(dataset: RawDataset, folder: Path, arguments: argparse.Namespace, clock: _Clock) -> tuple[Fingerprint, Record]:
    """The fingerprint and its record: those in ``folder`` if nothing has changed since, else made now."""
    from diffatlas_pipeline.datasets.checks import check_dataset
    from diffatlas_pipeline.files import to_json
    from diffatlas_pipeline.planning.measure import compute_fingerprint
    from diffatlas_pipeline.planning.record import make_record, recorded_fingerprint, source_digest

    source = source_digest(dataset)  # before reading: what changes meanwhile is seen next time
    known = recorded_fingerprint(folder / "measured.json", folder / "fingerprint.json", source)
    if known is not None and not arguments.overwrite:
        print(f"  unchanged since {known[1].since}: not checked and measured again (--overwrite does)", flush=True)
        return known
    check_dataset(dataset, arguments.workers)
    clock.done(f"checked {len(dataset.training)} training and {len(dataset.unlabelled)} unlabelled cases")
    fingerprint = compute_fingerprint(dataset, arguments.workers)
    clock.done("measured")
    return fingerprint, make_record(source, to_json(fingerprint))


def _write(folder: Path, plan: str, texts: dict[str, str], overwrite: bool) -> None:
    """Write plans.json and the other JSON ``texts`` by name.

    UserError if another plan is there and may not be replaced, or nothing can be written.
    """
    from diffatlas_pipeline.files import write_text_atomically

    path = folder / "plans.json"
    if path.is_file() and not overwrite and not _is_same_plan(path, plan):
        raise UserError(
            f"{path}: another plan is already there ({_differences(path, plan)}). Give --overwrite to replace it and redo all "
            "its cases, the same options as before to keep it, or another --workspace."
        )
    try:
        for name, text in texts.items():
            write_text_atomically(folder / f"{name}.json", text)
        write_text_atomically(path, plan)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _write_splits(path: Path, own: Path, cases: list[str], overwrite: bool) -> None:
    """The planned splits; over them those that are in ``path`` already, and over these the data set's ``own`` ones."""
    from diffatlas_pipeline.datasets.splits import load_splits, make_splits, write_splits

    splits = make_splits(cases)
    if path.is_file() and not _is_outdated(path, cases, overwrite):
        splits |= load_splits(path, cases)
    if own.is_file():
        splits |= load_splits(own, cases)
    try:
        write_splits(path, splits)
    except OSError as error:
        raise _unwritable(path.parent, error) from error


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder}: cannot be written ({error.strerror or error}). Mend it or give another --workspace.")


def _is_outdated(path: Path, cases: list[str], overwrite: bool) -> bool:
    """Whether a splits file is to be made anew: it does not fit the cases, and overwriting is allowed."""
    from diffatlas_pipeline.datasets.splits import load_splits

    try:
        load_splits(path, cases)
    except UserError:
        return overwrite
    return False


def _is_same_plan(path: Path, plan: str) -> bool:
    """Whether the plan in ``path`` is ``plan``, written perhaps by an earlier release: other reasons, or no word of an option
    that has been added since and is at its default.
    """
    from diffatlas_pipeline.files import from_json
    from diffatlas_pipeline.methods.registry import with_complete_recipes
    from diffatlas_pipeline.planning.plan import Plan

    texts = (path.read_text(encoding="utf-8"), plan)
    try:
        old, new = (with_complete_recipes(replace(from_json(Plan, text, str(path)), why={})) for text in texts)
    except UserError:
        return False
    return old == new


def _differences(path: Path, plan: str) -> str:
    """The names of the entries in which the plan in ``path`` differs from ``plan``."""
    from diffatlas_pipeline.planning.plan import Plan

    try:
        old = Plan.migrated(json.loads(path.read_text(encoding="utf-8")), str(path))
        new = json.loads(plan)
        names = [name for name in new if old.get(name) != new[name] and name != "why"]
    except (ValueError, AttributeError, UserError):
        return "it is damaged"
    return f"it differs in {', '.join(names) or 'entries that this release does not know'}"


class _Clock:
    """Prints how long each stage took."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def done(self, stage: str) -> None:
        now = time.monotonic()
        print(f"  {stage} in {now - self.started:.1f} s", flush=True)
        self.started = now


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


if __name__ == "__main__":
    main()
