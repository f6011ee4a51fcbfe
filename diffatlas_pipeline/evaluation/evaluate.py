"""Score a folder of predictions against a folder of references."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffatlas_pipeline import console
from diffatlas_pipeline.datasets.cases import not_segmentations, segmentation_files
from diffatlas_pipeline.datasets.description import CaseFiles, LabelClass, LabelSet
from diffatlas_pipeline.datasets.label_entries import IGNORE, read_labels_entry
from diffatlas_pipeline.datasets.raw import listed
from diffatlas_pipeline.datasets.sizes import case_bytes, largest_bytes, memory_note
from diffatlas_pipeline.errors import DatasetError, ImageError, UserError
from diffatlas_pipeline.evaluation.metrics import EMPTY_RULE, score
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.parallel import run_short_cases
from diffatlas_pipeline.volumes.grids import grid_difference
from diffatlas_pipeline.volumes.io import name_without_ending, read_labels
from diffatlas_pipeline.volumes.size_unit import AREA, VOLUME, SizeUnit, size_unit

MISSING = ("error", "empty", "skip")
SIZES = ("volume_prediction_ml", "volume_reference_ml")
METRICS = ("dice", "nsd", "hd95_mm", *SIZES)
ROLES = ("worst", "median", "best")  # cases that are shown
SCORING_BYTES = 12.0  # per voxel; measured: 10
_LISTED = 20
_FAR = 20.0  # voxel edges: within so far of a surface almost everything lies, so NSD would say nothing


@dataclass(frozen=True)
class CasePair:
    """One reference and its prediction; None where there is no prediction and it counts as empty."""

    case: str
    prediction: Path | None
    reference: Path

    @property
    def files(self) -> CaseFiles:
        return CaseFiles(self.case, (self.reference,), self.prediction)


@dataclass(frozen=True)
class Evaluation:
    """``cases`` has one row per case and label: case, label, value and METRICS."""

    cases: pd.DataFrame
    pairs: tuple[CasePair, ...]
    labels: tuple[LabelClass, ...]
    tolerance_mm: float
    missing: tuple[str, ...]  # references without prediction
    missing_rule: str
    warnings: tuple[str, ...]
    ignore: int | None = None  # the value of voxels in references whose label is not known
    unit: SizeUnit = VOLUME  # in which sizes are told; here they are in millilitres

    def per_label(self) -> dict[str, dict[str, dict[str, float]]]:
        """label -> metric -> mean, std (of a sample, NaN for one case), median, count (cases where it is defined)."""
        result = {}
        for label in self.labels:
            rows = self.cases[self.cases["label"] == label.name]
            result[label.name] = {metric: _statistics(rows[metric]) for metric in METRICS}
        return result

    def _as_told(self, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
        """The statistics of one label, sizes in ``unit``."""
        sizes = {
            name_in_unit(metric, self.unit): {
                key: value if key == "count" else value * self.unit.per_ml for key, value in found.items()
            }
            for metric, found in metrics.items()
            if metric in SIZES
        }
        return {**{metric: dict(found) for metric, found in metrics.items() if metric not in SIZES}, **sizes}

    def mean(self) -> dict[str, float]:
        """Mean over labels of the mean over cases: every label counts the same. Labels that are nowhere are left
        out.
        """
        labels = self.per_label()
        return {metric: _mean([labels[name][metric]["mean"] for name in labels]) for metric in METRICS[:3]}

    def case_dice(self) -> pd.Series:
        """Mean Dice over the labels of each case, worst first; cases without any label are left out."""
        return self.cases.groupby("case")["dice"].mean().dropna().sort_values(kind="stable")

    def remarkable(self) -> dict[str, str]:
        """The worst, median and best case by mean Dice: role -> case. Fewer than three cases have fewer roles."""
        ranked = list(self.case_dice().index)
        chosen: dict[str, str] = {}
        for role, rank in zip(ROLES, (0, (len(ranked) - 1) // 2, len(ranked) - 1), strict=True):
            if ranked and ranked[rank] not in chosen.values():
                chosen[role] = ranked[rank]
        return chosen

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``summary.json`` and ``cases.csv``; returns their paths. UserError if ``folder`` cannot be written."""
        summary = {
            "mean": self.mean(),
            "labels": {name: self._as_told(metrics) for name, metrics in self.per_label().items()},
            "ignore": self.ignore,
            "label_values": {label.name: label.values for label in self.labels},
            "case_count": len(self.pairs),
            "tolerance_mm": self.tolerance_mm,
            "empty_rule": EMPTY_RULE,
            "missing_predictions": list(self.missing),
            "missing_rule": self.missing_rule,
            "warnings": list(self.warnings),
            "pairs": [{key: None if v is None else str(v) for key, v in asdict(pair).items()} for pair in self.pairs],
        }
        paths = folder / "summary.json", folder / "cases.csv"
        try:
            write_text_atomically(paths[0], json.dumps(_without_nan(summary), indent=2, ensure_ascii=False) + "\n")
            write_text_atomically(paths[1], in_unit(self.cases, self.unit).to_csv(index=False, lineterminator="\n"))
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror or error}). Choose another `output`.") from error
        return paths


