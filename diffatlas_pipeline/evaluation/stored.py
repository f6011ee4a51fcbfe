"""Read back what ``Evaluation.write`` left in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.evaluate import METRICS, CasePair, Evaluation


def read_evaluation(folder: Path, moved: Path | None = None) -> Evaluation:
    """The evaluation in ``folder``. UserError if it cannot be read or is incomplete.

    Files that are not where they were are looked for in ``moved``, the folder that holds all of it: it may have moved.
    """
    columns = ["case", "label", "value", *METRICS]
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        kept = {"keep_default_na": False, "na_values": {name: [""] for name in METRICS}}  # a case may be called NA
        frame = pd.read_csv(folder / "cases.csv", dtype={"case": str, "label": str}, **kept)[columns]
        labels = frame[["label", "value"]].drop_duplicates().itertuples(index=False)
        pairs = [(pair["case"], *(_found(pair[kind], folder, moved) for kind in _KINDS)) for pair in summary["pairs"]]
        return Evaluation(
            frame,
            tuple(CasePair(case, prediction, reference or Path()) for case, prediction, reference in pairs),
            tuple(_label(str(name), int(value), summary.get("label_values") or {}) for name, value in labels),
            float(summary["tolerance_mm"]),
            tuple(summary["missing_predictions"]),
            summary["missing_rule"],
            tuple(summary["warnings"]),
            summary.get("ignore"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: cases.csv and summary.json cannot be used ({error}). Run `evaluate` again.") from error


def _label(name: str, value: int, of_regions: Mapping[str, Sequence[int]]) -> LabelClass:
    members = tuple(int(one) for one in of_regions.get(name) or ())
    return LabelClass(name, value, members if len(members) > 1 else ())


_KINDS = ("prediction", "reference")


def _found(entry: Any, folder: Path, moved: Path | None) -> Path | None:
    """A path of summary.json: as it stands; if there is nothing, relative to the folder of the scores, or in
    ``moved``.
    """
    if not entry:
        return None
    path = Path(str(entry))
    beside = [folder / path]
    if moved is not None:  # at least a folder and a name, so that no file is taken for another of its name
        beside += [moved.joinpath(*path.parts[start:]) for start in range(1, len(path.parts) - 1)]
    return next((found for found in (path, *beside) if found.exists()), path)
