"""Segment a folder of scans, and record how."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from diffatlas_pipeline import console
from diffatlas_pipeline.api.given_labels import find_drawings
from diffatlas_pipeline.atlases.segmenter import Segmenter
from diffatlas_pipeline.datasets.codes import shown_classes
from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.datasets.label_entries import labels_entry
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.inference.batch import CaseOutcome, Wanted, predict_cases
from diffatlas_pipeline.inference.dicom_inputs import FoundSeries
from diffatlas_pipeline.inference.dicom_output import DicomOutput
from diffatlas_pipeline.inference.dicom_seg import Author
from diffatlas_pipeline.inference.earlier import Decision, decide, differ, digest_of_file
from diffatlas_pipeline.inference.export import Destination, check_output, read_record, write_record
from diffatlas_pipeline.inference.for_viewers import (
    ITKSNAP,
    SLICER,
    itksnap_labels,
    slicer_table,
    volumes_table,
    write_beside,
)
from diffatlas_pipeline.inference.memory import in_words, largest_scan, need_of_scan
from diffatlas_pipeline.inference.parts import Part, alone, entries_of, finishing
from diffatlas_pipeline.inference.predictor import NOT_LEARNT
from diffatlas_pipeline.inference.result import Maps
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.models.versions import versions

SHARE_FOR_RECORDS = 0.05  # of the time, at most, is spent on writing the record: with few cases, after each of them


@dataclass(frozen=True)
class FolderResult:
    """What became of each case, where that is recorded, and whether kept segmentations were made otherwise: edited
    ones, or in another precision.
    """

    outcomes: tuple[CaseOutcome, ...]
    record: Path
    kept_differ: bool = False

    def of(self, status: str) -> tuple[CaseOutcome, ...]:
        """The cases that were "segmented", "kept" or "failed"."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == status)


