"""Which cases train and which validate: five folds, the split 'all', few-shot splits, or a file of one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffatlas_pipeline.datasets.cases import is_case_name
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import write_text_atomically

FOLDS = 5
SEED = 12345
SHOTS = (2, 4, 8, 16)
SHOT_SEEDS = (0, 1, 2)
FEW_SHOT_VALIDATION = 16  # cases: validation is not to take longer than a few-shot training


@dataclass(frozen=True)
class Split:
    """Names of training and validation cases; ``validation`` may be empty."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def make_splits(cases: Sequence[str], folds: int = FOLDS, seed: int = SEED) -> dict[str, Split]:
    """min(folds, n) folds of nearly equal size, by name ``fold0`` ..., and ``all`` (everything trains, nothing
    validates).

    The result depends only on the set of names and the seed. A single case makes ``fold0`` train on it without
    validation.
    """
    names = sorted(set(cases))
    if not names:
        raise UserError("No case to split: the data set has no training case. Put images into imagesTr, labels into labelsTr.")
    everything = Split(tuple(names), ())
    if len(names) == 1:
        return {"fold0": everything, "all": everything}
    order = np.random.default_rng(seed).permutation(len(names))
    count = min(folds, len(names))
    splits: dict[str, Split] = {}
    for fold in range(count):
        held_out = {names[i] for i in order[fold::count]}
        train = tuple(name for name in names if name not in held_out)
        splits[f"fold{fold}"] = Split(train, tuple(sorted(held_out)))
    return {**splits, "all": everything, **few_shot_splits(splits["fold0"], seed)}


def few_shot_splits(fold: Split, seed: int = SEED) -> dict[str, Split]:
    """``2-shot``, ``4-shot``, ... with other cases for other seeds: ``2-shot-seed1``, ...; the larger hold the smaller
    ones.

    They train on cases of ``fold`` and validate on some of its validation cases, which therefore can test all of them.
    """
    held_out = np.random.default_rng(seed).permutation(len(fold.validation))[:FEW_SHOT_VALIDATION]
    validation = tuple(sorted(fold.validation[i] for i in held_out))
    splits = {}
    for shots in (shots for shots in SHOTS if shots <= len(fold.train)):
        for shot_seed in SHOT_SEEDS:
            order = np.random.default_rng([seed, shot_seed]).permutation(len(fold.train))[:shots]
            splits[few_shot_name(shots, shot_seed)] = Split(tuple(sorted(fold.train[i] for i in order)), validation)
    return splits


def few_shot_name(shots: int, seed: int) -> str:
    """Name of the split that trains on ``shots`` cases drawn with ``seed``."""
    return f"{shots}-shot" + (f"-seed{seed}" if seed else "")


def write_splits(path: Path, splits: Mapping[str, Split]) -> None:
    """``splits.json``: {"fold0": {"train": [...], "validation": [...]}, ..., "all": {...}}."""
    write_text_atomically(path, json.dumps({name: asdict(split) for name, split in splits.items()}, indent=2) + "\n")


def load_splits(path: Path, cases: Sequence[str]) -> dict[str, Split]:
    """Read a splits file, made here or one's own; also nnU-Net's list of {"train", "val"}, named fold0, fold1, ...

    ``cases`` are the known names. UserError for a damaged file, an unknown case, an empty training list, a case on both
    sides.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file. Give a splits file, or run `plan_and_preprocess` to make one.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}). Correct it or make it again.") from error
    if isinstance(raw, list):
        raw = {f"fold{index}": entry for index, entry in enumerate(raw)}
    if not isinstance(raw, Mapping) or not raw:
        raise UserError(f'{path}: holds no split; write {{"fold0": {{"train": [...], "validation": [...]}}}}.')
    return {str(name): _split(path, str(name), entry, set(cases)) for name, entry in raw.items()}


def _split(path: Path, name: str, entry: Any, known: set[str]) -> Split:
    if not is_case_name(name):  # a folder of the model is named so
        raise UserError(f"{path}: '{name}' cannot be the name of a split: it holds a separator of folders. Give another.")
    if not isinstance(entry, Mapping) or "train" not in entry:
        raise UserError(f"{path}: split '{name}' has no list 'train'. Write {{\"train\": [...], \"validation\": [...]}}.")
    sides = (entry["train"], entry.get("validation", entry.get("val", [])))
    if not all(isinstance(side, list) and all(isinstance(case, str) for case in side) for side in sides):
        raise UserError(f"{path}: split '{name}' must list case names as text.")
    train, validation = (tuple(side) for side in sides)
    unknown = sorted({*train, *validation} - known)
    if unknown:
        raise UserError(
            f"{path}: split '{name}' names {', '.join(unknown[:5])}{' and more' if len(unknown) > 5 else ''}, not among the "
            f"{len(known)} cases of the data set. Correct the names."
        )
    if not train:
        raise UserError(f"{path}: split '{name}' has no training case. List at least one.")
    both = sorted(set(train) & set(validation))
    if both:
        raise UserError(f"{path}: split '{name}' both trains and validates on {', '.join(both[:5])}. Keep each on one side.")
    return Split(train, validation)
