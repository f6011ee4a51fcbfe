from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffatlas_pipeline.inference.tiling import importance, windows

sizes = st.tuples(*[st.tuples(st.integers(1, 12), st.integers(0, 25))] * 3)


@given(sizes, st.sampled_from([0.0, 0.25, 0.5, 0.75]))
def test_windows_cover_everything_stay_inside_and_overlap(pairs: tuple, overlap: float) -> None:
    patch = tuple(window for window, _ in pairs)
    shape = tuple(window + extra for window, extra in pairs)
    starts = windows(shape, patch, overlap)
    assert len(set(starts)) == len(starts)
    for axis in range(3):
        first = sorted({start[axis] for start in starts})
        assert first[0] == 0
        assert first[-1] + patch[axis] == shape[axis]
        steps = np.diff(first)
        # At least the asked overlap; a window of one voxel cannot overlap, its neighbours only touch.
        assert all(step <= max(1, patch[axis] * (1 - overlap)) for step in steps)
        assert len(steps) == 0 or steps.max() - steps.min() <= 1


def test_known_windows() -> None:
    assert windows((10, 4, 1), (4, 4, 1)) == [(0, 0, 0), (2, 0, 0), (4, 0, 0), (6, 0, 0)]


@pytest.mark.parametrize("overlap", [-0.1, 1.0])
def test_impossible_overlap_is_refused(overlap: float) -> None:
    with pytest.raises(ValueError, match="overlap"):
        windows((8, 8, 8), (4, 4, 4), overlap)


def test_volume_smaller_than_window_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller"):
        windows((8, 3, 8), (4, 4, 4))


@pytest.mark.parametrize("patch", [(8, 8, 8), (7, 16, 1), (64, 64, 64)])
def test_importance_is_positive_symmetric_and_highest_in_the_middle(patch: tuple[int, int, int]) -> None:
    weight = importance(patch)
    assert weight.shape == patch
    assert weight.min() > 0
    assert torch.allclose(weight, weight.flip(0, 1, 2))
    assert weight[tuple(n // 2 for n in patch)] == weight.max()


def test_importance_has_a_sigma_of_an_eighth_of_the_window() -> None:
    profile = importance((64, 1, 1))[:, 0, 0]
    assert (profile[32 + 8] / profile[32]).item() == pytest.approx(np.exp(-0.5 * (8.5**2 - 0.5**2) / 8**2), rel=1e-5)


def test_importance_is_at_least_a_thousandth_and_single_precision() -> None:
    weight = importance((16, 16, 16))
    assert weight.dtype == torch.float32 and weight.min().item() == pytest.approx(1e-3)