def name_in_unit(metric: str, unit: SizeUnit) -> str:
    """What files call a metric of ``SIZES`` told in ``unit``: "area_prediction_mm2" for "volume_prediction_ml"."""
    return metric.replace("volume", unit.quantity).removesuffix("ml") + unit.key


def in_unit(cases: pd.DataFrame, unit: SizeUnit) -> pd.DataFrame:
    """``cases`` of an evaluation with sizes told in ``unit``."""
    return cases.assign(**{one: cases[one] * unit.per_ml for one in SIZES}).rename(
        columns={one: name_in_unit(one, unit) for one in SIZES}
    )


def from_unit(cases: pd.DataFrame) -> tuple[pd.DataFrame, SizeUnit]:
    """The inverse of :func:`in_unit`, and the unit that the columns tell."""
    unit = AREA if name_in_unit(SIZES[0], AREA) in cases else VOLUME
    named = cases.rename(columns={name_in_unit(one, unit): one for one in SIZES})
    return named.assign(**{one: named[one] / unit.per_ml for one in SIZES}), unit


def evaluate_folders(
    predictions: Path,
    references: Path,
    labels: LabelSet | Sequence[LabelClass] | None = None,
    tolerance_mm: float = 1.0,
    workers: int = 1,
    missing: str = "error",
) -> Evaluation:
    """Score every reference that is a file in ``references`` (or that file itself) against its namesake in
    ``predictions``.

    ``labels`` None: those of :func:`find_labels`, else all values found in the references. Voxels with the value of the
    ignore label count in no metric. ``missing`` says what a
    reference without prediction means: "error", "empty" (scored as an empty segmentation) or "skip". Raises
    DatasetError listing missing predictions, ImageError listing files that cannot be read or whose grids differ.
    """
    if missing not in MISSING:
        raise ValueError(f"missing '{missing}' is unknown; known: {', '.join(MISSING)}")
    if not tolerance_mm >= 0:
        raise UserError(f"`tolerance_mm` {tolerance_mm}: must be 0 or more.")
    pairs, absent, unused = pair_files(predictions, references, missing)
    known = _known_labels(labels, references, pairs, workers)
    score_one = partial(_score_case, known=known, tolerance_mm=tolerance_mm)
    outcomes = run_short_cases(
        score_one,
        pairs,
        [pair.case for pair in pairs],
        workers,
        "Evaluating",
        memory=lambda pair: memory_note(pair.files, SCORING_BYTES),
        item_bytes=largest_bytes([pair.files for pair in pairs], partial(case_bytes, bytes_per_voxel=SCORING_BYTES)),
    )
    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    if problems:
        raise ImageError(f"{len(problems)} of {len(pairs)} cases cannot be scored:\n" + _listing(problems))
    warnings = [warning for outcome in outcomes for warning in outcome.warnings]
    if far := [outcome.longest_edge_mm for outcome in outcomes if tolerance_mm > _FAR * outcome.longest_edge_mm]:
        warnings.append(
            f"NSD is not given for {len(far)} of {len(pairs)} cases: a tolerance of {tolerance_mm:g} mm is over {_FAR:g} of "
            f"their voxels (of {min(far):.3g} mm). Give a smaller `tolerance_mm`."
        )
    warnings += [*passed_over(predictions), *passed_over(references)]
    if unused:
        warnings.append(f"{len(unused)} predictions have no reference and were left out: {listed(unused)}")
    rows = [row for outcome in outcomes for row in outcome.rows]
    frame = pd.DataFrame(rows, columns=["case", "label", "value", *METRICS])
    unit = size_unit(max((outcome.dimensions for outcome in outcomes), default=3))
    return Evaluation(
        frame, tuple(pairs), known.labels, tolerance_mm, tuple(absent), missing, tuple(warnings), known.ignore, unit
    )


def passed_over(folder: Path) -> list[str]:
    """What is no segmentation in a folder of them, as a sentence; nothing where all are."""
    others = not_segmentations(folder)
    return [f"{folder}: {len(others)} file(s) are no segmentations and were left out: {listed(others)}"] if others else []


def pair_files(predictions: Path, references: Path, missing: str) -> tuple[list[CasePair], list[str], list[str]]:
    """The pairs to score, the cases without prediction, and the predictions without reference."""
    if references.is_file() and predictions.is_file():
        return [CasePair(name_without_ending(references), predictions, references)], [], []
    known, made = segmentation_files(references), segmentation_files(predictions)
    absent = [case for case in known if case not in made]
    if absent and missing == "error":
        raise DatasetError(
            f"{predictions}: no prediction for {len(absent)} of {len(known)} references: {listed(absent)}. "
            "Predict them, or say what they mean: `missing=empty` scores them as empty, `missing=skip` leaves them out."
        )
    if len(absent) == len(known):
        raise DatasetError(
            f"{predictions}: not one prediction is named like a reference in {references} ({listed(list(known))})."
        )
    pairs = [CasePair(case, made.get(case), path) for case, path in known.items() if case in made or missing == "empty"]
    return pairs, absent, [case for case in made if case not in known]


