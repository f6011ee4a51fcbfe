"""Segment a folder of scans, and record how."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from diffatlas_pipeline.api.given_labels import find_drawings
from diffatlas_pipeline.atlases.segmenter import Segmenter
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.inference.batch import CaseOutcome, Wanted, predict_cases
from diffatlas_pipeline.inference.export import Destination, check_output, find_cases, read_record, write_record
from diffatlas_pipeline.inference.result import Maps
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.models.versions import versions

# What a kept segmentation must have been made with, too.
_SETTINGS = ("model", "folds", "settings", "seed", "adapt_contrast", "with_atlases", "given_labels")


@dataclass(frozen=True)
class FolderResult:
    """What became of each case, where that is recorded, and whether kept segmentations were made with other
    settings.
    """

    outcomes: tuple[CaseOutcome, ...]
    record: Path
    kept_differ: bool = False

    def of(self, status: str) -> tuple[CaseOutcome, ...]:
        """The cases that were "segmented", "kept" or "failed"."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == status)


class FolderPrediction:
    """The cases of ``source``, found and checked, on their way into ``output``. Raises UserError."""

    def __init__(
        self,
        model: ModelFolder,
        segmenter: Segmenter,
        source: Path,
        output: Path,
        maps: Maps,
        overwrite: bool = False,
        warnings: tuple[str, ...] = (),
        given_labels: Path | None = None,
    ) -> None:
        plan = segmenter.plan
        self._model, self.segmenter, self._overwrite = model, segmenter, overwrite
        self.cases = find_cases(source, len(plan.channels), segmenter.predictor.method.needs_all_channels)
        self._given_labels, self.drawings = given_labels, {} if given_labels is None else self._find_drawings(given_labels)
        if maps.reconstruction:
            segmenter.check_reconstructs()
        if maps.uncertainty and not segmenter.predictor.error_curves:
            warnings = (*warnings, "The uncertainty is as the model says it: no validation cases have told how often it errs.")
        self.warnings, self._maps = warnings, maps
        self.destination = Destination.of(output, plan.dataset.file_ending, self.cases)
        check_output(self.destination, self.cases)

    def run(self) -> FolderResult:
        """Segment the cases; one that cannot be read, segmented or written fails alone."""
        before = read_record(self.destination.record)
        self._check_kept(before)
        start = time.perf_counter()
        wanted = Wanted(self.destination, self._overwrite, self._maps, self.drawings)
        outcomes = self._compared(predict_cases(self.segmenter, self.cases, wanted), before)
        record = self._record(outcomes, before, time.perf_counter() - start)
        write_record(self.destination.record, record)
        kept = any(outcome.status == "kept" for outcome in outcomes)
        differ = kept and bool(before) and any(before.get(key) != _as_json(record[key]) for key in _SETTINGS)
        return FolderResult(tuple(outcomes), self.destination.record, differ)

    def _find_drawings(self, source: Path) -> dict[str, Path]:
        """What is drawn of which case. UserError if the model cannot complete drawings, or they belong to no case."""
        self.segmenter.predictor.check_takes_drawings()
        return find_drawings(source, self.cases)

    def _compared(self, outcomes: list[CaseOutcome], before: dict[str, Any]) -> list[CaseOutcome]:
        """``outcomes`` with a warning of each kept segmentation that was made from other channels than are there
        now.
        """
        old, plan = before.get("cases", {}), self.segmenter.plan
        compared = []
        for outcome, files in zip(outcomes, self.cases, strict=True):
            then = old.get(outcome.case, {}).get("generated_channels", [])  # earlier releases refused what lacks channels
            now = [plan.channels[c].name for c in files.missing]
            if outcome.status == "kept" and outcome.case in old and then != now:
                said = " and ".join(f"{', '.join(names) or 'none'} {word}" for names, word in ((then, "then"), (now, "now")))
                warning = f"its segmentation was kept, but other channels were missing: {said}. `overwrite` segments it again"
                outcome = replace(outcome, warnings=(*outcome.warnings, warning))
            compared.append(outcome)
        return compared

    def _check_kept(self, before: dict[str, Any]) -> None:
        """UserError if the one file that is asked for is there, and is not of the scan: its name does not tell."""
        file, case = self.destination.file, self.cases[0].case
        if file is not None and file.exists() and not self._overwrite and case not in before.get("cases", {}):
            raise UserError(f"{file}: is there, but not as the segmentation of '{case}'. Give `overwrite` to replace it.")

    def _record(self, outcomes: list[CaseOutcome], before: dict[str, Any], wall_s: float) -> dict[str, Any]:
        """What prediction.json says; kept cases keep what the earlier run said of them."""
        predictor, use = self.segmenter.predictor, self.segmenter.use
        old = before.get("cases", {})
        if self.destination.file is not None:  # of one scan, whatever was there before
            old = {case: entry for case, entry in old.items() if case == self.cases[0].case}
        kept = {outcome.case for outcome in outcomes if outcome.status == "kept"}
        made = {outcome.case: {key: value for key, value in asdict(outcome).items() if key != "case"} for outcome in outcomes}
        return {
            "model": str(self._model.named),
            "dataset": predictor.plan.dataset.name,
            "labels": {"background": 0, **{label.name: label.value for label in predictor.plan.dataset.labels}},
            "folds": list(predictor.folds),
            "method": predictor.method.name,
            "recipe": self._model.recipe,
            "settings": asdict(predictor.recipe),
            "seed": predictor.seed,
            "modality": self.segmenter.modality,
            "device": str(predictor.device),
            "precision": predictor.precision,
            "versions": versions(),
            "wall_s": wall_s,
            "cases": {**old, **{case: old.get(case, entry) if case in kept else entry for case, entry in made.items()}},
            "adapt_contrast": use.adapt,
            "with_atlases": use.late_fusion,
            "given_labels": None if self._given_labels is None else str(self._given_labels.resolve()),
        }


def _as_json(value: Any) -> Any:
    """As it reads back from a file: tuples become lists."""
    return json.loads(json.dumps(value))
