"""The fixed protocols: which cases train and which test, made ready through the public commands."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import do
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import write_text_atomically

HIPPOCAMPUS = "hippocampus"
HIPPOCAMPUS_ID, HIPPOCAMPUS_NAME = 4, "Hippocampus"
SETTINGS = ("full", "2-shot", "4-shot", "8-shot", "16-shot")
VALIDATION_CASES = 16  # of the rest of the training pool, the same in every few-shot setting
VALIDATION_SEED = 2025
HEARTS = {"heart-ct": ("CT", 11), "heart-mri": ("MRI", 12)}
HEART_CASES, HEART_TEST_CASES, HEART_SIZE = 40, 12, 48
PROTOCOLS = (HIPPOCAMPUS, *HEARTS)
CASES = Path(__file__).parent / "hippocampus_protocol.json"  # names of the cases that train in each setting, and that test


@dataclass(frozen=True)
class Prepared:
    """A planned data set: its number, and the options that name the protocol's splits."""

    number: int
    options: tuple[str, ...] = ()


def prepare(protocol: str, data: Path | None, workspace: Path, seeds: Iterable[int]) -> Prepared:
    """Make the raw data of ``protocol`` and its plan. UserError if ``data`` is not the folder Task04_Hippocampus."""
    if protocol == HIPPOCAMPUS:
        return prepare_hippocampus(data, workspace, seeds)
    return prepare_hearts(protocol, workspace)


def prepare_hippocampus(data: Path | None, workspace: Path, seeds: Iterable[int]) -> Prepared:
    """The plan is made from all 160 training cases, in the few-shot settings too."""
    if data is None or not (data / "dataset.json").is_file():
        raise UserError(f"--data {data}: no dataset.json there. Give the folder Task04_Hippocampus, or DIFFATLAS_TEST_DATA.")
    splits = few_shot_splits(read_protocol(CASES), seeds)
    shared = ["--workspace", str(workspace)]
    cases = ["--cases-from-json", f"{CASES}:full", "--test-from-json", f"{CASES}:test"]
    do("convert", ["msd", "-i", str(data), "-d", str(HIPPOCAMPUS_ID), "--name", HIPPOCAMPUS_NAME, *cases, *shared])
    do("plan_and_preprocess", ["-d", str(HIPPOCAMPUS_ID), *shared])
    file = workspace / "benchmark_splits" / "hippocampus.json"
    write_text_atomically(file, json.dumps(splits, indent=2) + "\n")
    return Prepared(HIPPOCAMPUS_ID, ("--splits-file", str(file)))


def prepare_hearts(protocol: str, workspace: Path) -> Prepared:
    """Generated hearts of both modalities: one trains and tests, the other one tests."""
    shared = ["--workspace", str(workspace)]
    for modality, number in HEARTS.values():
        size = ["--cases", str(HEART_CASES), "--test-cases", str(HEART_TEST_CASES), "--size", str(HEART_SIZE)]
        do("convert", ["phantom", "-d", str(number), "--modality", modality, *size, *shared])
        do("plan_and_preprocess", ["-d", str(number), *shared])
    return Prepared(HEARTS[protocol][1])


def read_protocol(path: Path) -> dict[str, list[str]]:
    """Lists of cases: ``test`` and one for each setting. UserError for a damaged file, or a test case in a setting."""
    try:
        protocol = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: [str(case) for case in protocol[name]] for name in ("test", *SETTINGS)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a protocol with the lists test, {', '.join(SETTINGS)} ({error!r}).") from error
    for name in SETTINGS:
        wrong = set(lists[name]) & set(lists["test"]) or set(lists[name]) - set(lists["full"])
        if wrong:
            raise UserError(f"{path}: '{name}' names {min(wrong)}, which is a test case or not in 'full'. Restore the file.")
    return lists


def few_shot_splits(protocol: dict[str, list[str]], seeds: Iterable[int]) -> dict[str, dict[str, list[str]]]:
    """Every few-shot setting as a split. All seeds train on the protocol's cases, not on draws of their own."""
    splits = {setting: few_shot_split(protocol, setting) for setting in SETTINGS if setting != "full"}
    return splits | {f"{name}-seed{seed}": split for name, split in splits.items() for seed in seeds if seed}


def few_shot_split(protocol: dict[str, list[str]], setting: str) -> dict[str, list[str]]:
    """Training and validation cases; the validation cases are those of the pool that no few-shot setting trains on."""
    used = {case for name in SETTINGS if name != "full" for case in protocol[name]}
    rest = sorted(set(protocol["full"]) - used)
    chosen = random.Random(VALIDATION_SEED).sample(rest, min(VALIDATION_CASES, len(rest)))
    return {"train": list(protocol[setting]), "validation": sorted(chosen)}
