"""Segment many cases: the next one is read and prepared, and the previous one written, while one is being sampled."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from diffatlas_pipeline import console
from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.inference.dicom_output import DicomOutput
from diffatlas_pipeline.inference.earlier import digest_of_file, digest_of_scan
from diffatlas_pipeline.inference.export import Destination, write_result
from diffatlas_pipeline.inference.familiarity import Familiarity
from diffatlas_pipeline.inference.result import Maps, Result
from diffatlas_pipeline.inference.volume_intervals import AreaEstimate, VolumeErrors, VolumeEstimate, estimates, volumes_ml
from diffatlas_pipeline.methods.base import PlannedSegmentation, Progress
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.volumes.channels import lacking
from diffatlas_pipeline.volumes.grids import LabelVolume, Volume
from diffatlas_pipeline.volumes.io import read_labels, read_volume

STAGES = ("read", "prepare", "register", "sample", "compare", "reconstruct", "restore", "write")
T = TypeVar("T")


@dataclass(frozen=True)
class CaseOutcome:
    """What became of one case: "segmented", "kept" (its output was there) or "failed", and the seconds of each stage.

    ``network_share`` is how much the network counted beside atlases, None without any. ``familiarity`` tells how far
    the scan lies from what the model has learnt, None if that is not known. ``volumes`` are those of the segmentation
    by label, with intervals where held-out cases tell how far they may be off, and the scan is no foreign one.
    ``generated_channels`` are the names of those that the scan lacked. ``input`` and ``output`` are digests of the scan
    and of the segmentation as they were. ``dicom`` are the DICOM objects beside it, by kind.
    """

    case: str
    status: str
    message: str = ""
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    network_share: float | None = None
    familiarity: Familiarity | None = None
    volumes: dict[str, VolumeEstimate | AreaEstimate] = field(default_factory=dict)
    generated_channels: tuple[str, ...] = ()
    input: str = ""
    output: str = ""
    dicom: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What to write where. ``drawings`` are files with a part of the labels of some cases, which are to be kept.

    ``look`` is shown each case, what was found on the planned grid, and what was prepared.
    """

    destination: Destination
    maps: Maps = field(default_factory=Maps)
    drawings: Mapping[str, Path] = field(default_factory=dict)
    dicom: DicomOutput | None = None
    look: Callable[[CaseFiles, PlannedSegmentation, Any], None] | None = None


class CaseSegmenter(Protocol):
    """Segments one case in three stages; the first and the last may run in other threads than the second.

    What ``prepare`` returns has the seconds ``register_s`` that registration took, in it or, if ``kept``, at an earlier
    time.
    """

    @property
    def plan(self) -> Plan: ...

    def prepare(self, volume: Volume, drawing: LabelVolume | None = None) -> Any: ...

    def is_large(self, scan: Any) -> bool: ...

    def segment(self, scan: Any, progress: Progress | None = None) -> PlannedSegmentation: ...

    def familiarity(self, segmentation: PlannedSegmentation, scan: Any) -> Familiarity | None: ...

    def volume_errors(self, segmentation: PlannedSegmentation, scan: Any) -> VolumeErrors | None: ...

    def reconstructed(self, segmentation: PlannedSegmentation, scan: Any) -> PlannedSegmentation: ...

    def restore(self, segmentation: PlannedSegmentation, scan: Any, maps: Maps) -> Result: ...


