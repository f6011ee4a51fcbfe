"""Score a folder of predictions and write what came of it: tables for programs, pictures for eyes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffatlas_pipeline.datasets.description import LabelClass, LabelSet
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.evaluate import Evaluation, evaluate_folders, read_labels_json
from diffatlas_pipeline.evaluation.overlays import find_images, write_overlays

FOLDER = "evaluation"  # within the folder of predictions; a report finds it there


@dataclass(frozen=True)
class Scored:
    """An evaluation, the files that were written (summary, table, pictures), and what should be known about it."""

    evaluation: Evaluation
    files: tuple[Path, ...]
    warnings: tuple[str, ...]


def score_and_write(
    predictions: Path,
    references: Path,
    output: Path | None = None,
    *,
    labels: Path | LabelSet | Sequence[LabelClass] | None = None,
    images: Path | None = None,
    tolerance_mm: float = 1.0,
    missing: str = "error",
    workers: int = 1,
) -> Scored:
    """Score as :func:`evaluate_folders` does, and write ``summary.json``, ``cases.csv`` and pictures into ``output``.

    ``output`` None: the folder ``evaluation`` within that of the predictions. ``labels`` may be a ``dataset.json``.
    ``images`` None: imagesTr or imagesTs beside the references, if there. Raises UserError (DatasetError, ImageError).
    """
    for path in (predictions, references, images):
        if path is not None and not path.exists():
            raise UserError(f"{path}: no such file or folder. Check its name.")
    known = read_labels_json(labels) if isinstance(labels, Path) else labels
    evaluation = evaluate_folders(predictions, references, known, tolerance_mm, workers, missing)
    folder = output or default_output(predictions)
    written = evaluation.write(folder)
    pictures, remarks = write_overlays(evaluation, folder, images or find_images(references))
    warnings = [*evaluation.warnings, *remarks]
    if evaluation.missing:
        meaning = "scored as empty" if evaluation.missing_rule == "empty" else "left out"
        warnings.insert(0, f"{len(evaluation.missing)} reference(s) without prediction: {meaning}.")
    return Scored(evaluation, (*written, *pictures), tuple(warnings))


def default_output(predictions: Path) -> Path:
    """Where the results for ``predictions``, a folder or one file, are written if nothing else is said."""
    return (predictions if predictions.is_dir() else predictions.parent) / FOLDER
