"""benchmark.json: what was compared, what it was made with, and what came of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from diffatlas_pipeline.benchmark.choices import MethodChoice
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import from_json

VERSION = 2  # 1: digests of recipes as release 0.1 made them, which tell nothing about models of today
FILE = "benchmark.json"
DONE, FAILED, WAITING = "done", "failed", "waiting"
Key = tuple[str, str, str, int]


@dataclass(frozen=True, kw_only=True)
class TrainedWith:
    """What a model depends on. ``max_time_s`` None: as long as the plan says; ``plan`` and ``recipe`` are digests."""

    split: str
    training_cases: tuple[str, ...]
    seed: int
    max_time_s: float | None
    plan: str
    recipe: str
    device: str


@dataclass(frozen=True, kw_only=True)
class PredictedWith:
    """What predicted segmentations depend on."""

    training: TrainedWith
    test_dataset: str
    modality: str | None
    adapted: bool
    with_atlases: bool = False


@dataclass(frozen=True, kw_only=True)
class ScoredWith(PredictedWith):
    """What scores depend on."""

    test_cases: tuple[str, ...]
    tolerance_mm: float

    @property
    def predicted(self) -> PredictedWith:
        return PredictedWith(**{name: getattr(self, name) for name in PredictedWith.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method in one setting with one seed, and what came of it. Paths are relative to the benchmark's folder.

    ``options`` is what the scores depend on; ``predicted`` what the predictions that are there were made with.
    """

    method: str
    recipe: str
    setting: str
    seed: int
    status: str = WAITING
    message: str = ""
    model: str
    predictions: str
    evaluation: str
    training_cases: tuple[str, ...]
    test_cases: tuple[str, ...]
    train_seconds: float | None = None
    seconds_per_case: float | None = None
    log: str
    wall_seconds: dict[str, float] = field(default_factory=dict)
    options: ScoredWith
    predicted: PredictedWith | None = None

    @property
    def key(self) -> Key:
        return self.method, self.recipe, self.setting, self.seed

    @property
    def choice(self) -> MethodChoice:
        return MethodChoice(self.method, self.recipe)

    @property
    def title(self) -> str:
        return f"{self.setting}, {self.choice.text}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """All of benchmark.json. ``models``: what each was trained with, by folder; ``notes`` stand under the table."""

    version: int = VERSION
    dataset: str
    labels: tuple[str, ...]
    methods: tuple[str, ...]
    settings: tuple[str, ...]
    seeds: tuple[int, ...]
    max_time_s: float | None
    tolerance_mm: float
    notes: tuple[str, ...] = ()
    models: dict[str, TrainedWith]
    cells: tuple[Cell, ...] = ()


def read_benchmark(folder: Path) -> Benchmark:
    """The benchmark in ``folder``. UserError if there is none, or if it is damaged or of another version."""
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
        version = json.loads(text)["version"]
        if version == VERSION:
            return from_json(Benchmark, text, FILE)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}). Give the folder of a benchmark.") from error
    except (ValueError, KeyError, TypeError, UserError) as error:
        raise UserError(f"{path}: damaged ({error!r}). Restore it, or run the benchmark into another folder.") from error
    raise UserError(
        f"{path}: format version {version}, but this release reads {VERSION}. Use the release that wrote it, or run the "
        "benchmark into another folder."
    )
