"""The plan of a data set on disk: once cases were stored by it, another plan does not replace it unasked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from diffatlas_pipeline.datasets.splits import load_splits, make_splits, write_splits
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import from_json, read_json, to_json, write_text_atomically
from diffatlas_pipeline.planning.plan import Plan

PLANS, SPLITS = "plans.json", "splits.json"


def write_plan(
    folder: Path, plan: Plan, others: Mapping[str, object], overwrite: bool, completed: Callable[[Plan], Plan]
) -> None:
    """Write plans.json into ``folder``, and before it the dataclasses ``others`` by name: {"fingerprint": ...}.

    ``completed`` writes out every option of a plan's recipes. UserError if another plan is there and may not be
    replaced, or nothing can be written.
    """
    path, text = folder / PLANS, to_json(plan)
    if path.is_file() and not overwrite and not _is_same_plan(path, plan, completed):
        raise UserError(
            f"{path}: another plan is already there ({_differences(path, text)}). Give `overwrite` to replace it and redo all "
            "its cases, the same options as before to keep it, or another `workspace`."
        )
    try:
        for name, value in others.items():
            write_text_atomically(folder / f"{name}.json", to_json(value))
        write_text_atomically(path, text)
    except OSError as error:
        raise _unwritable(folder, error) from error


def write_all_splits(folder: Path, own: Path, cases: Sequence[str], overwrite: bool) -> None:
    """Write splits.json into ``folder``: the planned ones, over them those that are there, over these the file ``own``.

    UserError for splits that do not fit the ``cases``; those that are there are made anew if ``overwrite``.
    """
    path = folder / SPLITS
    splits = make_splits(cases)
    if path.is_file() and not (overwrite and _is_outdated(path, cases)):
        splits |= load_splits(path, cases)
    if own.is_file():
        splits |= load_splits(own, cases)
    try:
        write_splits(path, splits)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder}: cannot be written ({error.strerror or error}). Mend it or give another `workspace`.")


def _is_outdated(path: Path, cases: Sequence[str]) -> bool:
    try:
        load_splits(path, cases)
    except UserError:
        return True
    return False


def _is_same_plan(path: Path, plan: Plan, completed: Callable[[Plan], Plan]) -> bool:
    """Whether ``path`` holds ``plan``, written perhaps by an earlier release: other reasons, or no word of an option
    that has been added since and is at its default.
    """
    try:
        plans = (read_json(Plan, path), from_json(Plan, to_json(plan)))  # 1 and 1.0 are one number
        old, new = (completed(replace(one, why={})) for one in plans)
    except UserError:
        return False
    return old == new


def _differences(path: Path, plan: str) -> str:
    """The names of the entries in which the plan in ``path`` differs from the text ``plan``."""
    try:
        old = Plan.migrated(json.loads(path.read_text(encoding="utf-8-sig")), str(path))
        new = json.loads(plan)
        names = [name for name in new if old.get(name) != new[name] and name != "why"]
    except (ValueError, AttributeError, UserError):
        return "it is damaged"
    return f"it differs in {', '.join(names) or 'entries that this release does not know'}"
