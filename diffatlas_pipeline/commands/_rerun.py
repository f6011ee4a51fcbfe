"""What a quickstart with other options can keep of an earlier one in the same folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffatlas_pipeline.files import write_text_atomically

RECORD = "quickstart.json"  # the options that the folder's content was made with
HEARTS, TESTS, PLAN, MODEL, PREDICTIONS, SCORES = "hearts", "test hearts", "plan", "model", "segmentations", "scores"
_ALL = (HEARTS, TESTS, PLAN, MODEL, PREDICTIONS, SCORES)
OUTDATED = {
    "training_cases": _ALL,
    "size": _ALL,
    "modality": _ALL,
    "seed": _ALL,
    "test_cases": (TESTS, PREDICTIONS, SCORES),
    "device": (PLAN, MODEL, PREDICTIONS, SCORES),  # a GPU has another budget, and so another plan
    "max_time": (MODEL, PREDICTIONS, SCORES),
}  # by the option that has changed


def products_of(workspace: Path, dataset: str) -> dict[str, tuple[Path, ...]]:
    """The folders of each product. Of the models it is only the quickstart's own fold."""
    raw = workspace / "raw" / dataset
    return {
        HEARTS: (raw,),
        TESTS: (raw / "imagesTs", raw / "labelsTs"),
        PLAN: (workspace / "preprocessed" / dataset,),
        MODEL: (workspace / "results" / dataset / "diffatlas__default" / "all",),
        PREDICTIONS: (workspace / "predictions",),
        SCORES: (workspace / "evaluation",),
    }


def remove_outdated(workspace: Path, dataset: str, options: Mapping[str, Any]) -> str:
    """Remove what was made with other ``options``; returns what is kept and what is not, "" if nothing is outdated.

    The steps then make it again as if for the first time, so they may be interrupted like any. A folder without a
    record is left as it is.
    """
    asked = {name: options[name] for name in OUTDATED} | {"device": options["device"] or "auto"}
    before = _record(workspace / RECORD)
    changed = [name for name in OUTDATED if name in before and _differ(name, before[name], asked[name])]
    outdated = {product for name in changed for product in OUTDATED[name]}
    kept: list[str] = []
    anew: list[str] = []
    for product, folders in products_of(workspace, dataset).items():
        if any(folder.exists() for folder in folders):
            (anew if product in outdated else kept).append(product)
        if product in outdated:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
    write_text_atomically(workspace / RECORD, json.dumps(asked, indent=2) + "\n")
    if not anew:
        return ""
    differences = ", ".join(f"`{name}` was {before[name]} and is {asked[name]} now" for name in changed)
    return (
        f"{workspace} holds a quickstart with other options: {differences}.\n"
        f"Kept: {', '.join(kept) or 'nothing'}. Made anew: {', '.join(anew)}."
    )


def _differ(name: str, before: Any, asked: Any) -> bool:
    if name == "device" and before != asked:
        from diffatlas_pipeline.networks.execution import resolve_device

        here = resolve_device("auto").type
        before, asked = (here if device == "auto" else device for device in (before, asked))
    return bool(before != asked)


def is_trained(workspace: Path, dataset: str) -> bool:
    """Whether the quickstart's model is there and finished."""
    from diffatlas_pipeline.models.folder import ModelFolder

    (fold,) = products_of(workspace, dataset)[MODEL]
    return ModelFolder(fold.parent).is_trained(fold.name)


def _record(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
