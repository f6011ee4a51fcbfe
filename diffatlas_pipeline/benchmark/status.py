"""What is done of a benchmark, in memory and in benchmark.json, and which earlier results may stand beside new ones."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffatlas_pipeline.benchmark.cells import Conditions
from diffatlas_pipeline.benchmark.choices import MethodChoice, Setting, method_order
from diffatlas_pipeline.benchmark.record import DONE, FILE, WAITING, Benchmark, Cell, TrainedWith, read_benchmark
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import to_json, write_text_atomically
from diffatlas_pipeline.models.folder import ModelFolder


class Status:
    """The benchmark of a folder as far as it is done; None if none was begun. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self.benchmark = read_benchmark(folder) if (folder / FILE).is_file() else None

    @property
    def begun(self) -> Benchmark:
        assert self.benchmark is not None, "begin() makes it"
        return self.benchmark

    @property
    def cells(self) -> tuple[Cell, ...]:
        return self.benchmark.cells if self.benchmark else ()

    @property
    def models(self) -> dict[str, TrainedWith]:
        return self.benchmark.models if self.benchmark else {}

    def known(self, cell: Cell) -> Cell | None:
        """What came of the cell so far, with whatever options."""
        return next((one for one in self.cells if one.key == cell.key), None)

    def is_done(self, cell: Cell) -> bool:
        """Whether the cell was finished with the same options, and its scores are still there."""
        known = self.known(cell)
        return known is not None and known.options == cell.options and known.status == DONE and self._has_scores(known)

    def model_matches(self, cell: Cell) -> bool | None:
        """Whether the model of ``cell`` was trained (or begun) with its options; None if there is none."""
        known = self.models.get(cell.model)
        if known is None and not (self.folder / cell.model).exists():
            return None
        return known == cell.options.training

    def is_trained(self, cell: Cell) -> bool:
        fold = self.folder / cell.model
        return bool(self.model_matches(cell)) and ModelFolder(fold.parent).is_trained(fold.name)

    def remove_models(self, cells: Sequence[Cell]) -> None:
        """Delete models of ``cells`` that were trained with other options; of another plan, also those beside them."""
        for cell in cells:
            if self.model_matches(cell) is not False:
                continue
            place, known = Path(cell.model), self.models.get(cell.model)
            if known is None or known.recipe != cell.options.training.recipe:
                place = place.parent
            shutil.rmtree(self.folder / place, ignore_errors=True)
            for name in [name for name in self.models if Path(name).is_relative_to(place)]:
                del self.models[name]

    def begin(self, asked: Benchmark, cells: Sequence[Cell], conditions: Conditions) -> int:
        """Take up ``cells`` as they are done or waiting, after them the cells of earlier runs that still fit.

        ``asked`` has everything but cells and models. Returns how many finished or failed cells no longer fit beside
        these and are left out.
        """
        taken = []
        for cell in cells:
            known = self.known(cell)  # what predictions there are were made with the options that it had
            waiting = replace(cell, predicted=known.predicted if known else None)
            taken.append(known if known is not None and self.is_done(cell) else waiting)
        wanted = {cell.key for cell in cells}
        others = [cell for cell in self.cells if cell.key not in wanted and cell.status != WAITING]
        kept = [cell for cell in others if self._fits(cell, cells, conditions)]
        settings = {*asked.settings, *(cell.setting for cell in kept)}
        earlier = [note for note in (self.benchmark.notes if self.benchmark else ()) if _about(note) in settings]
        notes = [*asked.notes, *(note for note in earlier if _about(note) not in asked.settings)]
        self.benchmark = replace(
            asked,
            methods=tuple(sorted({*asked.methods, *(cell.choice.text for cell in kept)}, key=method_order)),
            settings=tuple(sorted(settings, key=lambda text: Setting.parse(text).order)),
            seeds=tuple(sorted({*asked.seeds, *(cell.seed for cell in kept)})),
            notes=tuple(dict.fromkeys(notes)),
            models=self.models,
            cells=tuple(sorted([*taken, *kept], key=_order)),
        )
        self.write()
        return len(others) - len(kept)

    def update(self, cell: Cell, **fields: Any) -> Cell:
        """Change fields of what is known of ``cell``; returns it."""
        with self._lock:
            changed = {one.key: one for one in self.cells}
            changed[cell.key] = replace(changed[cell.key], **fields)
            self.benchmark = replace(self.begun, cells=tuple(changed.values()))
            self.write()
            return changed[cell.key]

    def note_model(self, cell: Cell) -> None:
        """Record what the model of ``cell`` is trained with."""
        with self._lock:
            self.models[cell.model] = cell.options.training
            self.write()

    def write(self) -> None:
        with self._lock:
            try:
                write_text_atomically(self.folder / FILE, to_json(self.benchmark))
            except OSError as error:
                raise UserError(
                    f"{self.folder}: cannot be written ({error.strerror or error}). Mend it, or give another `output`."
                ) from error

    def _has_scores(self, cell: Cell) -> bool:
        return (self.folder / cell.evaluation / "summary.json").is_file()

    def _fits(self, cell: Cell, beside: Sequence[Cell], conditions: Conditions) -> bool:
        """Whether a cell of an earlier run can stand in one table with those ``beside`` it."""
        training = cell.options.training
        same = (
            training.max_time_s == conditions.max_time_s
            and training.plan == conditions.plan
            and training.recipe == conditions.recipes.get(MethodChoice(cell.method, cell.choice.trained).text)
            and training.device == conditions.device
            and cell.options.tolerance_mm == conditions.tolerance_mm
            and self.models.get(cell.model) == training
            and (cell.status != DONE or self._has_scores(cell))
        )
        return same and all(other.test_cases == cell.test_cases for other in beside if other.setting == cell.setting)


def _about(note: str) -> str:
    """The setting that a note begins with."""
    return note.split(": ")[0]


def _order(cell: Cell) -> tuple[Any, ...]:
    return Setting.parse(cell.setting).order, cell.seed, method_order(cell.choice.text)
