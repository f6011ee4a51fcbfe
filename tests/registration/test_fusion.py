"""Fusion rules on volumes small enough to work out by hand."""

import numpy as np
import pytest

from diffatlas_pipeline.preprocessing.distance_maps import decode_labels
from diffatlas_pipeline.registration.fusion import (
    FUSIONS,
    distances_of,
    labels_of,
    local_votes,
    weighted_mean,
    weights_of,
)

MM = (1.0, 1.0, 1.0)


def maps(*rows: list[list[float]]) -> np.ndarray:
    """One atlas per argument, each a list over labels of distances along x: (N, K, X, 1, 1)."""
    return np.array(rows, np.float32)[..., None, None]


def test_the_mean_is_weighted_voxel_by_voxel() -> None:
    distances = maps([[-1.0, 0.5]], [[1.0, 0.5]])
    weights = np.array([[3.0, 1.0], [1.0, 1.0]], np.float32)[..., None, None]
    assert np.allclose(weighted_mean(distances, weights)[0, :, 0, 0], [-0.5, 0.5])


def test_a_vote_is_not_worth_more_for_being_deep_inside() -> None:
    distances = maps([[-1.0] * 4], [[0.4] * 4], [[0.4] * 4])
    alike = np.ones((3, 4, 1, 1), np.float32)
    assert (weighted_mean(distances, alike) < 0).all()
    assert (local_votes(distances, alike, MM, 3.0) > 0).all()
    heavy = alike.copy()
    heavy[0] = 3
    assert (local_votes(distances, heavy, MM, 3.0) < 0).all()


def test_votes_keep_the_surface_between_voxel_centres() -> None:
    """Surface at x = 3.3: the voxel centre at 3 lies 0.3 mm inside, that at 4 lies outside by more than half a
    voxel.
    """
    x = np.arange(8, dtype=np.float32)
    distances = np.clip((x - 3.3) / 3, -1, 1)[None, None, :, None, None]
    fused = local_votes(distances, np.ones((1, 8, 1, 1), np.float32), MM, 3.0)[0, :, 0, 0]
    # half a voxel is as far as a vote sees; from there on it is the distance from the fused label map, whose face is at
    # 3.5
    assert np.allclose(fused[1:6] * 3, [-2.5, -1.5, -0.3, 0.5, 1.5], atol=1e-5)


def test_the_majority_wins_and_a_tie_is_background() -> None:
    rows = [[-1.0, 1.0, 1.0], [1.0, -1.0, -1.0]]
    other = [[-1.0, -1.0, 1.0], [1.0, 1.0, 1.0]]
    alike = np.ones((2, 3, 1, 1), np.float32)
    two = FUSIONS["majority"](maps(rows, other), alike, MM, 3.0)
    assert list(labels_of(two)[:, 0, 0]) == [1, 1, 0]  # 1 against 2: the first; 2 against background: background
    three = FUSIONS["majority"](maps(rows, rows, other), np.ones((3, 3, 1, 1), np.float32), MM, 3.0)
    assert list(labels_of(three)[:, 0, 0]) == [1, 2, 2]


def test_staple_believes_the_reliable() -> None:
    """Two atlases that agree and one that names everything at random."""
    rng = np.random.default_rng(0)
    truth = np.zeros((12, 12, 12), int)
    truth[3:9, 3:9, 2:6], truth[3:9, 3:9, 6:10] = 1, 2
    wild = rng.integers(0, 3, truth.shape)
    distances = np.stack([distances_of(one, 2, MM, 3.0) for one in (truth, truth, wild)])
    fused = FUSIONS["staple"](distances, np.ones((3, *truth.shape), np.float32), MM, 3.0)
    assert np.array_equal(labels_of(fused), truth)


@pytest.mark.parametrize("rule", FUSIONS)
def test_atlases_that_agree_are_repeated(rule: str) -> None:
    truth = np.zeros((8, 9, 7), int)
    truth[2:6, 2:5, 1:6], truth[2:6, 5:8, 1:6] = 1, 2
    distances = np.stack([distances_of(truth, 2, MM, 3.0)] * 3)
    fused = FUSIONS[rule](distances, np.ones((3, *truth.shape), np.float32), MM, 3.0)
    assert np.array_equal(decode_labels(fused, (1, 2)), truth)
    assert fused.shape == distances.shape[1:] and np.abs(fused).max() <= 1


def test_weights_follow_likeness_not_contrast() -> None:
    rng = np.random.default_rng(1)
    image = rng.uniform(-1, 1, (1, 12, 12, 12)).astype(np.float32)
    half = image.copy()
    half[:, 6:] = rng.uniform(-1, 1, half[:, 6:].shape)
    known = np.ones(image.shape[1:], bool)
    weights = weights_of(image, -half, known, MM)
    assert weights[:4].mean() > 20 * weights[8:].mean()
    nowhere = weights_of(image, image, ~known, MM)
    assert nowhere.max() == nowhere.min() > 0 and nowhere.max() < weights.min() + 1e-9
