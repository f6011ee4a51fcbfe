"""Score segmentations against references."""

from __future__ import annotations

from pathlib import Path

from diffatlas_pipeline import console
from diffatlas_pipeline.evaluation.evaluate import Evaluation
from diffatlas_pipeline.evaluation.folders import score_and_write
from diffatlas_pipeline.processes import check_main_guard


def evaluate(
    predictions: str | Path,
    references: str | Path,
    *,
    output: str | Path | None = None,
    labels: str | Path | None = None,
    images: str | Path | None = None,
    tolerance_mm: float = 1.0,
    missing: str = "error",
    workers: int = 1,
) -> Evaluation:
    """Score ``predictions`` against ``references`` of the same names, both a folder or one file.

    The result has a table ``cases`` (one row per case and label: Dice, normalised surface distance at ``tolerance_mm``,
    HD95 in mm, volumes), ``mean()`` and ``per_label()``. Tables and pictures are written into ``output`` (default: the
    folder evaluation within the predictions). ``labels`` is a dataset.json that names the labels (default: that beside
    the references), ``images`` a folder of scans to show (default: imagesTr or imagesTs beside the references).
    ``missing`` says what a reference without prediction means: "error", "empty" (an empty segmentation) or "skip".
    With several ``workers``, a script makes this call under ``if __name__ == "__main__":``. Raises UserError.
    """
    check_main_guard()
    given = (None if path is None else Path(path).expanduser() for path in (output, labels, images))
    folder, names, scans = given
    scored = score_and_write(
        Path(predictions).expanduser(),
        Path(references).expanduser(),
        folder,
        labels=names,
        images=scans,
        tolerance_mm=tolerance_mm,
        missing=missing,
        workers=workers,
    )
    for warning in scored.warnings:
        console.warn(warning)
    return scored.evaluation
