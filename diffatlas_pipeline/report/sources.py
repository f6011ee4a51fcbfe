"""What a report is made of, read from a prediction folder or a benchmark folder."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffatlas_pipeline import console
from diffatlas_pipeline.datasets.cases import list_cases
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.errors import DatasetError, UserError
from diffatlas_pipeline.evaluation.evaluate import METRICS, CasePair, Evaluation
from diffatlas_pipeline.evaluation.overlays import find_images
from diffatlas_pipeline.inference.export import RECORD, UNCERTAINTY, read_record
from diffatlas_pipeline.volumes.io import FILE_ENDINGS, read_labels

BENCHMARK = "benchmark.json"
VERSION = 1
DONE, FAILED, WAITING = "done", "failed", "waiting"
_COLUMNS = ("case", "label", "value", *METRICS)


@dataclass(frozen=True)
class Cell:
    """One model on one set of cases: a cell of a benchmark, or the whole of a prediction folder (then without a method)."""

    key: str
    title: str
    method: str = ""
    recipe: str = ""
    setting: str = ""
    seed: int = 0
    status: str = DONE
    message: str = ""
    evaluation: Evaluation | None = None
    evaluation_folder: Path | None = None
    predictions: Path | None = None
    logs: tuple[Path, ...] = ()  # log.csv of each fold
    training_cases: int | None = None
    train_seconds: float | None = None
    seconds_per_case: float | None = None


@dataclass(frozen=True)
class CaseSource:
    """The files of one scan: its image, its reference, and per cell its segmentation and uncertainty."""

    title: str
    case: str
    image: Path | None
    reference: Path | None
    segmentations: tuple[tuple[str, Path], ...]  # (key of the cell, file)
    uncertainties: tuple[tuple[str, Path], ...]


@dataclass(frozen=True)
class Source:
    """Everything that :func:`~diffatlas_pipeline.report.page.write_page` shows. ``facts`` are (name, value) for the head."""

    title: str
    facts: tuple[tuple[str, str], ...]
    labels: tuple[LabelClass, ...]
    cells: tuple[Cell, ...]
    cases: tuple[CaseSource, ...]
    notes: tuple[str, ...] = ()
    benchmark: Path | None = None  # its folder, if it is one


def prediction_source(
    predictions: Path, evaluation: Evaluation | None, labels: Sequence[LabelClass], images: Path | None
) -> Source:
    """The source of a prediction folder; ``evaluation`` None without references. ImageError if there is no prediction."""
    record = read_record(predictions)
    found = {files.case: files.images[0] for files in list_cases(predictions, None, 1)}
    references = {pair.case: pair.reference for pair in evaluation.pairs} if evaluation else {}
    if images is None and references:
        images = find_images(next(iter(references.values())))
    cases = []
    for case in sorted({*found, *references}):
        uncertainty = _beside(predictions / UNCERTAINTY, case)
        cases.append(
            CaseSource(
                case,
                case,
                image_of(case, images),
                references.get(case),
                (("all", found[case]),) if case in found else (),
                (("all", uncertainty),) if uncertainty else (),
            )
        )
    cell = Cell(
        "all",
        predictions.resolve().name,
        method=str(record.get("method", "")),
        evaluation=evaluation,
        predictions=predictions,
        logs=_logs_of(record),
        seconds_per_case=_seconds_per_case(record),
    )
    notes = [*(evaluation.warnings if evaluation else ()), *_record_notes(record)]
    if evaluation and evaluation.missing:
        meaning = "scored as empty" if evaluation.missing_rule == "empty" else "left out"
        notes.append(f"{len(evaluation.missing)} references without prediction were {meaning}: {', '.join(evaluation.missing)}")
    dataset = str(record.get("dataset", ""))
    title = f"Segmentations of {dataset}" if dataset else f"Segmentations in {predictions.resolve().name}"
    return Source(title, _record_facts(record, len(found)), tuple(labels), (cell,), tuple(cases), tuple(notes))


def benchmark_source(folder: Path) -> Source:
    """The source of a folder written by DiffAtlas_benchmark. UserError if its benchmark.json is missing or not usable."""
    record = _read_json(folder / BENCHMARK)
    if record.get("version") != VERSION:
        raise UserError(
            f"{folder / BENCHMARK}: version {record.get('version')!r}, but this program reads version {VERSION}. "
            "Use the program that wrote it."
        )
    notes: list[str] = []
    try:
        cells = tuple(_cell(folder, index, entry, notes) for index, entry in enumerate(record["cells"]))
        names = [str(name) for name in record["labels"]]
        facts = [
            ("data set", str(record["dataset"])),
            ("methods", ", ".join(map(str, record["methods"]))),
            ("settings", ", ".join(map(str, record["settings"]))),
            ("seeds", ", ".join(map(str, record["seeds"]))),
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / BENCHMARK}: not as DiffAtlas_benchmark writes it ({error!r}). Run it again.") from error
    seconds = record.get("max_time_s")
    if seconds:
        facts.append(("training time per cell", f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:.4g} min"))
    evaluations = [cell.evaluation for cell in cells if cell.evaluation]
    labels = evaluations[0].labels if evaluations else tuple(LabelClass(name, i + 1) for i, name in enumerate(names))
    title = f"Comparison on {record['dataset']}"
    return Source(title, tuple(facts), labels, cells, _shared_cases(cells), tuple(notes), folder)


def read_evaluation(folder: Path, benchmark: Path | None = None) -> Evaluation:
    """What ``Evaluation.write`` left in ``folder``. UserError if it cannot be read or is incomplete.

    Files that are not where they were are looked for in ``benchmark``, the folder that holds all of it: it may have moved.
    """
    summary = _read_json(folder / "summary.json")
    table = folder / "cases.csv"
    try:
        frame = pd.read_csv(
            table, dtype={"case": str, "label": str}, keep_default_na=False, na_values={name: [""] for name in METRICS}
        )
        frame = frame[list(_COLUMNS)]
        labels = tuple(
            LabelClass(str(name), int(value))
            for name, value in frame[["label", "value"]].drop_duplicates().itertuples(index=False)
        )
        pairs = tuple(
            CasePair(
                pair["case"],
                _path(pair["prediction"], folder, benchmark),
                _path(pair["reference"], folder, benchmark) or Path(),
            )
            for pair in summary["pairs"]
        )
        return Evaluation(
            frame,
            pairs,
            labels,
            float(summary["tolerance_mm"]),
            tuple(summary["missing_predictions"]),
            summary["missing_rule"],
            tuple(summary["warnings"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{table}: cannot be used with its summary.json ({error}). Run DiffAtlas_evaluate again.") from error


def image_of(case: str, images: Path | None) -> Path | None:
    """The file (or DICOM folder) of the case's first channel in ``images``, or ``images`` itself if it is a file."""
    if images is None or images.is_file():
        return images
    names = [f"{case}{channel}{ending}" for channel in ("_0000", "") for ending in (*FILE_ENDINGS, "")]
    return next((images / name for name in names if (images / name).exists()), None)


