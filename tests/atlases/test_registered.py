"""What registered training cases say of a scan, and how that is kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from diffatlas_pipeline.atlases import registered as atlases
from diffatlas_pipeline.atlases.registered import ask_atlases
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.registration.atlas import Atlas
from tests.factories import make_plan, store_cases
from tests.faults.test_strangers import Trap

PLAN = make_plan()


def known(tmp_path: Path) -> tuple[np.ndarray, list[Atlas]]:
    """A scan and two atlases on the planned grid."""
    from diffatlas_pipeline.preprocessing.store import open_case

    first, *others = (open_case(tmp_path, name) for name in store_cases(tmp_path, PLAN, [(20, 24, 18)] * 3))
    made = [Atlas(one.case, np.asarray(one.image[:]), np.asarray(one.distances[:])) for one in others]  # type: ignore[index]
    return np.asarray(first.image[:], np.float32), made


def test_what_was_registered_once_is_not_registered_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, two = known(tmp_path / "cases")
    kept = tmp_path / "kept"
    plain, first = ask_atlases(image, two, PLAN), ask_atlases(image, two, PLAN, kept)

    def refuse(*_: object) -> None:
        raise AssertionError("registered again")

    monkeypatch.setattr(atlases, "register_atlases", refuse)
    again = ask_atlases(image, two, PLAN, kept)
    for one in (first, again):
        for name in ("appearance", "distances"):
            np.testing.assert_array_equal(getattr(one, name), getattr(plain, name))
    assert again.register_s == first.register_s > 0 and again.kept and not first.kept
    others = [
        (image + np.float32(1e-6), two, PLAN),
        (image, two[:1], PLAN),
        (image, [replace(two[0], distances=-two[0].distances), two[1]], PLAN),
        (image, [replace(two[0], frame=np.eye(3, 4)), two[1]], PLAN),
        (image, two, replace(PLAN, spacing_mm=(1.0, 1.0, 1.1))),
    ]
    for other in others:
        with pytest.raises(AssertionError, match="registered again"):
            ask_atlases(*other, kept)


def test_what_another_is_registering_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, two = known(tmp_path / "cases")
    begun, go_on, calls = Event(), Event(), []
    register = atlases.register_atlases

    def slow(*arguments: Any) -> Any:
        calls.append(1)
        begun.set()
        assert go_on.wait(60)
        return register(*arguments)

    monkeypatch.setattr(atlases, "register_atlases", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask_atlases, image, two, PLAN, tmp_path / "kept")
        assert begun.wait(60)
        second = pool.submit(ask_atlases, image, two, PLAN, tmp_path / "kept")
        with pytest.raises(TimeoutError):
            second.result(timeout=0.5)
        go_on.set()
        answer = second.result(60)
        np.testing.assert_array_equal(first.result(60).distances, answer.distances)
    assert len(calls) == 1 and answer.register_s == first.result().register_s, "the wait does not count"


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    image, two = known(tmp_path / "cases")
    first = ask_atlases(image, two, PLAN, tmp_path / "kept")
    (file,) = (tmp_path / "kept").glob("*.npz")
    for content in (b"", b"no archive", file.read_bytes()[:1000]):
        file.write_bytes(content)
        again = ask_atlases(image, two, PLAN, tmp_path / "kept")
        np.testing.assert_array_equal(again.distances, first.distances)


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    image, two = known(tmp_path / "cases")
    (tmp_path / "file").touch()
    assert ask_atlases(image, two, PLAN, tmp_path / "file").distances.shape == (2, *image.shape[1:])


def test_a_scan_that_nothing_can_be_registered_to_is_told(tmp_path: Path) -> None:
    _, two = known(tmp_path / "cases")
    with pytest.raises(UserError, match="none of 2"):
        ask_atlases(np.full((1, 20, 24, 18), -1, np.float32), two, PLAN, tmp_path / "kept")
    assert not any((tmp_path / "kept").glob("*.npz"))


def test_a_pickle_among_kept_registrations_is_not_run(tmp_path: Path) -> None:
    image, two = known(tmp_path / "cases")
    first = ask_atlases(image, two, PLAN, tmp_path / "kept")
    (path,) = (tmp_path / "kept").glob("*.npz")
    np.savez(path, appearance=np.array([Trap(tmp_path / "run")], dtype=object), distances=np.zeros(1), seconds=np.zeros(1))
    again = ask_atlases(image, two, PLAN, tmp_path / "kept")
    assert not again.kept and not (tmp_path / "run").exists()
    np.testing.assert_array_equal(again.distances, first.distances)


def test_kept_registrations_that_are_compressed_are_not_unpacked(tmp_path: Path) -> None:
    """Ours are not: a file of a few bytes could hold any number of them."""
    image, two = known(tmp_path / "cases")
    first = ask_atlases(image, two, PLAN, tmp_path / "kept")
    (path,) = (tmp_path / "kept").glob("*.npz")
    zeros = np.zeros_like(first.distances)
    np.savez_compressed(path, appearance=first.appearance, distances=zeros, register_s=np.array(1.0))
    again = ask_atlases(image, two, PLAN, tmp_path / "kept")
    assert not again.kept
    np.testing.assert_array_equal(again.distances, first.distances)
