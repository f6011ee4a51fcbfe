"""A trained model segments alike in either precision, and however many windows it sees at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.inference.result import Result
from diffatlas_pipeline.methods.registry import create_method
from diffatlas_pipeline.models.folder import TrainedFold
from diffatlas_pipeline.preprocessing.distance_maps import encode_labels
from diffatlas_pipeline.training.loop import Run, train
from diffatlas_pipeline.training.schedule import Duration
from diffatlas_pipeline.volumes.grids import Grid, Volume
from tests.inference.closed_form import CPU, overlap, scan, segmented
from tests.model_files import plan, recipe

ITERATIONS = 120
LEAST_OVERLAP = 0.98
"""Dice of a label segmented in bfloat16 with that in float32; documentation/explanation/reliability.md says so."""


@contextmanager
def crops(first: int) -> Iterator[Iterator[dict[str, torch.Tensor]]]:
    image, labels = scan()
    low, high = np.percentile(image, (0.5, 99.5))
    shown = torch.from_numpy(np.clip(2 * (image - low) / (high - low) - 1, -1, 1).astype(np.float32))[None]
    distances = torch.from_numpy(encode_labels(labels, plan().dataset.labels, (1.0, 1.0, 1.0), plan().distance.tau_mm))

    def stream() -> Iterator[dict[str, torch.Tensor]]:
        rng = np.random.default_rng(first)
        while True:
            corner = [int(rng.integers(0, size - 15)) for size in image.shape]
            window = (..., *(slice(start, start + 16) for start in corner))
            yield {"image": shown[window][None], "distances": distances[window][None]}

    yield stream()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedFold:
    learnt = replace(plan(), training=replace(plan().training, optimiser="muon", learning_rate=0.01))
    folder = tmp_path_factory.mktemp("fold")
    run = Run(folder, Duration(ITERATIONS), 0, CPU, {}, precision="float32", quiet=True)
    weights = train(create_method("diffatlas", learnt, recipe()), run, crops, None).weights  # type: ignore[arg-type]
    return TrainedFold(learnt, "diffatlas", "default", "fold0", weights, {})


def segmentation(trained: TrainedFold, precision: str, batch_size: int = 1) -> Result:
    image, _ = scan()
    predictor = Predictor([trained], CPU, recipe(), 0, precision, batch_size=batch_size)
    return segmented(predictor, Volume(image[None], Grid.of(image.shape, np.eye(4))), distances=True)


@pytest.mark.slow
def test_precisions_agree(trained: TrainedFold) -> None:
    full, half = (segmentation(trained, precision) for precision in ("float32", "bfloat16"))
    _, labels = scan()
    assert full.distances_mm is not None and half.distances_mm is not None
    assert not np.array_equal(full.distances_mm, half.distances_mm), "nothing was computed in bfloat16"
    for value in (2, 7):
        assert overlap(full.labels == value, labels == value) > 0.7, "it has learnt"
        assert overlap(full.labels == value, half.labels == value) > LEAST_OVERLAP
    assert np.abs(full.distances_mm - half.distances_mm).mean() < 0.05 * plan().distance.tau_mm


@pytest.mark.slow
def test_windows_at_a_time_do_not_matter(trained: TrainedFold) -> None:
    one, three = (segmentation(trained, "float32", size) for size in (1, 3))
    assert one.distances_mm is not None and three.distances_mm is not None
    np.testing.assert_allclose(one.distances_mm, three.distances_mm, atol=1e-3 * plan().distance.tau_mm)
    assert (one.labels != three.labels).mean() < 1e-4
