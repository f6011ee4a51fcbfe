"""Which cells a benchmark has, where they lie, and what each depends on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffatlas_pipeline.benchmark.choices import MethodChoice
from diffatlas_pipeline.benchmark.record import Cell, ScoredWith, TrainedWith
from diffatlas_pipeline.benchmark.settings import PreparedSetting


@dataclass(frozen=True)
class Conditions:
    """What all cells share: equal training time on equal devices by one plan, scored alike."""

    dataset: str
    max_time_s: float | None
    tolerance_mm: float
    plan: str  # digest of plans.json without its recipes
    device: str  # kind: cpu, cuda, mps
    recipes: Mapping[str, str]  # digest of the plan with a method's recipe, by the method's text


def safe(text: str) -> str:
    """``text`` as the name of a folder."""
    return re.sub(r"[^\w.\-]+", "_", text)


def plan_cells(
    methods: Sequence[MethodChoice], settings: Sequence[PreparedSetting], seeds: Sequence[int], conditions: Conditions
) -> list[Cell]:
    """Setting by setting, seed by seed, all methods.

    A method without gradient training has one cell per pool of training cases, not one per seed: others would repeat
    it.
    """
    cells: list[Cell] = []
    for setting in settings:
        known: set[tuple[str, tuple[str, ...]]] = set()
        for seed in seeds:
            pool = setting.pools[seed]
            for method in methods:
                if method.learned or (method.text, pool.cases) not in known:
                    known.add((method.text, pool.cases))
                    cells.append(plan_cell(method, setting, seed, conditions))
    return cells


def plan_cell(method: MethodChoice, setting: PreparedSetting, seed: int, conditions: Conditions) -> Cell:
    """A cell before it is run. Cells that differ only in what they test share the folder of a model."""
    pool, test, trained = setting.pools[seed], setting.test, MethodChoice(method.name, method.trained)
    fold = pool.split + (f"_seed{seed}" if seed else "")
    folder = f"cells/{safe(setting.text)}/{method.name}__{method.recipe}__seed{seed}"
    training = TrainedWith(
        split=pool.split,
        training_cases=pool.cases,
        seed=seed,
        max_time_s=conditions.max_time_s,
        plan=conditions.plan,
        recipe=conditions.recipes[trained.text],
        device=conditions.device,
    )
    options = ScoredWith(
        training=training,
        test_dataset=test.dataset,
        modality=test.modality,
        adapted=test.adapted,
        with_atlases=method.with_atlases,
        test_cases=test.names,
        tolerance_mm=conditions.tolerance_mm,
    )
    return Cell(
        method=method.name,
        recipe=method.recipe,
        setting=setting.text,
        seed=seed,
        model=f"models/{conditions.dataset}/{method.name}__{method.trained}/{fold}",
        predictions=f"{folder}/predictions",
        evaluation=f"{folder}/evaluation",
        training_cases=pool.cases,
        test_cases=test.names,
        log=f"{folder}/log.txt",
        options=options,
    )
