"""The fixed protocols: which cases train and which test, made ready through the public commands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.case_lists import few_shot_splits, lists_of, read_protocol
from benchmarks.commands import do
from benchmarks.contrasts import TEST, VALIDATION, write_contrast
from benchmarks.raw_data import (
    CARDIAC,
    HEARTS,
    HIPPOCAMPUS,
    HIPPOCAMPUS_ID,
    place_cardiac,
    place_hearts,
    place_hippocampus,
)
from diffatlas_pipeline.benchmark.choices import Setting
from diffatlas_pipeline.files import write_text_atomically

PROTOCOLS = (HIPPOCAMPUS, *HEARTS, *CARDIAC)


@dataclass(frozen=True)
class Prepared:
    """A planned data set: its number, and the options that name the protocol's splits."""

    number: int
    options: tuple[str, ...] = ()


def fold_of(split: str, seed: int) -> str:
    """What a training of ``split`` with ``seed`` is called."""
    return f"{split}_seed{seed}" if seed else split


def prepare(
    protocol: str,
    data: Path | None,
    workspace: Path,
    seeds: Iterable[int],
    settings: Iterable[str] = (),
    planning: Sequence[str] = (),
) -> Prepared:
    """Make the raw data of ``protocol`` and its plan, from its training pool in the few-shot settings too.

    ``data`` holds the real data sets; ``settings`` name those with simulated contrasts that are to be made;
    ``planning`` are further words for DiffAtlas_plan_and_preprocess. UserError if something is not there.
    """
    if protocol in HEARTS:
        return prepare_hearts(protocol, workspace, planning)
    if protocol in CARDIAC:
        number = CARDIAC[protocol][1]
        for sequence in CARDIAC:  # one trains and tests, the other one tests
            place_cardiac(sequence, data, workspace)
    else:
        number = HIPPOCAMPUS_ID
        folder = place_hippocampus(data, workspace)
        named = {Setting.parse(text).dataset for text in settings}
        for contrast in TEST | VALIDATION:
            if str(contrast) in named:
                write_contrast(contrast, folder)
    do("plan_and_preprocess", ["-d", str(number), *planning, "--workspace", str(workspace)])
    splits = few_shot_splits(read_protocol(lists_of(protocol)), seeds)
    file = workspace / "benchmark_splits" / f"{protocol}.json"
    write_text_atomically(file, json.dumps(splits, indent=2) + "\n")
    return Prepared(number, ("--splits-file", str(file)))


def prepare_hearts(protocol: str, workspace: Path, planning: Sequence[str] = ()) -> Prepared:
    """Generated hearts of both modalities: one trains and tests, the other one tests."""
    place_hearts(workspace)
    for _, number in HEARTS.values():
        do("plan_and_preprocess", ["-d", str(number), *planning, "--workspace", str(workspace)])
    return Prepared(HEARTS[protocol][1])
