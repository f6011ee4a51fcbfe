"""Memory after many scans is that after a few."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.methods.registry import create_method
from diffatlas_pipeline.models.folder import TrainedFold
from diffatlas_pipeline.volumes.grids import Grid, Volume
from tests.inference.closed_form import CPU, scan, segmented
from tests.model_files import plan, recipe

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
