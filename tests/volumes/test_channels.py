"""Channels that are missing are found, left out and put back."""

import numpy as np
import pytest

from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.volumes.channels import lacking, missing_channels, with_missing, without_missing
from diffatlas_pipeline.volumes.grids import Volume
from diffatlas_pipeline.volumes.in_memory import volume_of_array
from tests.factories import make_grid

SHAPE = (4, 5, 3)


def channels(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, *SHAPE), dtype=np.float32)


@pytest.mark.parametrize("missing", [(), (0,), (2,), (0, 2), (1, 2)])
def test_what_is_put_in_is_found_and_taken_out(missing: tuple[int, ...]) -> None:
    there = channels(3 - len(missing))
    whole = with_missing(there, missing)
    assert whole.shape == (3, *SHAPE) and missing_channels(whole) == missing
    np.testing.assert_array_equal(without_missing(whole), there)
    assert missing or (whole is there and without_missing(there) is there), "nothing is copied"
    volume = lacking(Volume(there, make_grid(SHAPE), "scan"), missing)
    np.testing.assert_array_equal(volume.array, whole)
    assert volume.source == "scan"


def test_a_channel_with_a_hole_is_not_missing_but_wrong() -> None:
    array = channels(2)
    array[1, :2] = np.nan
    assert missing_channels(array) == ()
    with pytest.raises(ImageError, match="30 of 120 voxels are NaN"):
        volume_of_array(array, (1, 1, 1), channels=2)
    array[1] = np.nan
    assert missing_channels(volume_of_array(array, (1, 1, 1), channels=2).array) == (1,)
    with pytest.raises(ImageError, match="120 of 120 voxels are NaN"):
        volume_of_array(np.full((2, *SHAPE), np.nan), (1, 1, 1), channels=2)
