"""A step is taken where held-out cases say so, and not by chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.models.postprocessing import Postprocessing
from diffatlas_pipeline.training.choose_postprocessing import chosen_postprocessing

LABELS = (LabelClass("organ", 5), LabelClass("absent", 6))
Change = Callable[[np.ndarray, int], None]


def true_labels() -> np.ndarray:
    labels = np.zeros((14, 14, 14), dtype=np.int32)
    labels[2:9, 2:9, 2:9] = 5
    return labels


def chosen(change: Change, cases: int = 6, truth: Change = lambda *_: None) -> Postprocessing:
    """Of ``cases`` whose segmentations are changed true labels."""
    pairs = []
    for case in range(cases):
        right, found = true_labels(), true_labels()
        truth(right, case)
        change(found, case)
        pairs.append((found, right))
    return chosen_postprocessing(pairs, LABELS)


def speck(labels: np.ndarray, case: int) -> None:
    labels[11:13, 11:13, 11] = 5


def hole(labels: np.ndarray, case: int) -> None:
    labels[4:6, 4:6, 4] = 0


def speck_in_one(labels: np.ndarray, case: int) -> None:
    if case == 2:
        speck(labels, case)


def true_in_one(labels: np.ndarray, case: int) -> None:
    if case == 0:
        labels[11:13, 11:13, 11] = 5


def test_specks_and_holes_are_measured_and_mended() -> None:
    def both(labels: np.ndarray, case: int) -> None:
        speck(labels, case)
        hole(labels, case)

    found = chosen(both)
    assert found.taken == {"organ": ("largest_component", "filled_holes")}
    largest, filled, *absent = found.measured
    size, lost = 7**3, 4
    assert (largest.cases, largest.better, largest.worse) == (6, 6, 0)
    assert largest.dice_before == pytest.approx(2 * (size - lost) / (2 * size - lost + 4))
    assert largest.dice_after == filled.dice_before == pytest.approx(2 * (size - lost) / (2 * size - lost))
    assert filled.dice_after == 1
    assert all((one.label, one.taken, one.cases, one.dice_before) == ("absent", False, 0, None) for one in absent)


@pytest.mark.parametrize(
    ("change", "cases", "truth"),
    [
        (lambda *_: None, 6, lambda *_: None),  # nothing to mend
        (speck, 3, lambda *_: None),  # too few cases
        (speck_in_one, 6, lambda *_: None),  # one lucky case
        (speck, 6, true_in_one),  # in one of six cases the speck is true
        (speck, 6, speck),  # the organ has two parts
    ],
)
def test_what_may_be_chance_is_left_alone(change: Change, cases: int, truth: Change) -> None:
    assert chosen(change, cases, truth).taken == {}


def test_one_worse_case_of_many_is_borne() -> None:
    assert chosen(speck, 10, true_in_one).taken == {"organ": ("largest_component",)}


def test_cases_without_the_label_do_not_count() -> None:
    def gone(labels: np.ndarray, case: int) -> None:
        if case >= 3:
            labels[:] = 0

    def speck_everywhere(labels: np.ndarray, case: int) -> None:
        gone(labels, case)
        speck(labels, case)

    found = chosen(speck_everywhere, cases=10, truth=gone)
    assert not found.taken and found.measured[0].cases == 3
