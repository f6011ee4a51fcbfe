"""The training cases that a model keeps as atlases."""

from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline.atlases import bank
from diffatlas_pipeline.atlases.bank import LARGEST_AXIS, kept_atlases, spread_evenly
from diffatlas_pipeline.models.atlas_file import FILE, OLD_FILE, read_atlases, write_atlases
from diffatlas_pipeline.registration.atlas import Atlas


def case(name: str, shape: tuple[int, int, int], at: tuple[int, int, int]) -> Atlas:
    image = np.random.default_rng(0).uniform(-1, 1, (1, *shape)).astype(np.float32)
    distances = np.ones((2, *shape), np.float32)
    distances[(1, *at)] = -0.5
    image[(0, *at)] = 0.125
    return Atlas(name, image, distances)


@pytest.mark.parametrize("count", [1, 2, 3, 12, 40, 64])
def test_the_first_few_are_spread_over_the_names(count: int) -> None:
    names = [f"{i:03d}" for i in range(count)]
    order = spread_evenly(names[::-1])
    assert sorted(order) == names
    for first in range(1, count + 1):
        places = sorted(int(name) for name in order[:first])
        gaps = np.diff([*places, count])  # as many names stand for each of the first few
        assert places[0] == 0 and gaps.max() <= 2 * np.ceil(count / first)


def test_round_trip_and_crop_about_the_labels(tmp_path: Path) -> None:
    small, large = case("a", (10, 12, 1), (3, 4, 0)), case("b", (10, 300, 8), (5, 280, 2))
    write_atlases(tmp_path, kept_atlases([small, large], (1, 1, 1)))
    first, second = read_atlases(tmp_path)
    assert (first.name, second.name) == ("a", "b")
    assert np.allclose(first.image, small.image, atol=1e-3) and np.array_equal(first.distances, small.distances)
    assert second.image.shape == (1, 10, LARGEST_AXIS, 8) and second.distances.shape == (2, 10, LARGEST_AXIS, 8)
    assert np.allclose(second.image, large.image[:, :, 300 - LARGEST_AXIS :], atol=1e-3)


def test_no_more_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [case(name, (10, 12, 8), (3, 4, 0)) for name in "abc"]
    size = 3 * 10 * 12 * 8 * 2  # three channels and labels of two bytes
    for room, kept in ((2 * size, "ab"), (size // 2, "a")):
        monkeypatch.setattr(bank, "MOST_BYTES", room)
        assert "".join(one.name for one in kept_atlases(cases, (1, 1, 1))) == kept


@pytest.mark.parametrize("name", [FILE, OLD_FILE])
def test_a_model_without_atlases_has_none_and_damaged_ones_are_named(tmp_path: Path, name: str) -> None:
    assert read_atlases(tmp_path) == ()
    (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=name):
        read_atlases(tmp_path)
