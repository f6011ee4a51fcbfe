"""The cells of a benchmark, and benchmark.json: what each was made with and what came of it."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffatlas_pipeline.benchmark.settings import MethodChoice, Pool, PreparedSetting, Setting, TestSet, method_order
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import write_text_atomically

VERSION = 1
FILE = "benchmark.json"
WEIGHTS = "checkpoint_final.safetensors"  # there once a model is trained
METADATA = "checkpoint_final.json"
DONE, FAILED, WAITING = "done", "failed", "waiting"
Key = tuple[str, str, str, int]


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

    def training_options(self) -> dict[str, Any]:
        """What the model depends on."""
        return {
            "split": self.pool.split,
            "training_cases": list(self.pool.cases),
            "seed": self.seed,
            "max_time_s": self.conditions.max_time_s,
            "plan": self.conditions.plan,
            "recipe": self.conditions.recipes[MethodChoice(self.method, self.choice.trained).text],
            "device": self.conditions.device,
        }

    def prediction_options(self) -> dict[str, Any]:
        """What a predicted segmentation depends on."""
        return {
            "training": self.training_options(),
            "test_dataset": self.test.dataset,
            "modality": self.test.modality,
            "adapted": self.test.adapted,
        } | ({"with_atlases": True} if self.choice.with_atlases else {})

    def options(self) -> dict[str, Any]:
        """What the scores depend on."""
        return {
            **self.prediction_options(),
            "test_cases": list(self.test.names),
            "tolerance_mm": self.conditions.tolerance_mm,
        }

    def entry(self) -> dict[str, Any]:
        """How benchmark.json shows the cell before it is run."""
        return {
            "method": self.method,
            "recipe": self.recipe,
            "setting": self.setting,
            "seed": self.seed,
            "status": WAITING,
            "message": "",
            "model": self.model,
            "predictions": f"{self.folder}/predictions",
            "evaluation": f"{self.folder}/evaluation",
            "training_cases": list(self.pool.cases),
            "test_cases": list(self.test.names),
            "train_seconds": None,
            "seconds_per_case": None,
            "log": f"{self.folder}/log.txt",
            "wall_seconds": {},
            "options": self.options(),
        }


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


class Status:
    """benchmark.json in memory and on disk. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self.content: dict[str, Any] = _read(folder / FILE)

    def entry(self, cell: Cell) -> dict[str, Any] | None:
        return next((entry for entry in self.content.get("cells", []) if _key(entry) == cell.key), None)

    def is_done(self, cell: Cell) -> bool:
        """Whether the cell was finished with the same options, and its scores are still there."""
        entry = self.entry(cell)
        if entry is None or entry["status"] != DONE or entry.get("options") != _as_json(cell.options()):
            return False
        return self._has_scores(entry)

    def model_matches(self, cell: Cell) -> bool | None:
        """Whether the model of ``cell`` was trained (or begun) with its options; None if there is none."""
        known = self.content.get("models", {}).get(cell.model)
        if known is None and not (self.folder / cell.model).exists():
            return None
        return bool(known == _as_json(cell.training_options()))

    def is_trained(self, cell: Cell) -> bool:
        return bool(self.model_matches(cell)) and (self.folder / cell.model / WEIGHTS).is_file()

    def remove_models(self, cells: Sequence[Cell]) -> None:
        """Delete the models of ``cells`` that were trained with other options; of another plan, also those beside them."""
        models = self.content.setdefault("models", {})
        for cell in cells:
            if self.model_matches(cell) is not False:
                continue
            place = Path(cell.model)
            if models.get(cell.model, {}).get("recipe") != cell.training_options()["recipe"]:
                place = place.parent
            shutil.rmtree(self.folder / place, ignore_errors=True)
            for name in [name for name in models if Path(name).is_relative_to(place)]:
                del models[name]

    def begin(self, header: Mapping[str, Any], cells: Sequence[Cell]) -> int:
        """Take up ``cells`` as they are done or waiting, after them the cells of earlier runs that still fit.

        Returns how many finished or failed cells no longer fit beside these and are left out.
        """
        wanted = {cell.key for cell in cells}
        entries = []
        for cell in cells:
            old = self.entry(cell)
            entries.append(old if old is not None and self.is_done(cell) else self._waiting(cell, old))
        others = [e for e in self.content.get("cells", []) if _key(e) not in wanted and e["status"] != WAITING]
        kept = [entry for entry in others if self._fits(entry, cells)]
        lists = {
            "methods": [_choice(entry).text for entry in kept],
            "settings": [entry["setting"] for entry in kept],
            "seeds": [entry["seed"] for entry in kept],
        }
        merged = {name: list(dict.fromkeys([*header[name], *values])) for name, values in lists.items()}
        merged["methods"].sort(key=method_order)
        merged["settings"].sort(key=lambda text: Setting.parse(text).order)
        merged["seeds"].sort()
        settings = set(merged["settings"])
        earlier = [note for note in self.content.get("notes", []) if note.split(": ")[0] in settings]
        notes = list(dict.fromkeys([*header.get("notes", []), *(n for n in earlier if not _is_about(n, header["settings"]))]))
        models = self.content.get("models", {})
        rows = sorted(
            [*entries, *kept],
            key=lambda e: (Setting.parse(e["setting"]).order, e["seed"], method_order(_choice(e).text)),
        )
        self.content = {"version": VERSION, **header, **merged, "notes": notes, "models": models, "cells": rows}
        self.write()
        return len(others) - len(kept)

    def update(self, cell: Cell, **fields: Any) -> None:
        with self._lock:
            entry = self.entry(cell)
            assert entry is not None  # begin() made it
            entry.update(fields)
            self.write()

    def note_model(self, cell: Cell) -> None:
        """Record what the model of ``cell`` is trained with."""
        with self._lock:
            self.content["models"][cell.model] = cell.training_options()
            self.write()

    def write(self) -> None:
        with self._lock:
            text = json.dumps(self.content, indent=2, ensure_ascii=False) + "\n"
            try:
                write_text_atomically(self.folder / FILE, text)
            except OSError as error:
                raise UserError(
                    f"{self.folder}: cannot be written ({error.strerror or error}). Mend it, or give another folder with -o."
                ) from error

    def _waiting(self, cell: Cell, old: Mapping[str, Any] | None) -> dict[str, Any]:
        """The entry of a cell that is to be run; what predictions there are were made with the options that it had."""
        entry = cell.entry()
        if old is not None and "predicted" in old:
            entry["predicted"] = old["predicted"]
        return entry

    def _has_scores(self, entry: Mapping[str, Any]) -> bool:
        return (self.folder / entry["evaluation"] / "summary.json").is_file()

    def _fits(self, entry: Mapping[str, Any], cells: Sequence[Cell]) -> bool:
        """Whether a cell of an earlier run can stand in one table with ``cells``."""
        choice = _choice(entry)
        options = entry.get("options") or {}
        conditions = cells[0].conditions
        training = options.get("training", {})
        same = (
            training.get("max_time_s") == conditions.max_time_s
            and training.get("plan") == conditions.plan
            and training.get("recipe") == conditions.recipes.get(MethodChoice(choice.name, choice.trained).text)
            and training.get("device") == conditions.device
            and options.get("tolerance_mm") == conditions.tolerance_mm
            and self.content.get("models", {}).get(entry["model"]) == training
            and (entry["status"] != DONE or self._has_scores(entry))
        )
        neighbours = [cell for cell in cells if cell.setting == entry["setting"]]
        return same and all(list(cell.test.names) == entry["test_cases"] for cell in neighbours)


def _choice(entry: Mapping[str, Any]) -> MethodChoice:
    return MethodChoice(str(entry["method"]), str(entry["recipe"]))


def _is_about(note: str, settings: Sequence[str]) -> bool:
    return note.split(": ")[0] in settings


def _key(entry: Mapping[str, Any]) -> Key:
    return str(entry["method"]), str(entry["recipe"]), str(entry["setting"]), int(entry["seed"])


def _as_json(value: Any) -> Any:
    """As it reads back from a file."""
    return json.loads(json.dumps(value))


def _read(path: Path) -> dict[str, Any]:
    """benchmark.json, empty if there is none yet. UserError if it is damaged or of another version."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["version"]
        [_key(entry) for entry in content["cells"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error!r}). Restore it, or give another folder with -o.") from error
    if version != VERSION:
        raise UserError(f"{path}: format version {version}, but this release reads {VERSION}. Give another folder with -o.")
    return dict(content)
