"""Settings, cells and scores made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffatlas_pipeline.benchmark.cells import Conditions, plan_cell
from diffatlas_pipeline.benchmark.choices import MethodChoice
from diffatlas_pipeline.benchmark.record import Benchmark, Cell
from diffatlas_pipeline.benchmark.settings import Pool, PreparedSetting, TestSet
from diffatlas_pipeline.datasets.description import CaseFiles, DatasetDescription, LabelClass, RawDataset

METHODS = ("icf", "icf:other", "icmd", "rba", "rba:staple", "mean", "diffatlas", "diffatlas:paper")
RECIPES = {name: f"plan with {name}" for name in METHODS}
CONDITIONS = Conditions("Dataset001_A", 600.0, 1.0, "0123456789ab", "cpu", RECIPES)
ASKED = Benchmark(
    dataset="Dataset001_A",
    labels=("front",),
    methods=("icf",),
    settings=("2-shot",),
    seeds=(0,),
    max_time_s=600.0,
    tolerance_mm=1.0,
    models={},
)


def case_files(*names: str) -> tuple[CaseFiles, ...]:
    return tuple(CaseFiles(name, (Path(f"{name}_0000.nii.gz"),), Path(f"{name}.nii.gz")) for name in names)


def raw_dataset(folder: Path, training: int = 4, channels: tuple[str, ...] = ("CT",), **labels: int) -> RawDataset:
    """A listed data set of cases c0, c1, ...; labels front=1 and back=2 unless given."""
    values = labels or {"front": 1, "back": 2}
    classes = tuple(LabelClass(name, value) for name, value in values.items())
    names = [f"c{index}" for index in range(training)]
    return RawDataset(folder, DatasetDescription(folder.name, channels, classes, ".nii.gz"), case_files(*names))


def with_labels(*names: str, **changes: Any) -> TestSet:
    return replace(TestSet("Dataset001_A", Path("dataset.json"), case_files(*names), "imagesTs"), **changes)


POOL, TEST = Pool("2-shot", ("c1", "c2")), with_labels("t1", "t2")


def make_cell(
    method: str = "icf",
    recipe: str = "default",
    setting: str = "2-shot",
    seed: int = 0,
    pool: Pool = POOL,
    test: TestSet = TEST,
    conditions: Conditions = CONDITIONS,
) -> Cell:
    return plan_cell(MethodChoice(method, recipe), PreparedSetting(setting, {seed: pool}, test, ()), seed, conditions)


def write_scores(folder: Path, dice: dict[str, float | None], nsd: dict[str, float | None]) -> None:
    """What DiffAtlas_evaluate leaves, as far as the table reads it."""

    def mean(values: dict[str, float | None]) -> float | None:
        known = [value for value in values.values() if value is not None]
        return sum(known) / len(known) if known else None

    labels = {name: {"dice": {"mean": dice[name]}, "nsd": {"mean": nsd[name]}} for name in dice}
    folder.mkdir(parents=True)
    summary = {"labels": labels, "mean": {"dice": mean(dice), "nsd": mean(nsd)}}
    (folder / "summary.json").write_text(json.dumps(summary))
