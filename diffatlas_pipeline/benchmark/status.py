"""What is done of a benchmark, in memory and in benchmark.json, and which earlier results may stand beside new ones."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffatlas_pipeline.benchmark.cells import Cell
from diffatlas_pipeline.benchmark.choices import MethodChoice, Setting, method_order
from diffatlas_pipeline.benchmark.record import DONE, FILE, WAITING, Benchmark, CellRecord, TrainedWith, read_benchmark
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import to_json, write_text_atomically
from diffatlas_pipeline.models.folder import WEIGHTS


class Status:
    """The benchmark of a folder as far as it is done; None if none was begun. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self.benchmark = read_benchmark(folder) if (folder / FILE).is_file() else None

    @property
    def records(self) -> tuple[CellRecord, ...]:
        return self.benchmark.cells if self.benchmark else ()

    @property
    def models(self) -> dict[str, TrainedWith]:
        return self.benchmark.models if self.benchmark else {}

    def record(self, cell: Cell) -> CellRecord | None:
        return next((record for record in self.records if record.key == cell.key), None)

    def is_done(self, cell: Cell) -> bool:
        """Whether the cell was finished with the same options, and its scores are still there."""
        record = self.record(cell)
        return record is not None and record.options == cell.options and record.status == DONE and self._has_scores(record)

    def model_matches(self, cell: Cell) -> bool | None:
        """Whether the model of ``cell`` was trained (or begun) with its options; None if there is none."""
        known = self.models.get(cell.model)
        if known is None and not (self.folder / cell.model).exists():
            return None
        return known == cell.training

    def is_trained(self, cell: Cell) -> bool:
        return bool(self.model_matches(cell)) and (self.folder / cell.model / WEIGHTS).is_file()

    def remove_models(self, cells: Sequence[Cell]) -> None:
        """Delete the models of ``cells`` that were trained with other options; of another plan, also those beside them."""
        for cell in cells:
            if self.model_matches(cell) is not False:
                continue
            place, known = Path(cell.model), self.models.get(cell.model)
            if known is None or known.recipe != cell.training.recipe:
                place = place.parent
            shutil.rmtree(self.folder / place, ignore_errors=True)
            for name in [name for name in self.models if Path(name).is_relative_to(place)]:
                del self.models[name]

    def begin(self, asked: Benchmark, cells: Sequence[Cell]) -> int:
        """Take up ``cells`` as they are done or waiting, after them the cells of earlier runs that still fit.

        ``asked`` has everything but cells and models. Returns how many finished or failed cells no longer fit beside these
        and are left out.
        """
        wanted = {cell.key for cell in cells}
        records = []
        for cell in cells:
            old = self.record(cell)  # what predictions there are were made with the options that it had
            waiting = replace(cell.record(), predicted=old.predicted if old else None)
            records.append(old if old is not None and self.is_done(cell) else waiting)
        others = [record for record in self.records if record.key not in wanted and record.status != WAITING]
        kept = [record for record in others if self._fits(record, cells)]
        methods = {*asked.methods, *(record.choice.text for record in kept)}
        settings = {*asked.settings, *(record.setting for record in kept)}
        earlier = [note for note in (self.benchmark.notes if self.benchmark else ()) if _about(note) in settings]
        notes = [*asked.notes, *(note for note in earlier if _about(note) not in asked.settings)]
        self.benchmark = replace(
            asked,
            methods=tuple(sorted(methods, key=method_order)),
            settings=tuple(sorted(settings, key=lambda text: Setting.parse(text).order)),
            seeds=tuple(sorted({*asked.seeds, *(record.seed for record in kept)})),
            notes=tuple(dict.fromkeys(notes)),
            models=self.models,
            cells=tuple(sorted([*records, *kept], key=_order)),
        )
        self.write()
        return len(others) - len(kept)

    def update(self, cell: Cell, **fields: Any) -> None:
        with self._lock:
            assert self.benchmark is not None  # begin() made it
            changed = [replace(one, **fields) if one.key == cell.key else one for one in self.records]
            self.benchmark = replace(self.benchmark, cells=tuple(changed))
            self.write()

    def note_model(self, cell: Cell) -> None:
        """Record what the model of ``cell`` is trained with."""
        with self._lock:
            self.models[cell.model] = cell.training
            self.write()

    def write(self) -> None:
        with self._lock:
            try:
                write_text_atomically(self.folder / FILE, to_json(self.benchmark))
            except OSError as error:
                raise UserError(
                    f"{self.folder}: cannot be written ({error.strerror or error}). Mend it, or give another `output`."
                ) from error

    def _has_scores(self, record: CellRecord) -> bool:
        return (self.folder / record.evaluation / "summary.json").is_file()

    def _fits(self, record: CellRecord, cells: Sequence[Cell]) -> bool:
        """Whether a cell of an earlier run can stand in one table with ``cells``."""
        conditions, training = cells[0].conditions, record.options.training
        trained = MethodChoice(record.method, record.choice.trained).text
        same = (
            training.max_time_s == conditions.max_time_s
            and training.plan == conditions.plan
            and training.recipe == conditions.recipes.get(trained)
            and training.device == conditions.device
            and record.options.tolerance_mm == conditions.tolerance_mm
            and self.models.get(record.model) == training
            and (record.status != DONE or self._has_scores(record))
        )
        return same and all(cell.test.names == record.test_cases for cell in cells if cell.setting == record.setting)


def _about(note: str) -> str:
    """The setting that a note begins with."""
    return note.split(": ")[0]


def _order(record: CellRecord) -> tuple[Any, ...]:
    return Setting.parse(record.setting).order, record.seed, method_order(record.choice.text)
