"""What a quickstart with other options can keep of an earlier one in the same folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffatlas_pipeline.files import write_text_atomically

TEST_HEART = "heart_test_"  # how the names of generated test cases begin
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


@dataclass(frozen=True)
class Rerun:
    """What another quickstart in the same folder changes; ``told`` says what is kept and what not, "" if all is."""

    workspace: Path
    dataset: str
    asked: Mapping[str, Any]
    outdated: frozenset[str]
    told: str

    def clear(self) -> None:
        """Remove what is outdated, and note the options, so that the steps make it again as if for the first time.

        They may be interrupted like any. A finished model is moved aside, in place of one moved there before.
        """
        places = products_of(self.workspace, self.dataset)
        for product in self.outdated:
            (folder, *_) = places[product]
            if product == MODEL and is_trained(self.workspace, self.dataset):
                _move_aside(folder, model_before(self.workspace))
            elif product == PREDICTIONS:
                _remove_segmentations(folder)
            else:
                for one in places[product]:
                    shutil.rmtree(one, ignore_errors=True)
        write_text_atomically(self.workspace / RECORD, json.dumps(self.asked, indent=2) + "\n")


def rerun(workspace: Path, dataset: str, options: Mapping[str, Any]) -> Rerun:
    """What of an earlier quickstart in ``workspace`` was made with other ``options``. Nothing is removed yet.

    A folder without a record is left as it is.
    """
    asked = {name: options[name] for name in OUTDATED} | {"device": options["device"] or "auto"}
    before = _record(workspace / RECORD)
    changed = [name for name in OUTDATED if name in before and _differ(name, before[name], asked[name])]
    outdated = frozenset(product for name in changed for product in OUTDATED[name])
    there = [product for product, places in products_of(workspace, dataset).items() if any(one.exists() for one in places)]
    kept = [product for product in there if product not in outdated]
    anew = [product for product in there if product in outdated]
    if not anew:
        return Rerun(workspace, dataset, asked, outdated, "")
    differences = ", ".join(f"`{name}` was {before[name]} and is {asked[name]} now" for name in changed)
    told = (
        f"{workspace} holds a quickstart with other options: {differences}.\n"
        f"Kept: {', '.join(kept) or 'nothing'}. Made anew: {', '.join(anew)}."
    )
    if MODEL in anew and is_trained(workspace, dataset):
        told += f"\nThe model that was trained is moved to {model_before(workspace)}."
    return Rerun(workspace, dataset, asked, outdated, told)


def model_before(workspace: Path) -> Path:
    """Where a finished model is moved when another takes its place: not in results, where it would be a second one."""
    return workspace / "model_before"


def _move_aside(fold: Path, place: Path) -> None:
    """Make ``place`` a model folder of ``fold`` alone, with the descriptions of its model; other folds stay."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for described in fold.parent.glob("*.json"):
        shutil.copy2(described, place)
    fold.rename(place / fold.name)


def _remove_segmentations(folder: Path) -> None:
    """Remove the test hearts' segmentations, and what belongs to them, from ``folder``; the user's own stay."""
    from diffatlas_pipeline.inference.export import DISTANCES, UNCERTAINTY, read_record, write_record
    from diffatlas_pipeline.inference.export import RECORD as PREDICTED

    for place in (folder, folder / DISTANCES, folder / UNCERTAINTY):
        for path in place.glob(f"{TEST_HEART}*"):
            if path.is_file():
                path.unlink()
    record = read_record(folder / PREDICTED)
    if others := {case: entry for case, entry in record.get("cases", {}).items() if not case.startswith(TEST_HEART)}:
        write_record(folder / PREDICTED, record | {"cases": others})
    else:
        (folder / PREDICTED).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


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
