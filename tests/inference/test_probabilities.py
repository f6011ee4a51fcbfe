"""Probabilities: as sharp as held-out cases say, on the scan's grid, of one mind with the labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

from diffatlas_pipeline.datasets.codes import codes_of
from diffatlas_pipeline.datasets.description import LabelClass, LabelSet
from diffatlas_pipeline.inference.probabilities import (
    SharpnessEvidence,
    agreeing,
    native_probabilities,
    write_probabilities,
)
from diffatlas_pipeline.methods.base import PlannedSegmentation
from diffatlas_pipeline.preprocessing.case import prepare_image, prepare_labels, restore_labels
from diffatlas_pipeline.volumes.grids import Grid, LabelVolume, TripleMm
from tests.factories import make_case, make_plan

VALUES = (1, 2)


def shares(distances: np.ndarray, sharpness: float) -> np.ndarray:
    """Probabilities (1 + K, ...) by their definition."""
    return softmax(np.concatenate([np.zeros_like(distances[:1]), -sharpness * distances]), axis=0)


@pytest.mark.parametrize("sharpness", [2.0, 6.0, 25.0])
def test_the_sharpness_is_that_by_which_labels_were_drawn(sharpness: float) -> None:
    generator, evidence = np.random.default_rng(3), SharpnessEvidence(2, LabelSet((LabelClass("a", 4), LabelClass("b", 9))))
    volume, _ = make_case((30, 30, 30))
    _, record = prepare_image(volume, make_plan())
    for _ in range(2):
        distances = generator.uniform(-0.6, 0.6, (2, *record.planned_shape)).astype(np.float32)
        distances[:, :10] = 1  # far from all borders
        drawn = generator.random(record.planned_shape) > shares(distances, sharpness).cumsum(axis=0)
        labels = np.array([0, 4, 9])[drawn.sum(axis=0)]
        labels[:10] = 4  # errors that tell nothing of borders
        native = np.zeros(record.native.shape, dtype=np.int64)
        native[tuple(slice(a, a + n) for a, n in zip(record.crop_start, record.crop_shape, strict=True))] = labels
        evidence.add(distances, record, LabelVolume(native, record.native))
    assert evidence.sharpness() == pytest.approx(sharpness, rel=0.05)


def test_without_borders_nothing_is_known() -> None:
    volume, labels = make_case()
    _, record = prepare_image(volume, make_plan())
    evidence = SharpnessEvidence(1, LabelSet(make_plan().dataset.labels))
    evidence.add(np.ones((2, *record.planned_shape), np.float32), record, labels)
    assert evidence.sharpness() is None


@pytest.mark.parametrize("planned", [(1.0, 1.0, 1.0), (1.4, 1.4, 1.2)])
def test_the_largest_is_that_of_the_label_and_outside_is_background(planned: TripleMm) -> None:
    volume, labels = make_case()
    plan = make_plan(spacing_mm=planned)
    _, record = prepare_image(volume, plan)
    distances = prepare_labels(labels, record, plan).clip(-1, 1)
    found = restore_labels(distances, record, plan)
    parts = native_probabilities(
        PlannedSegmentation(torch.from_numpy(distances)), record, 10.0, found, codes_of(plan.dataset.labels)
    )
    assert parts.shape == (3, *record.native.shape) and parts.dtype == np.float16
    np.testing.assert_array_equal(np.array([0, *VALUES])[parts.argmax(axis=0)], found)
    np.testing.assert_allclose(parts.astype(np.float32).sum(axis=0), 1, atol=2e-3)
    if planned == (1.0, 1.0, 1.0):
        assert record.crop_shape == record.native.shape
        right = shares(distances, 10.0)
        np.testing.assert_allclose(np.abs(parts.astype(np.float32) - right).max(), 0, atol=2e-3)


def test_several_draws_have_the_mean_of_their_probabilities() -> None:
    volume, _ = make_case()
    plan = make_plan()
    _, record = prepare_image(volume, plan)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.rand((2, *record.planned_shape), generator=generator) * 2 - 1 for _ in range(3)]
    mean = torch.stack(drawn).mean(dim=0)
    right = np.mean([shares(one.numpy(), 10.0) for one in drawn], axis=0)
    found = restore_labels(mean.numpy(), record, plan)
    segmentation = PlannedSegmentation(mean, probabilities=torch.from_numpy(right[1:].astype(np.float32)))
    parts = native_probabilities(segmentation, record, 10.0, found, codes_of(plan.dataset.labels)).astype(np.float32)
    np.testing.assert_array_equal(np.array([0, *VALUES])[parts.argmax(axis=0)], found)
    inside = tuple(slice(a, a + n) for a, n in zip(record.crop_start, record.crop_shape, strict=True))
    agreed = found[inside] == right.argmax(axis=0)
    assert 0.5 < agreed.mean() < 1, "where the labels of the mean are others, two numbers are exchanged"
    np.testing.assert_allclose(parts[(slice(None), *inside)][:, agreed], right[:, agreed], atol=2e-3)
    np.testing.assert_allclose(np.sort(parts[(slice(None), *inside)], axis=0), np.sort(right, axis=0), atol=2e-3)


def test_ties_and_changed_labels_are_settled() -> None:
    parts = np.array([[0.5, 0.4, 0.8, 0.2], [0.5, 0.4, 0.1, 0.2], [0.0, 0.2, 0.1, 0.6]], dtype=np.float16)[:, :, None, None]
    labels = np.array([1, 1, 7, 0])[:, None, None]
    done = agreeing(parts.copy(), labels, (1, 7))[..., 0, 0]
    np.testing.assert_array_equal(done.argmax(axis=0), [1, 1, 2, 0])
    np.testing.assert_allclose(done[:, 2:].T, [[0.1, 0.1, 0.8], [0.6, 0.2, 0.2]], rtol=1e-3)
    np.testing.assert_allclose(done[:, :2], parts[:, :2, 0, 0], rtol=1e-3)


def test_the_file_is_read_without_pickle(tmp_path: Path) -> None:
    grid = Grid.of((2, 3, 1), np.diag([0.5, 0.6, 3.0, 1.0]))
    parts = np.random.default_rng(0).random((2, 2, 3, 1)).astype(np.float16)
    path = tmp_path / "new" / "a.npz"
    write_probabilities(path, parts, grid, [LabelClass("Ödem", 4)])
    with np.load(path, allow_pickle=False) as kept:
        np.testing.assert_array_equal(kept["probabilities"], parts)
        assert kept["values"].tolist() == [0, 4] and kept["names"].tolist() == ["background", "Ödem"]
        np.testing.assert_allclose(kept["spacing_mm"], (0.5, 0.6, 3.0))
        np.testing.assert_allclose(kept["affine"], grid.matrix)
    assert [path.name for path in path.parent.iterdir()] == ["a.npz"]
