"""Run a cell by commands: train the model unless it is there, predict, evaluate. A failure ends its cell only."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffatlas_pipeline.benchmark.record import DONE, FAILED, Cell
from diffatlas_pipeline.benchmark.settings import PreparedSetting
from diffatlas_pipeline.benchmark.status import Status
from diffatlas_pipeline.inference.export import RECORD, read_record
from diffatlas_pipeline.models.folder import ModelFolder

REGISTRATIONS = "registrations"  # what cells that register the same training scans share
LONGEST_MESSAGE = 400

Do = Callable[[str, Sequence[str], Path], int]
"""Runs a command with its arguments, adds what it prints to a file, returns its exit code."""


class CellFailed(Exception):
    """A command of a cell failed; the message says which and why."""


@dataclass
class Runner:
    """Runs cells of the benchmark in ``status``.

    ``do`` runs a command; ``settings`` by their text; ``test_sets``: the folders with the test cases by data set;
    ``device`` as the user gave it; ``workers`` score at the same time.
    """

    status: Status
    do: Do
    settings: Mapping[str, PreparedSetting]
    test_sets: Mapping[str, Path]
    device: str
    labels_json: Path
    workers: int
    _broken: dict[str, str] = field(default_factory=dict)  # models whose training failed, and why

    def run(self, cell: Cell) -> Cell:
        """Run a cell, and record in ``status`` what came of it; returns that."""
        wall: dict[str, float] = {}
        try:
            done = self._one(cell, wall)
        except CellFailed as error:
            return self.status.update(cell, status=FAILED, message=str(error), wall_seconds=wall)
        return self.status.update(cell, status=DONE, message="", wall_seconds=wall, **done)

    def _one(self, cell: Cell, wall: dict[str, float]) -> dict[str, Any]:
        """Train unless it is done, predict, evaluate; what benchmark.json is to say of it. ``wall`` is given the
        seconds.
        """
        folder, options = self.status.folder, cell.options
        log, predictions, fold = folder / cell.log, folder / cell.predictions, folder / cell.model
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        self._train(cell, fold, log, wall)
        before = self.status.known(cell)
        if "train" in wall or before is None or before.predicted != options.predicted:
            shutil.rmtree(predictions, ignore_errors=True)  # of another model
        self.status.update(cell, predicted=options.predicted)
        place = self.test_sets[options.test_dataset]
        predict = ["-i", str(place / "imagesTs"), "-o", str(predictions), "-m", str(fold.parent), "-f", fold.name]
        predict += ["--seed", str(cell.seed), "--device", self.device]
        predict += ["--modality", options.modality] if options.modality else []
        predict += [] if options.adapted else ["--adapt-contrast", "off"]
        predict += ["--with-atlases" if options.with_atlases else "--no-with-atlases"]
        # No option of the cell: the segmentations are the same without it, so finished cells need not be run again for
        # it.
        predict += ["--save-uncertainty"]
        predict += ["--registrations", str(folder / REGISTRATIONS)]
        self._step("predict", predict, log, wall)
        evaluate = ["-p", str(predictions), "-r", str(place / "labelsTs"), "-o", str(folder / cell.evaluation)]
        evaluate += ["--tolerance-mm", str(options.tolerance_mm), "--labels", str(self.labels_json)]
        self._step("evaluate", [*evaluate, "--workers", str(self.workers)], log, wall)
        taken = {"train_seconds": ModelFolder(fold.parent).remembered(fold.name).get("seconds")}
        return {**taken, "seconds_per_case": seconds_per_case(predictions, cell.test_cases)}

    def _train(self, cell: Cell, fold: Path, log: Path, wall: dict[str, float]) -> None:
        if cell.model in self._broken:
            raise CellFailed(self._broken[cell.model])
        if self.status.is_trained(cell):
            return
        self.status.note_model(cell)
        training, splits_file = cell.options.training, self.settings[cell.setting].pools[cell.seed].splits_file
        train = [fold.parent.parent.name, training.split, "--method", cell.method, "--recipe", cell.choice.trained]
        train += ["--seed", str(cell.seed), "--device", self.device, "--no-validation"]
        train += [] if training.max_time_s is None else ["--max-time", f"{training.max_time_s:g}s"]
        train += ["--splits-file", str(splits_file)] if splits_file else []
        try:
            self._step("train", train, log, wall)
            if not ModelFolder(fold.parent).is_trained(fold.name):
                raise CellFailed(f"training left no weights in {cell.model}")
        except CellFailed as error:
            self._broken[cell.model] = str(error)
            raise

    def _step(self, command: str, words: Sequence[str], log: Path, wall: dict[str, float]) -> None:
        start = time.monotonic()
        code = self.do(command, words, log)
        wall[command] = round(time.monotonic() - start, 2)
        if code:
            raise CellFailed(f"DiffAtlas_{command}: {reason(log, code)}")


def reason(log: Path, code: int) -> str:
    """Why a command failed: its error message, else the last line that it printed, else its exit code."""
    if code < 0:
        return f"killed by signal {-code}, most often by the system for lack of memory"
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n") if log.is_file() else ""
    said = re.findall(r"^Error: (.*(?:\n  .*)*)", text, re.MULTILINE) or text.strip().splitlines() or [f"exit code {code}"]
    last = " ".join(said[-1].split())
    return last if len(last) <= LONGEST_MESSAGE else f"{last[:LONGEST_MESSAGE]} ..."


def seconds_per_case(predictions: Path, names: Iterable[str]) -> float | None:
    """Mean over the cases ``names`` of the seconds of all stages; a cached registration counts in full."""
    cases = read_record(predictions / RECORD).get("cases") or {}
    taken = [sum(cases[name]["seconds"].values()) for name in names if cases.get(name, {}).get("seconds")]
    return round(sum(taken) / len(taken), 4) if taken else None