def predict_cases(
    segmenter: CaseSegmenter,
    cases: Sequence[CaseFiles],
    wanted: Wanted,
    quiet: bool = False,
    told: Callable[[CaseOutcome], None] | None = None,
) -> list[CaseOutcome]:
    """Segment ``cases`` into ``wanted.destination``, one outcome each, in order; ``told`` hears of each when it is
    done.

    What is there is replaced. Beside a scan that is large nothing else is read, prepared or written. A case that cannot
    be read, segmented or written fails alone, whatever the reason; the others are still done.
    """
    outcomes = _Outcomes(told)
    exporting: Future[CaseOutcome] | None = None
    bar = console.bar("Segmenting", max(1, len(cases)), quiet=quiet)
    with bar, ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:

        def read(index: int) -> Future[_Loaded] | None:
            if index == len(cases):
                return None
            return reader.submit(_load, segmenter, cases[index], wanted.drawings.get(cases[index].case))

        def settled(export: Future[CaseOutcome] | None) -> None:
            if export is not None:
                outcomes.note(export.result())

        loading = read(0)
        try:
            for index, files in enumerate(cases):
                bar.to(bar.done, files.case)
                assert loading is not None
                loaded, error = _tried(loading.result)
                lone = loaded is not None and segmenter.is_large(loaded.prepared)
                loading = None if lone else read(index + 1)
                if lone:
                    settled(exporting)
                    exporting = None
                made = None
                if loaded is not None:
                    made, error = _tried(partial(_make, segmenter, loaded, wanted.maps, _moving(bar, index)))
                if loaded is None or made is None:
                    outcomes.note(_failed(files.case, error))
                else:
                    settled(exporting)  # one result in memory at a time
                    exporting = writer.submit(_finish, segmenter, files, loaded, made, wanted)
                if lone:
                    del loaded, made
                    settled(exporting)
                    exporting, loading = None, read(index + 1)
        finally:  # what is being written when the work is interrupted is done, too
            settled(exporting)
        bar.to(bar.total)
    return [outcomes.by_case[files.case] for files in cases]


def _tried(work: Callable[[], T]) -> tuple[T, None] | tuple[None, Exception]:
    """What ``work`` returns, or why it could not."""
    try:
        return work(), None
    except Exception as error:
        return None, error


def _make(segmenter: CaseSegmenter, loaded: _Loaded, maps: Maps, progress: Progress) -> _Made:
    """Segment what was loaded, and compare it with what the model has learnt."""
    seconds, start = dict(loaded.seconds), time.perf_counter()
    segmentation = segmenter.segment(loaded.prepared, progress)
    seconds["sample"] = (sampled := time.perf_counter()) - start
    familiarity = segmenter.familiarity(segmentation, loaded.prepared)
    compared = time.perf_counter()
    if familiarity is not None:
        seconds["compare"] = compared - sampled
    if maps.reconstruction:
        segmentation = segmenter.reconstructed(segmentation, loaded.prepared)
        seconds["reconstruct"] = time.perf_counter() - compared
    return _Made(segmentation, familiarity, seconds)


def _failed(case: str, error: Exception | None) -> CaseOutcome:
    """What is told of a case that failed; a fault that is not the user's to mend shows where it happened."""
    if isinstance(error, UserError):
        return CaseOutcome(case, "failed", str(error))
    if isinstance(error, MemoryError):
        return CaseOutcome(case, "failed", f"there is not enough memory for it ({error}). Close other programs, or crop it.")
    assert error is not None
    print(f"{case}: a fault of this program:", file=sys.stderr)
    traceback.print_exception(error, file=sys.stderr)
    return CaseOutcome(case, "failed", f"a fault of this program ({type(error).__name__}: {error}). Please report it.")


def timing_table(outcomes: Sequence[CaseOutcome]) -> str:
    """Mean and largest seconds per case of every stage; cases overlap, so the wall time is less than the sum."""
    done = [outcome.seconds for outcome in outcomes if outcome.seconds]
    if not done:
        return ""
    lines = [f"{'stage':<12}{'s/case':>8}{'longest':>9}"]
    for stage in STAGES:
        times = [seconds.get(stage, 0.0) for seconds in done]
        if stage in ("register", "compare", "reconstruct") and not any(times):
            continue  # it was not asked for, or there is nothing to compare with
        lines.append(f"{stage:<12}{sum(times) / len(times):>8.2f}{max(times):>9.2f}")
    total = [sum(seconds.values()) for seconds in done]
    lines.append(f"{'total':<12}{sum(total) / len(total):>8.2f}{max(total):>9.2f}")
    return "\n".join(lines)


