"""Preprocess a whole data set: in parallel, resumable case by case."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

from diffatlas_pipeline.datasets.description import CaseFiles, LabelClass, RawDataset
from diffatlas_pipeline.datasets.sizes import case_bytes, largest_bytes, memory_note
from diffatlas_pipeline.errors import DatasetError, UserError
from diffatlas_pipeline.parallel import run_cases
from diffatlas_pipeline.planning.measured_on import file_states
from diffatlas_pipeline.planning.plan import STORED_LIMIT, Plan
from diffatlas_pipeline.preprocessing.case import prepare_image, prepare_labels
from diffatlas_pipeline.preprocessing.store import STORE_VERSION, open_case, remove_left_over, write_case
from diffatlas_pipeline.volumes.io import read_labels, read_volume

_LISTED = 20


def preprocess_dataset(dataset: RawDataset, plan: Plan, folder: Path, workers: int, overwrite: bool) -> None:
    """Store all training and unlabelled cases of ``dataset`` in ``folder``/cases.

    A case that is already there is kept if its checksum is right and it was made from the same files with the same
    plan-relevant settings, unless ``overwrite``. ``workers`` <= 1 works in this process. A case that cannot be used
    does not stop the others: one DatasetError at the end lists all of them. Raises DatasetError naming the case when a
    worker is killed, or a case does not end (:func:`~diffatlas_pipeline.parallel.run_cases`).
    """
    cases = [*dataset.training, *dataset.unlabelled]
    names = [files.case for files in cases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"{dataset.folder}: cases named twice: {', '.join(twice)}. Rename those in imagesUn.")
    remove_left_over(folder)
    task = partial(preprocess_case, plan=plan, folder=folder, overwrite=overwrite)
    memory = partial(_memory, plan=plan)
    largest = largest_bytes(cases, lambda files: case_bytes(files, _bytes_per_voxel(plan), plan.spacing_mm))
    kept = "Finished cases are kept."
    found = run_cases(task, cases, names, workers, "Preprocessing", memory=memory, kept=kept, item_bytes=largest)
    problems = [problem for problem in found if problem]
    if problems:
        shown = [f"  {problem}" for problem in problems[:_LISTED]]
        if len(problems) > _LISTED:
            shown.append(f"  and {len(problems) - _LISTED} more")
        summary = f"{dataset.folder}: {len(problems)} of {len(cases)} cases cannot be used; the others are done."
        raise DatasetError("\n".join([summary, *shown]))


def preprocess_case(files: CaseFiles, plan: Plan, folder: Path, overwrite: bool) -> str | None:
    """Store one case unless it is stored already; returns what is wrong with it, None when all is well."""
    try:
        settings = _settings(files, plan)
        if not overwrite and _is_stored(folder, files.case, settings):
            return None
        image, record = prepare_image(read_volume(files.images), plan, files.modality, beyond=True)
        distances = None if files.label is None else prepare_labels(read_labels(files.label), record, plan)
        made_with = (settings, plan.stored_digest())
        labels = len(plan.dataset.labels)
        write_case(folder, files.case, image, distances, record, *made_with, files.modality, beyond=True, labels=labels)
    except UserError as error:
        return f"{files.case}: {error}"
    return None


def _is_stored(folder: Path, case: str, settings: str) -> bool:
    try:
        stored = open_case(folder, case)
    except UserError:  # missing or damaged
        return False
    return stored.facts.settings == settings and stored.verify()


def _settings(files: CaseFiles, plan: Plan) -> str:
    """Digest of everything a stored case depends on: the plan's part in it, and which files it was made from."""
    made_with = {
        "version": STORE_VERSION,
        "limit": STORED_LIMIT,
        "dimensions": plan.dimensions,
        "spacing_mm": plan.spacing_mm,
        "channels": [dataclasses.asdict(channel) for channel in plan.channels],
        "tau_mm": plan.distance.tau_mm,
        "labels": [_as_written(label) for label in plan.dataset.labels],
        "source": file_states(files),
    } | ({"modality": files.modality} if files.modality else {})
    if any(channel.scheme == "ct" for channel in plan.channels):
        made_with["beyond"] = True
    if plan.dataset.ignore is not None:
        made_with["ignore"] = plan.dataset.ignore
    return hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()


def _as_written(label: LabelClass) -> dict[str, Any]:
    """As release 0.1 has it in its digests, unless it is a region."""
    return {"name": label.name, "value": label.value} | ({"members": label.members} if label.members else {})


def _memory(files: CaseFiles, plan: Plan) -> str:
    return memory_note(files, _bytes_per_voxel(plan), plan.spacing_mm)


def _bytes_per_voxel(plan: Plan) -> int:
    """Measured: image, canonical and normalised copy and spline work space per channel; what of a CT lies beyond the
    bounds; labels; one float32 map per label.
    """
    beyond = 8 * sum(channel.scheme == "ct" for channel in plan.channels)
    return 16 * len(plan.channels) + beyond + 4 + 5 * plan.dataset.distance_maps