def _cell(folder: Path, index: int, entry: Mapping[str, Any], notes: list[str]) -> Cell:
    method, setting, seed = str(entry["method"]), str(entry["setting"]), int(entry["seed"])
    recipe = str(entry.get("recipe") or "default")
    trained, plus, use = recipe.partition("+")
    chosen = (method if trained == "default" else f"{method}:{trained}") + plus + use  # as --methods takes it
    title = f"{chosen}, {setting}, seed {seed}"
    status, message = str(entry["status"]), str(entry.get("message") or "")
    evaluation, scores = None, _inside(folder, entry.get("evaluation"))
    if status == DONE:
        try:
            if scores is None:
                raise UserError("benchmark.json names no folder of scores")
            evaluation = read_evaluation(scores, folder)
        except UserError as error:
            notes.append(f"{title}: its scores cannot be shown. {error}")
    model = _inside(folder, entry.get("model"))
    log = model / "log.csv" if model else None
    return Cell(
        f"c{index}",
        title,
        chosen,
        recipe,
        setting,
        seed,
        status,
        message,
        evaluation,
        scores,
        _inside(folder, entry.get("predictions")),
        (log,) if log and log.is_file() else (),
        len(entry["training_cases"]) if entry.get("training_cases") else None,
        _number(entry.get("train_seconds")),
        _number(entry.get("seconds_per_case")),
    )


def _shared_cases(cells: Sequence[Cell]) -> tuple[CaseSource, ...]:
    """One entry per reference file, with the segmentations of all cells that were scored against it."""
    names: dict[Path, str] = {}
    segmentations: dict[Path, list[tuple[str, Path]]] = {}
    uncertainties: dict[Path, list[tuple[str, Path]]] = {}
    for cell in cells:
        for pair in cell.evaluation.pairs if cell.evaluation else ():
            key = pair.reference.resolve()
            names[key] = pair.case
            prediction = pair.prediction
            if prediction is None:
                continue
            segmentations.setdefault(key, []).append((cell.key, prediction))
            uncertainty = _beside(prediction.parent / UNCERTAINTY, pair.case)
            if uncertainty:
                uncertainties.setdefault(key, []).append((cell.key, uncertainty))
    often = Counter(names.values())
    cases: list[CaseSource] = []
    for path, case in sorted(names.items(), key=lambda item: (item[1], str(item[0]))):
        title = case if often[case] == 1 else f"{case} ({path.parent.parent.name})"
        if title in {other.title for other in cases}:
            title = f"{case} ({path})"
        made = tuple(segmentations.get(path, ()))
        image = image_of(case, find_images(path))
        cases.append(CaseSource(title, case, image, path, made, tuple(uncertainties.get(path, ()))))
    return tuple(cases)


