"""A segmentation follows the slices that a reader has drawn, and the slices between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffatlas_pipeline.datasets.codes import codes_of
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.inference.drawn_slices import followed, weights
from diffatlas_pipeline.methods.base import PlannedSegmentation
from diffatlas_pipeline.planning.plan import DistancePlan, Plan
from diffatlas_pipeline.preprocessing.distance_maps import decode_labels, encode_labels
from diffatlas_pipeline.preprocessing.drawing import UNKNOWN, Drawing
from tests.model_files import plan as model_plan

SHAPE, TAU_MM = (21, 30, 28), 4.0
CLASSES = (LabelClass("small", 2), LabelClass("large", 7))


def plan(classes: tuple[LabelClass, ...] = CLASSES, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Plan:
    made = model_plan()
    dataset = replace(made.dataset, labels=classes)
    return replace(made, dataset=dataset, distance=DistancePlan(TAU_MM, 1.0), spacing_mm=spacing_mm)


def tubes(small: float, large: float) -> np.ndarray:
    """Two tubes along X, of these radii."""
    y, z = np.indices(SHAPE)[1:]
    labels = np.where(np.hypot(y - 9, z - 14) < large, 7, 0)
    return np.where(np.hypot(y - 22, z - 14) < small, 2, labels)


def found_as(labels: np.ndarray, planned: Plan) -> PlannedSegmentation:
    return PlannedSegmentation(torch.from_numpy(encode_labels(labels, planned.dataset.labels, planned.spacing_mm, TAU_MM)))


def drawing(labels: np.ndarray, known: np.ndarray, planned: Plan) -> Drawing:
    classes = planned.dataset.labels
    signs = np.stack([np.where(label.mask(labels), -1, 1) * known for label in classes]).astype(np.float32)
    return Drawing(np.where(known, labels, UNKNOWN), signs, classes)


def across(axis: int, *places: int) -> np.ndarray:
    known = np.zeros(SHAPE, dtype=bool)
    np.moveaxis(known, axis, 0)[list(places)] = True
    return known


def segmented(truth: np.ndarray, found: np.ndarray, known: np.ndarray, planned: Plan | None = None) -> np.ndarray:
    planned = planned or plan()
    codes = codes_of(planned.dataset.labels)
    result = followed(found_as(found, planned), drawing(truth, known, planned), planned, codes)
    return decode_labels(result.distances.numpy(), codes)


def test_between_two_slices_a_constant_error_is_mended_whole() -> None:
    truth, found = tubes(4.2, 7.3), tubes(5.6, 5.9)
    np.testing.assert_array_equal(segmented(truth, found, across(0, 0, SHAPE[0] - 1)), truth)


def test_beyond_the_last_slice_it_fades() -> None:
    truth, found = tubes(4.2, 7.3), tubes(4.2, 5.3)
    result = segmented(truth, found, across(0, 4))
    wrong = (result != truth).mean(axis=(1, 2))
    assert wrong[4] == 0 and (np.diff(wrong[4:]) >= 0).all() and (np.diff(wrong[:5]) <= 0).all()
    np.testing.assert_array_equal(result[-1], found[-1])


def test_what_is_right_already_stays_as_it_is() -> None:
    truth, planned = tubes(4.2, 7.3), plan()
    found = found_as(truth, planned)
    before = found.distances.clone()
    after = followed(found, drawing(truth, across(1, 5, 20) | across(2, 7), planned), planned, codes_of(CLASSES))
    assert torch.equal(after.distances, before)


def test_a_structure_that_is_nowhere_in_the_slices_is_not_between_them() -> None:
    truth = tubes(0, 7.3)
    assert not (segmented(truth, tubes(4.2, 7.3), across(0, 2, 18))[2:19] == 2).any()


def test_slices_across_several_axes_agree() -> None:
    truth, found = tubes(4.2, 7.3), tubes(5.6, 5.9)
    known = across(0, 0, 20) | across(1, 9, 22) | across(2, 14)
    errors = {name: (segmented(truth, found, part) != truth).sum() for name, part in (("all", known), ("one", across(2, 14)))}
    assert errors["all"] < errors["one"] < (found != truth).sum()
    np.testing.assert_array_equal(segmented(truth, found, known)[known], truth[known])


def test_regions_that_overlap() -> None:
    classes = (LabelClass("whole", 7, (7, 2)), LabelClass("core", 2))
    truth, found = tubes(4.2, 7.3), tubes(5.6, 5.9)
    np.testing.assert_array_equal(segmented(truth, found, across(0, 0, 20), plan(classes)), truth)


@pytest.mark.parametrize("known", [np.s_[5:15, 5:25, 5:25], np.s_[:, :, :14:2], np.s_[0:0]], ids=["box", "parts", "nothing"])
def test_only_whole_slices_are_followed(known: tuple[slice, ...]) -> None:
    looked_at = np.zeros(SHAPE, dtype=bool)
    looked_at[known] = True
    looked_at[:, 0] = False
    truth, planned = tubes(4.2, 7.3), plan()
    found = found_as(tubes(5.6, 5.9), planned)
    assert followed(found, drawing(truth, looked_at, planned), planned, codes_of(CLASSES)) is found


def test_weights_are_linear_between_and_gaussian_beyond() -> None:
    made = weights(np.array([2, 6, 7]), 10, 0.5)
    np.testing.assert_allclose(made[[2, 6, 7]], np.eye(3))
    np.testing.assert_allclose(made[3], [0.75, 0.25, 0])
    np.testing.assert_allclose(made.sum(axis=1)[2:8], 1, rtol=1e-6)
    np.testing.assert_allclose(made[[0, 9]].max(axis=1), np.exp(-0.5), rtol=1e-6)
    assert made[0].argmax() == 0 and made[9].argmax() == 2
