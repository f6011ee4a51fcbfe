"""A raw data set made ready for training: checked, measured, planned, and its cases stored."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from diffatlas_pipeline import console
from diffatlas_pipeline.datasets.checks import check_dataset
from diffatlas_pipeline.datasets.description import RawDataset
from diffatlas_pipeline.datasets.raw import read_dataset
from diffatlas_pipeline.datasets.workspace import LOW_RESOLUTION, Workspace
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import alone_in, to_json
from diffatlas_pipeline.machine import default_workers
from diffatlas_pipeline.methods.registry import default_recipes, with_complete_recipes
from diffatlas_pipeline.models.archive import opened
from diffatlas_pipeline.networks.execution import resolve_device
from diffatlas_pipeline.planning.describe import plan_table
from diffatlas_pipeline.planning.fingerprint import Fingerprint
from diffatlas_pipeline.planning.like import plan_like
from diffatlas_pipeline.planning.low_resolution import low_resolution_plan
from diffatlas_pipeline.planning.measure import compute_fingerprint
from diffatlas_pipeline.planning.measured_on import Record, make_record, recorded_fingerprint, source_digest
from diffatlas_pipeline.planning.plan import Budget, Plan
from diffatlas_pipeline.planning.plan_file import write_all_splits, write_plan
from diffatlas_pipeline.planning.planner import make_plan
from diffatlas_pipeline.planning.topology import preset_for, preset_named
from diffatlas_pipeline.preprocessing.run import preprocess_dataset
from diffatlas_pipeline.processes import check_main_guard

_FOLDER = re.compile(r"Dataset(\d{3})_.+")


@dataclass(frozen=True)
class PreparedDataset:
    """A data set that is ready for training: its raw folder, its three-digit number, where its stored cases are."""

    raw: Path
    number: str
    folder: Path
    cases: int


def plan_and_preprocess(
    dataset: str | int | Path,
    *,
    workspace: str | Path | None = None,
    memory_gb: float = 8.0,
    device: str | None = None,
    preset: str | None = None,
    like: str | Path | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Check a raw data set, measure it, plan, and store its cases ready for training; returns the folder of these.

    ``dataset``: its number, folder name or path. ``memory_gb``: memory for training, of the device. ``device``: "cpu",
    "cuda" or "mps" (default: the best one here). ``preset``: "cpu", "gpu8", "gpu24" or "gpu80" (default: from device
    and memory). ``like``: a model (folder or zip file) that a training is to begin with; its network, patch, spacing,
    distance maps and diffusion take the place of planned ones. ``workers``: parallel processes (default: as many as
    cores and memory allow). ``overwrite``: replace another plan that is there, and redo all cases. ``workspace``:
    folder with raw/, preprocessed/ and results/ (default: as the environment says, else ./diffatlas_workspace). A
    script makes this call under ``if __name__ == "__main__":``, since it starts processes. UserError for whatever has
    to be mended.
    """
    check_main_guard()
    place = Workspace.resolve(workspace)
    budget = budget_of(memory_gb, device, preset)
    count = default_workers() if workers is None else workers
    other = None if like is None else plan_of(Path(like))
    return prepare_dataset(place.raw_dataset(str(dataset)), place, budget, count, overwrite, other).folder


def budget_of(memory_gb: float, device: str | None, preset: str | None) -> Budget:
    """The budget for training: ``device`` "cpu", "cuda" or "mps", None for the best one here. UserError otherwise."""
    if not memory_gb > 0:
        raise UserError(f"`memory_gb` {memory_gb:g}: a number above 0 is needed.")
    kind = resolve_device(None).type if device is None else device
    if kind not in ("cpu", "cuda", "mps"):
        raise UserError(f"`device` {device}: a plan is for a kind of device; choose one of cpu, cuda, mps.")
    chosen = preset or preset_for(kind, memory_gb)
    preset_named(chosen)
    return Budget(memory_gb, kind, chosen)


