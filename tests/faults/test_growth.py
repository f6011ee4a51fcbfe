"""Memory after many scans is that after a few."""

import sys

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


@pytest.mark.skipif(sys.platform == "win32", reason="Windows tells no peak")
def test_memory_does_not_grow_with_the_scans() -> None:
    import resource

    torch.manual_seed(0)
    state = create_method("diffatlas", plan(), recipe()).build_network().state_dict()
    predictor = Predictor([TrainedFold(plan(), "diffatlas", "default", "fold0", state, {})], CPU, recipe())
    image, _ = scan((12, 20, 18))
    volume, peaks = Volume(image[None], Grid.of(image.shape, np.eye(4))), []
    unit = 2**20 if sys.platform == "darwin" else 2**10
    for _ in range(50):
        segmented(predictor, volume, distances=True)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
    assert peaks[-1] - peaks[9] < MOST_MB, peaks[9::10]
