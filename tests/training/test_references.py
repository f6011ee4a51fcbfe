"""The training scans that a model keeps."""

from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.training import references
from diffatlas_pipeline.training.references import FILE, LARGEST_AXIS, chosen_references, read_references, write_references


def case(name: str, shape: tuple[int, int, int], at: tuple[int, int, int]) -> Atlas:
    image = np.random.default_rng(0).uniform(-1, 1, (1, *shape)).astype(np.float32)
    distances = np.ones((2, *shape), np.float32)
    distances[(1, *at)] = -0.5
    image[(0, *at)] = 0.125
    return Atlas(name, image, distances)


def test_few_are_chosen_and_spread_over_the_names() -> None:
    assert chosen_references(["b", "a"]) == ["a", "b"]
    assert chosen_references([f"{i:02d}" for i in range(40)]) == [f"{i * 40 // 12:02d}" for i in range(12)]
    assert chosen_references(["only"]) == ["only"]


def test_round_trip_and_crop_about_the_labels(tmp_path: Path) -> None:
    small, large = case("a", (10, 12, 1), (3, 4, 0)), case("b", (10, 300, 8), (5, 280, 2))
    write_references(tmp_path, [small, large])
    first, second = read_references(tmp_path)
    assert (first.name, second.name) == ("a", "b")
    assert np.allclose(first.image, small.image, atol=1e-3) and np.array_equal(first.distances, small.distances)
    assert second.image.shape == (1, 10, LARGEST_AXIS, 8) and second.distances.shape == (2, 10, LARGEST_AXIS, 8)
    assert np.allclose(second.image, large.image[:, :, 300 - LARGEST_AXIS :], atol=1e-3)


def test_no_more_are_kept_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [case(name, (10, 12, 8), (3, 4, 0)) for name in "abc"]
    size = 3 * 10 * 12 * 8 * 2  # three channels and labels of two bytes
    for room, kept in ((2 * size, "ab"), (size // 2, "a")):
        monkeypatch.setattr(references, "MOST_BYTES", room)
        write_references(tmp_path, cases)
        assert "".join(one.name for one in read_references(tmp_path)) == kept


def test_a_model_without_references_has_none(tmp_path: Path) -> None:
    assert read_references(tmp_path) == ()
    (tmp_path / FILE).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="not a readable"):
        read_references(tmp_path)
