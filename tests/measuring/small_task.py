"""A task in the Decathlon's layout, and lists of its cases, small enough to train on in seconds."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks import case_lists, contrasts, protocols, raw_data
from benchmarks.commands import CommandFailed
from tests.planning.raw_data import ball_case, write_nifti

TEST = 2
FEW_WORKERS = {"train": "0", "plan_and_preprocess": "1"}


def write_task(folder: Path, training: int = 6) -> Path:
    """Balls of labels 3 and 7. ``protocol.json`` lists ``training`` cases as ``full``, two of them as ``2-shot``, two
    others as ``test``.
    """
    names = [f"ball_{index:03d}" for index in range(training + TEST)]
    for index, name in enumerate(names):
        image, labels = ball_case(seed=index)
        write_nifti(folder / "imagesTr" / f"{name}.nii.gz", image, np.eye(4))
        write_nifti(folder / "labelsTr" / f"{name}.nii.gz", labels, np.eye(4))
    description = {
        "name": "Balls",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "3": "large", "7": "small"},
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    full = names[:training]
    protocol = {"test": names[training:], "full": full, "2-shot": full[:2], "4-shot": full[:3], "8-shot": full[:3]}
    (folder / "protocol.json").write_text(json.dumps({**protocol, "16-shot": full[:3]}))
    return folder


def use_lists(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Let every protocol have the lists in ``file``."""
    for module in (case_lists, contrasts, protocols, raw_data):
        monkeypatch.setattr(module, "lists_of", lambda _: file)


def run_here(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
    """Let benchmarks run the commands in this process, alone: half of such a small run is the start of processes."""

    def do(command: str, words: Sequence[str]) -> float:
        start, alone = time.monotonic(), ["--workers", FEW_WORKERS[command]] if command in FEW_WORKERS else []
        try:
            importlib.import_module(f"diffatlas_pipeline.commands.{command}").main([*words, *alone])
        except SystemExit as ended:
            if ended.code:
                raise CommandFailed(command, int(ended.code)) from ended
        return time.monotonic() - start

    for module in (protocols, raw_data, contrasts, *modules):
        if hasattr(module, "do"):
            monkeypatch.setattr(module, "do", do)
