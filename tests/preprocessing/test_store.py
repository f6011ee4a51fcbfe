from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline.errors import DatasetError, UserError
from diffatlas_pipeline.preprocessing.case import prepare_image, prepare_labels
from diffatlas_pipeline.preprocessing.spatial import SpatialRecord
from diffatlas_pipeline.preprocessing.store import (
    CHUNK,
    FOREGROUND_POINTS,
    list_stored,
    open_case,
    remove_left_over,
    write_case,
)
from tests.factories import make_case, make_plan


@pytest.fixture
def arrays() -> tuple[np.ndarray, np.ndarray, SpatialRecord]:
    volume, labels = make_case((30, 70, 34))
    image, record = prepare_image(volume, make_plan())
    return image, prepare_labels(labels, record, make_plan()), record


def test_what_is_written_is_read(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray, SpatialRecord]) -> None:
    image, distances, record = arrays
    write_case(tmp_path, "a.b_1", image, distances, record, "settings")
    stored = open_case(tmp_path, "a.b_1")
    assert stored.record == record and stored.facts.settings == "settings" and stored.shape == record.planned_shape
    np.testing.assert_array_equal(stored.image[:], image.astype(np.float16))
    assert stored.distances is not None
    np.testing.assert_array_equal(stored.distances[:, 3:9, 60:], distances[:, 3:9, 60:].astype(np.float16))
    assert stored.image.dtype == np.float16 and max(stored.image.chunks) <= CHUNK
    assert stored.verify() and list_stored(tmp_path) == ["a.b_1"]
    assert not [p for p in (tmp_path / "cases").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["image", "distances"])
def test_what_is_not_finite_is_not_stored(
    tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray, SpatialRecord], kind: str, value: float
) -> None:
    image, distances, record = (part.copy() if isinstance(part, np.ndarray) else part for part in arrays)
    write_case(tmp_path, "a", image, distances, record)
    before = open_case(tmp_path, "a").read_stored_image()
    {"image": image, "distances": distances}[kind][0, 1, 2, 3] = value
    with pytest.raises(DatasetError, match=r"case 'a': its (image|distance maps) would hold numbers that are not finite"):
        write_case(tmp_path, "a", image, distances, record)
    np.testing.assert_array_equal(open_case(tmp_path, "a").read_stored_image(), before, "what was there stays")


def test_a_missing_channel_is_stored_as_it_is(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray, SpatialRecord]) -> None:
    image, distances, record = arrays
    two = np.concatenate([image, np.full_like(image, np.nan)])
    write_case(tmp_path, "a", two, distances, record)
    assert np.isnan(open_case(tmp_path, "a").read_stored_image()[1]).all()


def test_foreground_points_lie_in_their_label(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray, SpatialRecord]) -> None:
    image, distances, record = arrays
    write_case(tmp_path, "a", image, np.concatenate([distances, np.ones_like(distances[:1])]), record)
    stored = open_case(tmp_path, "a")
    for k in (0, 1):
        points = stored.foreground(k)
        assert points.shape == (FOREGROUND_POINTS, 3)
        assert (distances[k][tuple(points.T)] < 0).all()
        everywhere = np.argwhere(distances[k] < 0)
        np.testing.assert_allclose(points.mean(axis=0), everywhere.mean(axis=0), atol=0.5)
    assert stored.foreground(2).shape == (0, 3)


def test_points_are_all_of_a_small_structure_and_spread_over_a_large_one(
    tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray, SpatialRecord]
) -> None:
    image, distances, record = arrays
    small, large = np.ones_like(distances[0]), np.ones_like(distances[0])
    small.reshape(-1)[3 : 3 + FOREGROUND_POINTS] = -1
    large.reshape(-1)[: 10 * FOREGROUND_POINTS] = -1
    write_case(tmp_path, "a", image, np.stack([small, large]), record)
    stored = open_case(tmp_path, "a")
    np.testing.assert_array_equal(stored.foreground(0), np.argwhere(small < 0))
    chosen = np.ravel_multi_index(tuple(stored.foreground(1).T), large.shape)
    assert (chosen[0], chosen[-1]) == (0, 10 * FOREGROUND_POINTS - 1) and set(np.diff(chosen)) <= {10, 11}


def test_unlabelled_case(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray, SpatialRecord]) -> None:
    image, distances, record = arrays
    write_case(tmp_path, "a", image, distances, record)
    write_case(tmp_path, "a", image, None, record)  # leaves nothing of the labelled one
    stored = open_case(tmp_path, "a")
    assert stored.distances is None and stored.verify() and stored.foreground(0).shape == (0, 3)
    assert sorted(p.name for p in (tmp_path / "cases").iterdir()) == ["a.image.b2nd", "a.json"]


def test_damage_is_noticed(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray, SpatialRecord]) -> None:
    write_case(tmp_path, "a", *arrays)
    path = tmp_path / "cases" / "a.distances.b2nd"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for _ in range(2):  # altered, then missing
        stored = open_case(tmp_path, "a")
        assert not stored.verify()
        with pytest.raises(DatasetError, match=r"a\.distances\.b2nd: missing, or not .*`plan_and_preprocess`"):
            _ = stored.distances
        assert stored.image.shape == stored.facts.image.shape
        path.unlink(missing_ok=True)


def test_missing_case_and_broken_facts(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray, SpatialRecord]) -> None:
    with pytest.raises(DatasetError, match="case 'b' is not preprocessed"):
        open_case(tmp_path, "b")
    write_case(tmp_path, "a", *arrays)
    facts = tmp_path / "cases" / "a.json"
    facts.write_text(facts.read_text()[:100])
    with pytest.raises(UserError, match=r"a\.json"):
        open_case(tmp_path, "a")


def test_what_killed_runs_left_half_written_is_removed_when_it_is_old(
    tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray, SpatialRecord]
) -> None:
    image, distances, record = arrays
    write_case(tmp_path, "a", image, distances, record)
    stored = {path.name for path in (tmp_path / "cases").iterdir()}
    for name, hours in ((".123.b.image.b2nd", 2), (".b.json.123.tmp", 2), (".124.c.image.b2nd", 0), (".notes", 2)):
        path = tmp_path / "cases" / name
        path.write_bytes(b"half")
        os.utime(path, (time.time() - 3600 * hours,) * 2)
    os.utime(tmp_path / "cases" / "a.image.b2nd", (0, 0))
    remove_left_over(tmp_path)
    assert {path.name for path in (tmp_path / "cases").iterdir()} == stored | {".124.c.image.b2nd", ".notes"}
    remove_left_over(tmp_path / "not there")
