"""The fixed lists of cases: which of a data set's cases train in each setting, and which test."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from pathlib import Path

from diffatlas_pipeline.errors import UserError

VALIDATION_CASES = 16  # of the rest of the training pool, the same in every few-shot setting
VALIDATION_SEED = 2025
SHOTS = re.compile(r"[1-9]\d*-shot")


def lists_of(protocol: str) -> Path:
    """The file with the lists of ``protocol``."""
    return Path(__file__).parent / f"{protocol}_protocol.json"


def read_protocol(path: Path) -> dict[str, list[str]]:
    """Lists of cases: ``test``, ``full``, and one for each few-shot setting.

    UserError for a damaged file, or a test case in a setting.
    """
    try:
        protocol = json.loads(path.read_text(encoding="utf-8"))
        names = ("test", "full", *(name for name in protocol if SHOTS.fullmatch(name)))
        lists = {name: [str(case) for case in protocol[name]] for name in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a protocol with the lists test, full, and such as 2-shot ({error!r}).") from error
    for name in names[1:]:
        wrong = set(lists[name]) & set(lists["test"]) or set(lists[name]) - set(lists["full"])
        if wrong:
            raise UserError(f"{path}: '{name}' names {min(wrong)}, which is a test case or not in 'full'. Restore the file.")
    return lists


def few_shot_splits(protocol: dict[str, list[str]], seeds: Iterable[int]) -> dict[str, dict[str, list[str]]]:
    """Every few-shot setting as a split. All seeds train on the protocol's cases, not on draws of their own.

    One more, such as ``144-shot``, trains on all of the pool but the validation cases: for choices made on those.
    """
    shots = {name: list(protocol[name]) for name in _few_shots(protocol)}
    validation = validation_cases(protocol)
    rest = [case for case in protocol["full"] if case not in set(validation)]
    shots.setdefault(f"{len(rest)}-shot", rest)
    splits = {name: {"train": train, "validation": validation} for name, train in shots.items()}
    return splits | {f"{name}-seed{seed}": split for name, split in splits.items() for seed in seeds if seed}


def validation_cases(protocol: dict[str, list[str]]) -> list[str]:
    """At most 16 cases of the pool that no few-shot setting trains on."""
    used = {case for name in _few_shots(protocol) for case in protocol[name]}
    rest = sorted(set(protocol["full"]) - used)
    return sorted(random.Random(VALIDATION_SEED).sample(rest, min(VALIDATION_CASES, len(rest))))


def _few_shots(protocol: dict[str, list[str]]) -> list[str]:
    return [name for name in protocol if SHOTS.fullmatch(name)]
