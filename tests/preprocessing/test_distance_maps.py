from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.preprocessing import distance_maps
from diffatlas_pipeline.preprocessing.distance_maps import STORED_LIMIT, decode_labels, encode_labels

CLASSES = (LabelClass("a", 3), LabelClass("b", 250), LabelClass("c", -1))
VALUES = [label.value for label in CLASSES]


@settings(max_examples=40)
@given(
    labels=arrays(np.int16, (6, 5, 4), elements=st.sampled_from([0, *VALUES])),
    spacing=st.tuples(*[st.floats(0.3, 5)] * 3),
    tau=st.floats(0.5, 10),
)
def test_any_labels_survive_in_single_and_half_precision(
    labels: np.ndarray, spacing: tuple[float, float, float], tau: float
) -> None:
    """Thin sheets, single voxels and labels that touch included: each voxel centre is inside its own label only."""
    maps = encode_labels(labels, CLASSES, spacing, tau)
    assert maps.dtype == np.float32 and np.abs(maps).max() <= STORED_LIMIT
    np.testing.assert_array_equal(decode_labels(maps, VALUES), labels)
    np.testing.assert_array_equal(decode_labels(maps.astype(np.float16), VALUES), labels)


def test_distance_is_in_units_of_tau_and_mm() -> None:
    labels = np.zeros((9, 3, 3), dtype=np.int16)
    labels[:4] = 3
    expected = np.clip(2.0 * (np.arange(9) - 3.5) / 4.0, -STORED_LIMIT, STORED_LIMIT)
    np.testing.assert_allclose(encode_labels(labels, CLASSES[:1], (2.0, 1.0, 1.0), tau_mm=4.0)[0, :, 1, 1], expected, atol=1e-6)


def test_absent_label_is_outside_everywhere() -> None:
    assert (encode_labels(np.full((4, 4, 4), 3), CLASSES, (1, 1, 1), 2.0)[1:] == STORED_LIMIT).all()


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ((-0.1, -0.2, 0.3), 250),
        ((-0.2, -0.2, 0.3), 3),  # a tie goes to the first
        ((0.0, 0.0, 0.3), 3),  # on the face between two labels
        ((0.3, 0.0, 0.0), 250),
        ((0.0, 0.4, 0.3), 0),  # on the surface of one
        ((0.1, 0.2, 0.3), 0),
    ],
)
def test_rules_of_decoding(distances: tuple[float, ...], expected: int) -> None:
    maps = np.asarray(distances, dtype=np.float32).reshape(3, 1, 1, 1)
    assert decode_labels(maps, VALUES).item() == expected


def test_slabs_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = np.random.default_rng(0).normal(size=(3, 17, 8, 9)).astype(np.float32)
    whole = decode_labels(maps, VALUES)
    monkeypatch.setattr(distance_maps, "_SLAB_BYTES", 3 * 8 * 9 * 4 * 2)
    np.testing.assert_array_equal(decode_labels(maps, VALUES), whole)


def test_no_labels_is_all_background() -> None:
    assert (decode_labels(np.empty((0, 2, 3, 4), dtype=np.float32), []) == 0).all()