class _Outcomes:
    """What became of the cases so far."""

    def __init__(self, told: Callable[[CaseOutcome], None] | None) -> None:
        self.by_case: dict[str, CaseOutcome] = {}
        self._told = told

    def note(self, outcome: CaseOutcome) -> None:
        self.by_case[outcome.case] = outcome
        if self._told is not None:
            self._told(outcome)


@dataclass(frozen=True)
class _Loaded:
    volume: Volume
    prepared: Any
    seconds: dict[str, float]
    digest: str


@dataclass(frozen=True)
class _Made:
    """A segmentation on the planned grid, how familiar its scan is, and the seconds of each stage so far."""

    segmentation: PlannedSegmentation
    familiarity: Familiarity | None
    seconds: dict[str, float]


def _load(segmenter: CaseSegmenter, files: CaseFiles, drawing: Path | None) -> _Loaded:
    digest = digest_of_scan(files)  # before reading: what changes meanwhile is seen next time
    (volume, drawn), read_s = _timed(lambda: (_read(files), None if drawing is None else read_labels(drawing)))
    prepared, prepare_s = _timed(lambda: segmenter.prepare(volume, drawn))
    seconds = {"read": read_s, "prepare": prepare_s}
    if prepared.register_s:
        now_s = 0.0 if prepared.kept else prepared.register_s
        seconds |= {"prepare": max(0.0, prepare_s - now_s), "register": prepared.register_s}
    # The way back needs the grid only: do not keep the voxels.
    return _Loaded(replace(volume, array=volume.array[:0]), prepared, seconds, digest)


def _read(files: CaseFiles) -> Volume:
    return lacking(read_volume(files.images), files.missing)


def _finish(
    segmenter: CaseSegmenter,
    files: CaseFiles,
    loaded: _Loaded,
    made: _Made,
    wanted: Wanted,
) -> CaseOutcome:
    outcome, error = _tried(lambda: _written(segmenter, files, loaded, made, wanted))
    if outcome is None:
        return _failed(files.case, error)
    return outcome if wanted.dicom is None else _with_dicom(wanted.dicom, files, outcome)


def _written(segmenter: CaseSegmenter, files: CaseFiles, loaded: _Loaded, made: _Made, wanted: Wanted) -> CaseOutcome:
    """Bring the segmentation back to the scan's grid and write it."""
    labels = segmenter.plan.dataset.labels
    if wanted.look is not None:
        wanted.look(files, made.segmentation, loaded.prepared)
    result, restore_s = _timed(lambda: segmenter.restore(made.segmentation, loaded.prepared, wanted.maps))
    foreign = made.familiarity and made.familiarity.warning
    warnings = (*result.warnings, foreign) if foreign else result.warnings
    errors = None if foreign else segmenter.volume_errors(made.segmentation, loaded.prepared)
    volumes = estimates(volumes_ml(result.labels, labels, loaded.volume.grid), errors, loaded.volume.grid.dimensions == 2)
    share = made.segmentation.network_share
    names = tuple(segmenter.plan.channels[c].name for c in files.missing)
    _, write_s = _timed(lambda: write_result(wanted.destination, files, result, loaded.volume.grid, labels))  # last
    digests = loaded.digest, digest_of_file(wanted.destination.labels(files))
    seconds = {**made.seconds, "restore": restore_s, "write": write_s}
    return CaseOutcome(files.case, "segmented", "", warnings, seconds, share, made.familiarity, volumes, names, *digests)


def _with_dicom(output: DicomOutput, files: CaseFiles, outcome: CaseOutcome) -> CaseOutcome:
    """Write the segmentation of ``outcome`` as DICOM, too; failed if that cannot be done, though it stays."""
    try:
        written, write_s = _timed(lambda: output.write(files, fresh=True))
    except Exception as error:
        return replace(outcome, status="failed", message=_failed(files.case, error).message)
    seconds = {**outcome.seconds, "write": outcome.seconds["write"] + write_s}
    return replace(outcome, seconds=seconds, warnings=(*outcome.warnings, *written.warnings), dicom=written.files)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _moving(bar: console.Progress, index: int) -> Callable[[float, int], None]:
    return lambda done, total: bar.to(index + done / total)
