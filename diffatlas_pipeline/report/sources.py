"""What a report is made of, read from a prediction folder or a benchmark folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffatlas_pipeline.benchmark.record import DONE, FAILED, Benchmark, Cell, read_benchmark
from diffatlas_pipeline.benchmark.run import seconds_per_case
from diffatlas_pipeline.datasets.cases import segmentation_files
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.datasets.label_entries import read_labels_entry
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.evaluate import Evaluation, labels_in, passed_over
from diffatlas_pipeline.evaluation.overlays import find_images, image_of
from diffatlas_pipeline.evaluation.stored import read_evaluation
from diffatlas_pipeline.inference.export import RECORD, UNCERTAINTY, read_record
from diffatlas_pipeline.volumes.io import FILE_ENDINGS, read_grid
from diffatlas_pipeline.volumes.size_unit import VOLUME, SizeUnit, size_unit


@dataclass(frozen=True)
class ModelRun:
    """One model on one set of cases: a cell of a benchmark, or a whole prediction folder (without a setting)."""

    key: str
    title: str
    method: str = ""
    setting: str = ""
    seed: int = 0
    evaluation: Evaluation | None = None
    evaluation_folder: Path | None = None
    logs: tuple[Path, ...] = ()  # log.csv of each fold


@dataclass(frozen=True)
class CaseSource:
    """The files of one scan: its image, its reference, and per run its segmentation and uncertainty."""

    title: str
    case: str
    image: Path | None
    reference: Path | None
    segmentations: tuple[tuple[str, Path], ...]  # (key of the run, file)
    uncertainties: tuple[tuple[str, Path], ...]


@dataclass(frozen=True)
class Source:
    """Everything that :func:`~diffatlas_pipeline.report.page.write_page` shows. ``facts`` are (name, value) for the
    head.

    ``folder`` is what was read; ``familiarity`` and ``intervals`` are by case what ``prediction.json`` says of how
    far the scan lies from what the model has learnt, and of how far the volumes may be off; ``benchmark`` is what it
    holds, if it is one, with a run for each of its cells.
    """

    folder: Path
    title: str
    facts: tuple[tuple[str, str], ...]
    labels: tuple[LabelClass, ...]
    runs: tuple[ModelRun, ...]
    cases: tuple[CaseSource, ...]
    notes: tuple[str, ...] = ()
    benchmark: Benchmark | None = None
    familiarity: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unit: SizeUnit = VOLUME
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)


def prediction_source(
    predictions: Path, evaluation: Evaluation | None, labels: Sequence[LabelClass], images: Path | None
) -> Source:
    """The source of a prediction folder; ``evaluation`` None without references. ImageError without any prediction."""
    record = read_record(predictions / RECORD)
    found = segmentation_files(predictions)
    references = {pair.case: pair.reference for pair in evaluation.pairs} if evaluation else {}
    if images is None and references:
        images = find_images(next(iter(references.values())))
    cases = []
    for case in sorted({*found, *references}):
        made = (("all", found[case]),) if case in found else ()
        files = (image_of(case, images), references.get(case), made, _uncertainties(made, case))
        cases.append(CaseSource(case, case, *files))
    name, dataset = predictions.resolve().name, record.get("dataset")
    run = ModelRun("all", name, str(record.get("method", "")), evaluation=evaluation, logs=_logs_of(record))
    notes = [*(evaluation.warnings if evaluation else passed_over(predictions)), *_record_notes(record)]
    if evaluation and evaluation.missing:
        meaning = "scored as empty" if evaluation.missing_rule == "empty" else "left out"
        notes.append(f"{len(evaluation.missing)} references without prediction were {meaning}: {', '.join(evaluation.missing)}")
    title = f"Segmentations of {dataset}" if dataset else f"Segmentations in {name}"
    facts = tuple(_record_facts(predictions, record, found))
    unit = evaluation.unit if evaluation else size_unit(read_grid(next(iter(found.values()))).dimensions)
    return Source(
        predictions,
        title,
        facts,
        tuple(labels),
        (run,),
        tuple(cases),
        tuple(notes),
        familiarity=_familiarity(record),
        unit=unit,
        intervals=_intervals(record, unit),
    )


def benchmark_source(folder: Path) -> Source:
    """The source of a folder of DiffAtlas_benchmark. UserError if its benchmark.json is missing or not usable."""
    benchmark, notes = read_benchmark(folder), list[str]()
    runs = tuple(_run_of(folder, index, record, notes) for index, record in enumerate(benchmark.cells))
    facts = [
        ("data set", benchmark.dataset),
        ("methods", ", ".join(benchmark.methods)),
        ("settings", ", ".join(benchmark.settings)),
        ("seeds", ", ".join(map(str, benchmark.seeds))),
    ]
    seconds = benchmark.max_time_s
    if seconds:
        facts.append(("training time per cell", f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:.4g} min"))
    named = tuple(LabelClass(name, value) for value, name in enumerate(benchmark.labels, 1))
    labels = next((run.evaluation.labels for run in runs if run.evaluation), named)
    title = f"Comparison on {benchmark.dataset}"
    return Source(folder, title, tuple(facts), labels, runs, _shared_cases(runs), tuple(notes), benchmark)


def labels_of(predictions: Path, workers: int = 1) -> tuple[LabelClass, ...]:
    """The labels that ``prediction.json`` names, else one per value above or below 0. DatasetError if there is none."""
    record = read_record(predictions / RECORD)
    if record.get("labels"):
        return read_labels_entry(record, predictions / RECORD).labels
    return labels_in(list(segmentation_files(predictions).values()), workers)


def _run_of(folder: Path, index: int, record: Cell, notes: list[str]) -> ModelRun:
    """A cell of the benchmark in ``folder``; ``notes`` is told what is missing."""
    scores, log, evaluation = folder / record.evaluation, folder / record.model / "log.csv", None
    if record.status == DONE:
        try:
            evaluation = read_evaluation(scores, folder)
        except UserError as error:
            notes.append(f"{record.title}: its scores cannot be shown. {error}")
    logs = (log,) if log.is_file() else ()
    named = (record.choice.text, record.setting, record.seed)
    return ModelRun(f"c{index}", record.title, *named, evaluation, scores, logs)


def _shared_cases(runs: Sequence[ModelRun]) -> tuple[CaseSource, ...]:
    """One entry per reference file, with the segmentations of all runs that were scored against it."""
    names: dict[Path, str] = {}
    made: dict[Path, list[tuple[str, Path]]] = {}
    for run in runs:
        for pair in run.evaluation.pairs if run.evaluation else ():
            reference = pair.reference.resolve()
            names[reference] = pair.case
            made.setdefault(reference, []).extend([(run.key, pair.prediction)] if pair.prediction else [])
    often = Counter(names.values())
    cases: list[CaseSource] = []
    for path, case in sorted(names.items(), key=lambda item: (item[1], str(item[0]))):
        title = case if often[case] == 1 else f"{case} ({path.parent.parent.name})"
        if title in {other.title for other in cases}:
            title = f"{case} ({path})"
        files = (image_of(case, find_images(path)), path, tuple(made[path]), _uncertainties(made[path], case))
        cases.append(CaseSource(title, case, *files))
    return tuple(cases)


def _uncertainties(segmentations: Sequence[tuple[str, Path]], case: str) -> tuple[tuple[str, Path], ...]:
    """(key of the run, file) of the uncertainty that lies with each of ``segmentations``, where there is one."""
    files = [(key, path.parent / UNCERTAINTY / f"{case}{end}") for key, path in segmentations for end in FILE_ENDINGS]
    return tuple((key, file) for key, file in files if file.is_file())


def _logs_of(record: Mapping[str, Any]) -> tuple[Path, ...]:
    """The training logs of the folds that made the predictions, as far as they are still there."""
    logs = [Path(str(record.get("model"))) / str(fold) / "log.csv" for fold in record.get("folds") or ()]
    return tuple(log for log in logs if log.is_file())


def _familiarity(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """By case, of those whose scan was compared with what the model has learnt."""
    cases = (record.get("cases") or {}).items()
    return {case: entry["familiarity"] for case, entry in cases if entry.get("familiarity")}


def _intervals(record: Mapping[str, Any], unit: SizeUnit) -> dict[str, dict[str, tuple[float, float]]]:
    """By case and label, between what the true volume lies in nine of ten cases, where that is known."""
    cases, key = (record.get("cases") or {}).items(), f"intervals_{unit.key}"
    known = {case: (entry.get("volumes") or {}).items() for case, entry in cases}
    return {
        case: {label: bounds for label, found in volumes if (bounds := (found.get(key) or {}).get("90%"))}
        for case, volumes in known.items()
    }


def _record_facts(predictions: Path, record: Mapping[str, Any], cases: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    settings = record.get("settings") or {}
    sampler = settings.get("sampler", settings)  # earlier releases had it flat
    seconds = seconds_per_case(predictions, cases)
    for name, value in (
        ("cases", len(cases)),
        ("data set", record.get("dataset")),
        ("method", record.get("method") or settings.get("method")),
        ("recipe", record.get("recipe") or settings.get("name")),
        ("folds", ", ".join(map(str, record.get("folds") or ()))),
        ("sampling steps", sampler.get("steps") or None),
        ("draws", sampler.get("draws")),
        ("modality", record.get("modality")),
        ("time per case", None if seconds is None else f"{seconds:.2g} s"),
    ):
        if value not in (None, ""):
            yield name, str(value)


def _record_notes(record: Mapping[str, Any]) -> Iterator[str]:
    """Cases of prediction.json that failed or that carry a warning."""
    for case, entry in (record.get("cases") or {}).items():
        if entry.get("status") == FAILED:
            yield (
                f"{case}: {entry.get('message')}"
                if entry.get("output")
                else f"{case} was not segmented: {entry.get('message')}"
            )
        yield from (f"{case}: {warning}" for warning in entry.get("warnings") or ())
