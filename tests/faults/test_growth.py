"""Memory after many scans is that after a few, and that of many cases is that of a few."""

import os
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffatlas_pipeline.datasets.description import RawDataset
from diffatlas_pipeline.datasets.raw import read_dataset
from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.methods.registry import create_method, default_recipes
from diffatlas_pipeline.models.folder import TrainedFold
from diffatlas_pipeline.planning import measure
from diffatlas_pipeline.planning.plan import Budget
from diffatlas_pipeline.planning.planner import make_plan
from diffatlas_pipeline.preprocessing.run import preprocess_dataset
from diffatlas_pipeline.volumes.grids import Grid, Volume
from tests.inference.closed_form import CPU, scan, segmented
from tests.model_files import plan, recipe
from tests.planning.raw_data import write_dataset

MOST_MB = 16.0


def resident_mb() -> float:
    """Not the peak: other tests of this process may have set it."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what a process holds now")
def test_memory_does_not_grow_with_the_scans() -> None:
    torch.manual_seed(0)
    state = create_method("diffatlas", plan(), recipe()).build_network().state_dict()
    predictor = Predictor([TrainedFold(plan(), "diffatlas", "default", "fold0", state, {})], CPU, recipe())
    image, _ = scan((12, 20, 18))
    volume, held = Volume(image[None], Grid.of(image.shape, np.eye(4))), []
    for _ in range(50):
        segmented(predictor, volume, distances=True)
        held.append(resident_mb())
    assert held[-1] - held[9] < MOST_MB, held[9::10]


FEW, MANY = 6, 42
MOST_BYTES_A_CASE = 4096  # its name, shape and statistics; a volume has a hundred times as many


def many(dataset: RawDataset, count: int) -> RawDataset:
    """``count`` cases that have the files of the first one."""
    return replace(dataset, training=tuple(replace(dataset.training[0], case=f"case{index}") for index in range(count)))


def growth(work: Callable[[int], object]) -> float:
    """Bytes at the peak by which each further case raises it."""
    peaks = {}
    for count in (FEW, FEW, MANY):  # the first round is to import what is needed
        tracemalloc.start()
        work(count)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return (peaks[MANY] - peaks[FEW]) / (MANY - FEW)


def test_memory_of_planning_and_preprocessing_does_not_grow_with_the_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = read_dataset(write_dataset(tmp_path / "raw", cases=1, shape=(48, 48, 48)))
    monkeypatch.setattr(measure, "MOST_SAMPLES", 600)
    monkeypatch.setattr(measure, "MOST_SPECTRA", FEW)
    assert growth(lambda count: measure.compute_fingerprint(many(dataset, count), 1)) < MOST_BYTES_A_CASE
    planned = make_plan(measure.compute_fingerprint(many(dataset, 1), 1), Budget(8, "cpu", "cpu"), default_recipes())
    assert (
        growth(lambda count: preprocess_dataset(many(dataset, count), planned, tmp_path / "cases", 1, True)) < MOST_BYTES_A_CASE
    )