def _known_labels(
    labels: LabelSet | Sequence[LabelClass] | None, references: Path, pairs: Sequence[CasePair], workers: int
) -> LabelSet:
    """The labels that are given, or else found."""
    if isinstance(labels, LabelSet):
        return labels
    if labels:
        return LabelSet(tuple(labels))
    return find_labels(references) or LabelSet(labels_in([pair.reference for pair in pairs], workers))


def find_labels(references: Path) -> LabelSet | None:
    """The labels of the dataset.json in or beside ``references``, None if there is none."""
    folder = references if references.is_dir() else references.parent
    for place in (folder, folder.resolve().parent):
        if (place / "dataset.json").is_file():
            return read_labels_json(place / "dataset.json")
    return None


def read_labels_json(path: Path) -> LabelSet:
    """The labels of a dataset.json: name to number (nnU-Net v2) or number to name (Decathlon), else
    DatasetError.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
        if any(isinstance(value, list) or str(name).lower() == IGNORE for name, value in raw["labels"].items()):
            return read_labels_entry(raw, path)
        raw = raw["labels"]
        if all(str(key).lstrip("-").isdigit() for key in raw):
            raw = {name: value for value, name in raw.items()}
        labels = tuple(LabelClass(str(name), int(value)) for name, value in raw.items() if int(value) != 0)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}). Give a dataset.json with `labels`.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f'{path}: "labels" must be as in {{"background": 0, "liver": 1}} ({error!r}).') from error
    if not labels:
        raise DatasetError(f'{path}: "labels" names no foreground label. Give each structure a number above 0.')
    return LabelSet(labels)


@dataclass(frozen=True)
class _Outcome:
    rows: tuple[Mapping[str, Any], ...] = ()
    problem: str = ""
    warnings: tuple[str, ...] = ()
    longest_edge_mm: float = math.inf
    dimensions: int = 0


def _score_case(pair: CasePair, known: LabelSet, tolerance_mm: float) -> _Outcome:
    try:
        reference = read_labels(pair.reference)
        prediction = None if pair.prediction is None else read_labels(pair.prediction)
    except ImageError as error:
        return _Outcome(problem=f"{pair.case}: {error}")
    difference = prediction and grid_difference(reference.grid, prediction.grid)
    if difference:
        return _Outcome(problem=f"{pair.case}: the prediction is not on the reference's grid ({difference})")
    found = np.zeros_like(reference.array) if prediction is None else prediction.array
    longest_edge_mm = max(reference.grid.spacing_mm[: reference.grid.dimensions])
    unknown = None if known.ignore is None else reference.array == known.ignore
    rows = []
    for label in known.labels:
        result = score(label.mask(found), label.mask(reference.array), reference.grid, tolerance_mm, unknown)
        values = (
            result.dice,
            result.nsd if tolerance_mm <= _FAR * longest_edge_mm else math.nan,
            result.hd95_mm,
            result.volume_prediction_mm3 / 1000,
            result.volume_reference_mm3 / 1000,
        )
        rows.append({"case": pair.case, "label": label.name, "value": label.value, **dict(zip(METRICS, values, strict=True))})
    allowed = {0, *(value for label in known.labels for value in label.values)}
    warnings = []
    for what, array, more in (("prediction", found, set()), ("reference", reference.array, {known.ignore})):
        strange = sorted(set(np.unique(array).tolist()) - allowed - more)
        if strange:
            warnings.append(f"{pair.case}: the {what} holds values that are no label and were not scored: {listed(strange)}")
    return _Outcome(tuple(rows), "", tuple(warnings), longest_edge_mm, reference.grid.dimensions)


def labels_in(files: Sequence[Path], workers: int) -> tuple[LabelClass, ...]:
    """One label per value above or below 0 found in ``files``. DatasetError if there is none."""
    with ThreadPoolExecutor(max(1, workers)) as pool:  # reading only: threads do, and start at once
        found = list(console.each(pool.map(_values_in, files), "Looking for labels", len(files), "cases"))
    values = sorted(set().union(*found) - {0})
    if not values:
        raise DatasetError(f"{files[0].parent}: there is no label at all. Give the label values with `labels=dataset.json`.")
    return tuple(LabelClass(f"label {value}", value) for value in values)


def _values_in(file: Path) -> set[int]:
    return set(np.unique(read_labels(file).array).tolist())


def _statistics(column: pd.Series) -> dict[str, float]:
    defined = column.dropna()
    return {
        "mean": float(defined.mean()),
        "std": float(defined.std()),
        "median": float(defined.median()),
        "count": len(defined),
    }


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null stands for what is not defined."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _listing(problems: Sequence[str]) -> str:
    lines = [f"  {problem}" for problem in problems[:_LISTED]]
    return "\n".join([*lines, f"  and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else lines)
