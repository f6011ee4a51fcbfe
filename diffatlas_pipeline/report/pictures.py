"""Overlay pictures of remarkable cases, in three planes."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np

from diffatlas_pipeline import console
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.evaluation.evaluate import Evaluation
from diffatlas_pipeline.evaluation.overlays import overlay_png, read_scan
from diffatlas_pipeline.report.sources import CaseSource, ModelRun
from diffatlas_pipeline.volumes.io import read_labels
from diffatlas_pipeline.volumes.size_unit import VOLUME, SizeUnit

EACH = 3  # worst and best cases shown


@dataclass(frozen=True)
class Picture:
    """A PNG file in base64 and what it shows."""

    caption: str
    png: str


def case_pictures(
    cases: Mapping[str, CaseSource], chosen: Sequence[tuple[str, str]], labels: Sequence[LabelClass]
) -> tuple[list[Picture], list[str]]:
    """Pictures of the ``chosen`` (case, caption), and what could not be shown."""
    pictures: list[Picture] = []
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as folder, mpl.rc_context({"text.parse_math": False}):
        path = Path(folder) / "picture.png"
        for case, caption in console.each(chosen, "Drawing pictures", len(chosen), "pictures"):
            try:
                _draw(cases[case], caption, labels, path, problems)
            except ImageError as error:
                problems.append(str(error))
                continue
            pictures.append(Picture(caption, base64.b64encode(path.read_bytes()).decode()))
    return pictures, problems


def drawn_pictures(run: ModelRun) -> list[Picture]:
    """The worst and the best case of a run, as its evaluation drew them; each case once."""
    if run.evaluation is None or run.evaluation_folder is None:
        return []
    cases = {role: case for role, case in run.evaluation.remarkable().items() if role != "median"}
    files = {role: run.evaluation_folder / f"{role}_{case}.png" for role, case in cases.items()}
    return [
        Picture(f"{run.title}: {role} case, {cases[role]}", base64.b64encode(path.read_bytes()).decode())
        for role, path in files.items()
        if path.is_file()
    ]


def remarkable_by_score(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The worst and the best cases by mean Dice, each once, with captions."""
    dice = evaluation.case_dice()
    ranked = list(dice.index)
    worst = ranked[: min(EACH, (len(ranked) + 1) // 2)]
    best = [case for case in ranked[-EACH:] if case not in worst]
    roles = [("worst", case) for case in worst] + [("best", case) for case in reversed(best)]
    return [(case, f"{role}: {case}, mean Dice {dice[case]:.3f}") for role, case in roles]


def remarkable_by_volume(volumes: Mapping[str, Mapping[str, float]], unit: SizeUnit = VOLUME) -> list[tuple[str, str]]:
    """Without references: the cases of smallest, median and largest volume, where failures show first."""
    total = {case: sum(found.values()) for case, found in volumes.items()}
    ranked = sorted(total, key=lambda case: total[case])
    roles: dict[str, str] = {}
    for role, rank in (("smallest", 0), ("median", (len(ranked) - 1) // 2), ("largest", -1)):
        if ranked:
            roles.setdefault(ranked[rank], f"{role} {unit.quantity}")
    return [(case, f"{role}: {case}, {total[case]:.2f} {unit.symbol}") for case, role in roles.items()]


def _draw(source: CaseSource, caption: str, labels: Sequence[LabelClass], path: Path, problems: list[str]) -> None:
    """Draw the case's first segmentation; ImageError if it or the reference cannot be read."""
    reference = read_labels(source.reference) if source.reference else None
    prediction = read_labels(source.segmentations[0][1]) if source.segmentations else None
    shown = prediction or reference
    assert shown is not None, "a case has a segmentation or a reference"
    found, image = np.zeros_like(shown.array) if prediction is None else prediction.array, None
    try:
        image = read_scan(source.image, shown.grid) if source.image else None
    except ImageError as error:
        problems.append(str(error))
    overlay_png(image, found, None if reference is None else reference.array, shown.grid, labels, path, caption)