def _beside(folder: Path, case: str) -> Path | None:
    return next((folder / f"{case}{ending}" for ending in FILE_ENDINGS if (folder / f"{case}{ending}").is_file()), None)


def _logs_of(record: Mapping[str, Any]) -> tuple[Path, ...]:
    """The training logs of the folds that made the predictions, as far as they are still there."""
    folds = record.get("folds")
    if not isinstance(record.get("model"), str) or not isinstance(folds, list):
        return ()
    logs = [Path(record["model"]) / str(fold) / "log.csv" for fold in folds]
    return tuple(log for log in logs if log.is_file())


def _seconds_per_case(record: Mapping[str, Any]) -> float | None:
    cases = record.get("cases")
    entries = cases.values() if isinstance(cases, dict) else ()
    seconds = [sum(entry["seconds"].values()) for entry in entries if isinstance(entry, dict) and entry.get("seconds")]
    return sum(seconds) / len(seconds) if seconds else None


def _record_facts(record: Mapping[str, Any], count: int) -> tuple[tuple[str, str], ...]:
    settings = record.get("settings") if isinstance(record.get("settings"), dict) else {}
    assert isinstance(settings, dict)
    facts = [("cases", str(count))]
    for name, value in (
        ("data set", record.get("dataset")),
        ("method", record.get("method") or settings.get("method")),
        ("recipe", settings.get("name")),
        ("folds", ", ".join(map(str, record.get("folds") or ()))),
        ("sampling steps", settings.get("steps") or None),
        ("draws", settings.get("draws")),
        ("modality", record.get("modality")),
    ):
        if value not in (None, ""):
            facts.append((name, str(value)))
    seconds = _seconds_per_case(record)
    if seconds is not None:
        facts.append(("time per case", f"{seconds:.2g} s"))
    return tuple(facts)


def _record_notes(record: Mapping[str, Any]) -> list[str]:
    """Cases of prediction.json that failed or that carry a warning."""
    cases = record.get("cases")
    notes = []
    for case, entry in cases.items() if isinstance(cases, dict) else ():
        if not isinstance(entry, dict):
            continue
        if entry.get("status") == FAILED:
            notes.append(f"{case} was not segmented: {entry.get('message')}")
        notes += [f"{case}: {warning}" for warning in entry.get("warnings") or ()]
    return notes


def record_labels(predictions: Path) -> tuple[LabelClass, ...]:
    """The labels that ``prediction.json`` names, () if it is not there."""
    labels = read_record(predictions).get("labels")
    if not isinstance(labels, dict):
        return ()
    try:
        return tuple(LabelClass(str(name), int(value)) for name, value in labels.items() if int(value) != 0)
    except (TypeError, ValueError) as error:
        raise DatasetError(f'{predictions / RECORD}: "labels" must map names to numbers ({error}).') from error


def labels_found(predictions: Path) -> tuple[LabelClass, ...]:
    """One label per value above or below 0 in the predictions. DatasetError if there is none."""
    values: set[int] = set()
    cases = list_cases(predictions, None, 1)
    for files in console.each(cases, "Looking for labels", len(cases), "cases"):
        values |= set(np.unique(read_labels(files.images[0]).array).tolist())
    if not values - {0}:
        raise DatasetError(f"{predictions}: the predictions hold no label at all. Name the labels with --labels dataset.json.")
    return tuple(LabelClass(f"label {value}", value) for value in sorted(values - {0}))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}). Give the folder that holds it.") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}). Run the command again that writes it.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds {type(found).__name__}, but must hold an object. Run the command that writes it again.")
    return found


def _inside(folder: Path, entry: Any) -> Path | None:
    return folder / str(entry) if entry else None


def _path(entry: Any, folder: Path, benchmark: Path | None) -> Path | None:
    """A path of summary.json: as it stands; if there is nothing, relative to the folder of the scores, or in the benchmark."""
    if not entry:
        return None
    path = Path(str(entry))
    beside = [folder / path]
    if benchmark is not None:  # at least a folder and a name, so that no file is taken for another of its name
        beside += [benchmark.joinpath(*path.parts[start:]) for start in range(1, len(path.parts) - 1)]
    return next((found for found in (path, *beside) if found.exists()), path)


def _number(entry: Any) -> float | None:
    return float(entry) if isinstance(entry, int | float) and math.isfinite(entry) else None
