"""The cells of a benchmark: which there are, where they lie, and what each depends on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffatlas_pipeline.benchmark.choices import MethodChoice
from diffatlas_pipeline.benchmark.record import CellRecord, Key, ScoredWith, TrainedWith
from diffatlas_pipeline.benchmark.settings import Pool, PreparedSetting, TestSet


@dataclass(frozen=True)
class Conditions:
    """What all cells share: equal training time on equal devices by one plan, scored alike."""

    dataset: str
    max_time_s: float | None
    tolerance_mm: float
    plan: str  # digest of plans.json without its recipes
    device: str  # kind: cpu, cuda, mps
    recipes: Mapping[str, str]  # digest of the plan with a method's recipe, by the method's text


@dataclass(frozen=True)
class Cell:
    """One method in one setting with one seed. ``learned`` is False for a method that only memorises its training cases."""

    method: str
    recipe: str
    setting: str
    seed: int
    pool: Pool
    test: TestSet
    conditions: Conditions
    learned: bool = True

    @property
    def key(self) -> Key:
        return self.method, self.recipe, self.setting, self.seed

    @property
    def choice(self) -> MethodChoice:
        return MethodChoice(self.method, self.recipe)

    @property
    def title(self) -> str:
        return f"{self.setting}, {self.choice.text}, seed {self.seed}"

    @property
    def folder(self) -> str:
        return f"cells/{safe(self.setting)}/{self.method}__{self.recipe}__seed{self.seed}"

    @property
    def model(self) -> str:
        """The folder of the trained fold; cells that differ only in what they test share it."""
        fold = self.pool.split + (f"_seed{self.seed}" if self.seed else "")
        return f"models/{self.conditions.dataset}/{self.method}__{self.choice.trained}/{fold}"

    @property
    def training(self) -> TrainedWith:
        """What the model depends on."""
        return TrainedWith(
            split=self.pool.split,
            training_cases=self.pool.cases,
            seed=self.seed,
            max_time_s=self.conditions.max_time_s,
            plan=self.conditions.plan,
            recipe=self.conditions.recipes[MethodChoice(self.method, self.choice.trained).text],
            device=self.conditions.device,
        )

    @property
    def options(self) -> ScoredWith:
        """What the scores depend on."""
        return ScoredWith(
            training=self.training,
            test_dataset=self.test.dataset,
            modality=self.test.modality,
            adapted=self.test.adapted,
            with_atlases=self.choice.with_atlases,
            test_cases=self.test.names,
            tolerance_mm=self.conditions.tolerance_mm,
        )

    def record(self) -> CellRecord:
        """How benchmark.json shows the cell before it is run."""
        return CellRecord(
            method=self.method,
            recipe=self.recipe,
            setting=self.setting,
            seed=self.seed,
            model=self.model,
            predictions=f"{self.folder}/predictions",
            evaluation=f"{self.folder}/evaluation",
            training_cases=self.pool.cases,
            test_cases=self.test.names,
            log=f"{self.folder}/log.txt",
            wall_seconds={},
            options=self.options,
        )


def safe(text: str) -> str:
    """``text`` as the name of a folder."""
    return re.sub(r"[^\w.\-]+", "_", text)


def plan_cells(
    methods: Sequence[MethodChoice],
    settings: Sequence[PreparedSetting],
    seeds: Sequence[int],
    conditions: Conditions,
    learned: Mapping[str, bool],
) -> list[Cell]:
    """Setting by setting, seed by seed, all methods.

    A method without gradient training has one cell per pool of training cases, not one per seed: others would repeat it.
    """
    cells: list[Cell] = []
    for setting in settings:
        known: set[tuple[str, tuple[str, ...]]] = set()
        for seed in seeds:
            pool = setting.pools[seed]
            for method in methods:
                if not learned[method.name] and (method.text, pool.cases) in known:
                    continue
                known.add((method.text, pool.cases))
                chosen = (method.name, method.recipe, setting.text, seed)
                cells.append(Cell(*chosen, pool, setting.test, conditions, learned[method.name]))
    return cells