class FolderPrediction:
    """``cases``, or a ``part`` of them, on their way into ``output``. Raises UserError."""

    def __init__(
        self,
        model: ModelFolder,
        segmenter: Segmenter,
        cases: Sequence[CaseFiles],
        output: Path,
        maps: Maps,
        overwrite: bool = False,
        warnings: tuple[str, ...] = (),
        given_labels: Path | None = None,
        statistics: bool = False,
        dicom: Sequence[str] = (),
        skipped: Sequence[FoundSeries] = (),
        part: Part | None = None,
    ) -> None:
        plan = segmenter.plan
        self._model, self.segmenter, self._overwrite, self._statistics = model, segmenter, overwrite, statistics
        self.cases, self.part, self.total = tuple(cases), part, len(cases)
        self._given_labels, self.drawings = given_labels, {} if given_labels is None else self._find_drawings(given_labels)
        if maps.reconstruction:
            segmenter.check_reconstructs()
        if maps.uncertainty and not segmenter.predictor.error_curves:
            warnings = (*warnings, "The uncertainty is as the model says it: no validation cases have told how often it errs.")
        if maps.probabilities and not segmenter.predictor.knows_sharpness:
            warnings = (*warnings, "The probabilities are as sharp as in training: no validation cases have told how sharp.")
        self.warnings, self._maps = warnings, maps
        self.destination, self._skipped = Destination.of(output, plan.dataset.file_ending, self.cases), tuple(skipped)
        self._dicom = DicomOutput(tuple(dicom), self.destination, plan.dataset.labels, self._author(), overwrite)
        self._dicom.check(self.cases)
        check_output(self.destination, self.cases)
        if part is not None:
            if self.destination.file is not None:
                raise UserError(f"`output` {output}: one file, but several parts are asked for. Give a folder.")
            self.cases = tuple(part.of(cases))
            own = {files.case for files in self.cases}
            self.drawings = {case: path for case, path in self.drawings.items() if case in own}

    @property
    def memory(self) -> str | None:
        """A sentence about the memory that the largest scan takes; None if no scan can be read."""
        largest = largest_scan(self.cases)
        if largest is None:
            return None
        files, grid = largest
        predictor = self.segmenter.predictor
        return in_words(files.case, grid, need_of_scan(predictor.plan, predictor.recipe, grid))

    def run(self) -> FolderResult:
        """Segment the cases; one that cannot be read, segmented or written fails alone.

        UserError if another process is segmenting the same into the same folder.
        """
        with alone(self.destination.folder, self.part):
            return self._run()

    def _run(self) -> FolderResult:
        before = read_record(self.destination.record)
        self._check_kept(before)
        old, start = self._entries(before), time.perf_counter()
        next_record, made_with = start, {files.case: _as_json(self._made_with(files.case)) for files in self.cases}
        decisions = {files.case: self._decision(files, old.get(files.case), made_with[files.case]) for files in self.cases}
        if otherwise := sum(decision.made_otherwise for decision in decisions.values()):
            console.say(f"{otherwise} case(s) were made with another model or other settings: they are segmented again.")
        warned = {case: (decision.warning,) if decision.warning else () for case, decision in decisions.items()}
        kept = [files for files in self.cases if decisions[files.case].is_kept]
        todo = [files for files in self.cases if not decisions[files.case].is_kept]
        dicom, names = replace(self._dicom, known=old), {files.case for files in kept}
        outcomes: dict[str, CaseOutcome] = {}

        record = self.destination.record if self.part is None else self.destination.folder / self.part.record

        def write() -> None:
            so_far = [outcomes[files.case] for files in self.cases if files.case in outcomes]
            write_record(record, self._record(so_far, names, old, made_with, time.perf_counter() - start))

        def told(outcome: CaseOutcome) -> None:
            nonlocal next_record
            outcomes[outcome.case] = replace(outcome, warnings=(*warned[outcome.case], *outcome.warnings))
            if (begun := time.perf_counter()) >= next_record:
                write()
                next_record = begun + (time.perf_counter() - begun) / SHARE_FOR_RECORDS

        try:
            for files in console.each(kept, "Writing DICOM", len(kept), "cases", quiet=not dicom.kinds):
                outcomes[files.case] = self._kept(files, dicom, warned[files.case])
            predict_cases(self.segmenter, todo, Wanted(self.destination, self._maps, self.drawings, dicom), told=told)
        finally:  # also of what was done before an interruption
            write()
        with finishing(self.destination.folder, self.part):
            self._write_for_others()
        other = any(differ(old[files.case]["made_with"], made_with[files.case]) for files in kept if files.case in old)
        return FolderResult(tuple(outcomes[files.case] for files in self.cases), self.destination.record, other)

    def _kept(self, files: CaseFiles, dicom: DicomOutput, warnings: tuple[str, ...]) -> CaseOutcome:
        """The outcome of a case whose segmentation is kept: DICOM objects that it lacks are made from that."""
        try:
            written = dicom.write(files, fresh=False)
        except Exception as error:  # of the libraries, too: it costs its own case
            known = dicom.known.get(files.case) or {}
            return CaseOutcome(
                files.case, "failed", str(error) or type(error).__name__, warnings, dicom=known.get("dicom") or {}
            )
        return CaseOutcome(files.case, "kept", warnings=(*warnings, *written.warnings), dicom=written.files)

    def _author(self) -> Author:
        predictor = self.segmenter.predictor
        settings = {"method": predictor.method.name, "recipe": self._model.recipe, "folds": " ".join(predictor.folds)}
        return Author(predictor.plan.dataset.name, settings)

    def _write_for_others(self) -> None:
        """Names and colours of the labels for viewers, beside the segmentations in a folder; volumes if asked for."""
        labels, destination = self.segmenter.plan.dataset.labels, self.destination
        if destination.file is None:
            shown = shown_classes(labels)
            tables = {SLICER: slicer_table(shown), ITKSNAP: itksnap_labels(shown)}
            write_beside({destination.folder / name: text for name, text in tables.items()})
        if self._statistics:
            volumes = volumes_table(read_record(destination.record).get("cases") or {})
            write_beside({destination.volumes: volumes})

    def _decision(self, files: CaseFiles, known: Mapping[str, Any] | None, made_with: Mapping[str, Any]) -> Decision:
        return Decision(False) if self._overwrite else decide(files, self.destination.labels(files), known, made_with)

    def _entries(self, before: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What the record says by case; of one scan, or a part, whatever else was there."""
        alone_there = self.destination.file is None and self.part is None
        only = None if alone_there else {files.case for files in self.cases}
        found = entries_of(before, list(self._made_with()))
        return {case: _of_today(entry) for case, entry in found.items() if only is None or case in only}

    def _made_with(self, case: str | None = None) -> dict[str, Any]:
        """What a segmentation depends on beside its scan; of one ``case`` also what is drawn of it."""
        predictor, use = self.segmenter.predictor, self.segmenter.use
        drawing = {} if case is None else {"drawing": digest_of_file(self.drawings[case]) if case in self.drawings else ""}
        return {
            **drawing,
            "model": str(self._model.named),
            "folds": list(predictor.folds),
            "settings": asdict(predictor.recipe),
            "seed": predictor.seed,
            "adapt_contrast": use.adapt,
            "with_atlases": use.late_fusion,
            "given_labels": None if self._given_labels is None else str(self._given_labels.resolve()),
            "postprocessing": predictor.postprocessing,
            "low_resolution": predictor.looks_first,
            "weights": list(predictor.weights),
            "modality": self.segmenter.modality,
            "precision": predictor.precision,
        }

    def _find_drawings(self, source: Path) -> dict[str, Path]:
        """What is drawn of which case. UserError if drawings belong to no case."""
        if not self.segmenter.predictor.method.drawn_channels:
            console.say(f"Drawings: {NOT_LEARNT}. All else that is drawn is kept.")
        return find_drawings(source, self.cases)

    def _check_kept(self, before: dict[str, Any]) -> None:
        """UserError if the one file that is asked for is there, and is not of the scan: its name does not tell."""
        file = self.destination.file
        if file is None or not file.exists() or self._overwrite:
            return
        if (case := self.cases[0].case) not in before.get("cases", {}):
            raise UserError(f"{file}: is there, but not as the segmentation of '{case}'. Give `overwrite` to replace it.")

    def _record(
        self,
        outcomes: Iterable[CaseOutcome],
        kept: Collection[str],
        old: Mapping[str, Any],
        made_with: Mapping[str, Mapping[str, Any]],
        wall_s: float,
    ) -> dict[str, Any]:
        """What prediction.json says: of ``kept`` segmentations what the earlier run said, of others what they were
        ``made_with``.
        """
        predictor = self.segmenter.predictor
        made = {}
        for outcome in outcomes:
            entry = {key: value for key, value in asdict(outcome).items() if key != "case"}
            if outcome.case not in kept:
                made[outcome.case] = entry | {"made_with": made_with[outcome.case]}
                continue
            known = old.get(outcome.case, entry | {"made_with": None})
            now = "failed" in (outcome.status, known.get("status"))  # then, or by its DICOM objects now
            made[outcome.case] = {**known, **({"status": outcome.status, "message": outcome.message} if now else {})}
            made[outcome.case]["dicom"] = outcome.dicom
        return {
            **self._made_with(),
            "dataset": predictor.plan.dataset.name,
            **labels_entry(predictor.plan.dataset),
            "method": predictor.method.name,
            "recipe": self._model.recipe,
            "device": str(predictor.device),
            "versions": versions(),
            "wall_s": wall_s,
            "skipped": [{"path": str(one.path), "files": len(one.files), "reason": one.reason} for one in self._skipped],
            "cases": {**old, **made},
        }


def _of_today(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of the record; segmentations of earlier releases were not post-processed, and made as a whole, and of
    what was drawn nothing is known.
    """
    made_with = entry["made_with"]
    if made_with is None:
        return entry
    added = {"postprocessing": {}, "low_resolution": False, "drawing": "unknown" if made_with.get("given_labels") else ""}
    return {**entry, "made_with": made_with | {name: before for name, before in added.items() if made_with.get(name) is None}}


def _as_json(value: Any) -> Any:
    """As it reads back from a file: tuples become lists."""
    return json.loads(json.dumps(value))
