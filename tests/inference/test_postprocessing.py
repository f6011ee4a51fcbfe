from __future__ import annotations

import numpy as np
import pytest

from diffatlas_pipeline.inference.postprocessing import postprocessed

BOTH = ("largest_component", "filled_holes")


def two_balls_and_a_shell() -> np.ndarray:
    """A ball of value 9 with a cavity in which lies a voxel of value 2, a speck of 9, and two equal specks of 2."""
    labels = np.zeros((20, 16, 14), dtype=np.int32)
    radius = np.linalg.norm(np.indices(labels.shape).T - (7, 7, 6), axis=-1).T
    labels[(radius < 5) & (radius > 2)] = 9
    labels[7, 7, 6] = 2
    labels[16:18, 3, 3] = 9
    labels[16:18, 8, 3] = labels[16:18, 12, 3] = 2
    return labels


def test_the_largest_component_stays() -> None:
    labels = two_balls_and_a_shell()
    before = labels.copy()
    done = postprocessed(labels, {9: BOTH[:1]})
    assert not (done[16:18, 3, 3] == 9).any() and (done == 9).sum() == (labels == 9).sum() - 2
    np.testing.assert_array_equal(done == 2, labels == 2)
    np.testing.assert_array_equal(labels, before)
    equal = postprocessed(labels, {2: BOTH[:1]})
    assert (equal == 2).sum() == 2 and (equal[16:18, 8, 3] == 2).all(), "of equal ones the first"


def test_parts_that_touch_at_a_corner_are_one() -> None:
    labels = np.zeros((4, 4, 4), dtype=np.int32)
    labels[:2, :2, :2] = labels[2:, 2:, 2:] = 1
    np.testing.assert_array_equal(postprocessed(labels, {1: BOTH}), labels)


def test_holes_are_filled_and_what_lies_in_them_stays() -> None:
    labels = two_balls_and_a_shell()
    done = postprocessed(labels, {9: BOTH[1:]})
    assert done[7, 7, 6] == 2 and (done[5:10, 7, 6] > 0).all()
    radius = np.linalg.norm(np.indices(labels.shape).T - (7, 7, 6), axis=-1).T
    np.testing.assert_array_equal(done[radius < 5] > 0, True)
    np.testing.assert_array_equal(done[radius >= 5], labels[radius >= 5])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_holes_of_a_single_slice_are_within_it(axis: int) -> None:
    ring = np.array([[0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 1, 1]], dtype=np.int32)
    volume = np.expand_dims(ring, axis)
    filled = postprocessed(volume, {1: BOTH})
    assert filled.shape == volume.shape and filled.sum() == 9
    thick = np.stack([volume, volume], axis).reshape([2 * n if i == axis else n for i, n in enumerate(volume.shape)])
    assert postprocessed(thick, {1: BOTH}).sum() == 16, "a channel through a volume is no hole"


def test_labels_that_are_absent_stay_so() -> None:
    labels = np.zeros((3, 1, 4), dtype=np.int32)
    assert not postprocessed(labels, {1: BOTH}).any()
    assert postprocessed(np.ones((1, 1, 1), dtype=np.int32), {1: BOTH}).all()