def plan_of(model: Path) -> Plan:
    """The plan of the model in a folder or zip file. ModelError if it is none."""
    with opened(model) as folder:
        return folder.plan()


def prepare_dataset(
    raw: Path, workspace: Workspace, budget: Budget, workers: int, overwrite: bool, like: Plan | None = None
) -> PreparedDataset:
    """Check, measure, plan (``like`` another plan) and preprocess the raw data set in the folder ``raw``, in
    ``workers`` processes.

    A data set that has not changed since is not checked and measured again, and stored cases that are still right are
    kept, unless ``overwrite``. UserError for whatever has to be mended, also if another plan is there that may not be
    replaced.
    """
    if workers < 1:
        raise UserError(f"`workers` {workers}: at least 1 is needed.")
    number = _FOLDER.fullmatch(raw.name)
    if number is None:
        raise UserError(f"{raw}: a raw data set's folder must be named DatasetXXX_Name (three digits). Rename it.")
    folder = workspace.preprocessed / raw.name
    clock = _Clock()
    console.say(f"Data set {raw.name}, {raw}")
    of_files: list[tuple[str, str]] = []
    dataset = read_dataset(raw, of_files)
    if of_files:
        check_dataset(dataset, workers, of_files)  # raises, and lists what else is wrong
    fingerprint, record = _measured(dataset, folder, workers, overwrite, clock)
    recipes = default_recipes(len(dataset.description.channels))
    plan = make_plan(fingerprint, budget, recipes) if like is None else plan_like(like, fingerprint, budget, recipes)
    clock.done("planned")
    console.say(f"\n{plan_table(plan)}\n")
    rough = low_resolution_plan(plan, fingerprint)
    if rough is not None:
        console.say("A patch sees little of a case. A second plan, of low resolution, is to find the structures first:\n")
        console.say(f"{plan_table(rough, plan)}\n")
    others = {"measured": record, "fingerprint": fingerprint, "dataset": dataset.description}
    with alone_in(folder.parent, f"preprocessing of {raw.name}", "Wait for it, or stop it first.", f".{raw.name}.lock"):
        write_plan(folder, plan, others, overwrite, with_complete_recipes)
        write_all_splits(folder, raw / "splits.json", [files.case for files in dataset.training], overwrite)
        preprocess_dataset(dataset, plan, folder, workers, overwrite)
        _write_low_resolution(dataset, rough, folder / LOW_RESOLUTION, workers, overwrite)
    clock.done("preprocessed")
    return PreparedDataset(raw, number.group(1), folder, len(dataset.training) + len(dataset.unlabelled))


def _write_low_resolution(dataset: RawDataset, plan: Plan | None, folder: Path, workers: int, overwrite: bool) -> None:
    """Store the cases by the second ``plan``, too; without one, what is left of another."""
    if plan is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    write_plan(folder, plan, {"dataset": dataset.description}, overwrite, with_complete_recipes)
    preprocess_dataset(dataset, plan, folder, workers, overwrite)


def _measured(dataset: RawDataset, folder: Path, workers: int, overwrite: bool, clock: _Clock) -> tuple[Fingerprint, Record]:
    """The fingerprint and its record: those in ``folder`` if nothing has changed since, else made now."""
    source = source_digest(dataset)  # before reading: what changes meanwhile is seen next time
    known = recorded_fingerprint(folder / "measured.json", folder / "fingerprint.json", source)
    if known is not None and not overwrite:
        console.say(f"  unchanged since {known[1].since}: not checked and measured again (`overwrite` does)")
        return known
    check_dataset(dataset, workers)
    clock.done(f"checked {len(dataset.training)} training and {len(dataset.unlabelled)} unlabelled cases")
    fingerprint = compute_fingerprint(dataset, workers)
    clock.done("measured")
    return fingerprint, make_record(source, to_json(fingerprint))


class _Clock:
    """Says how long each stage took."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def done(self, stage: str) -> None:
        now = time.monotonic()
        console.say(f"  {stage} in {now - self.started:.1f} s")
        self.started = now
