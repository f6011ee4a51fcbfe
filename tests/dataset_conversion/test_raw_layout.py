"""Placing files: links or copies, atomic, repeatable, never a change to the source."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from dataset_conversion.raw_layout import (
    LayoutDescription,
    check_leftovers,
    dataset_folder,
    for_each_case,
    place_file,
    raise_bad_cases,
    with_temporary,
    write_description,
)
from diffatlas_pipeline import processes
from diffatlas_pipeline.errors import DatasetError


def _fails_on_odd(case: str, number: int) -> None:
    if number == 13:
        os._exit(1)  # as when the system kills a process
    if number == 14:
        os.kill(os.getpid(), signal.SIGSTOP)
    if number % 2:
        raise DatasetError(f"{number} is odd")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.nii.gz"
    path.write_bytes(b"content")
    return path


def test_a_placed_file_is_a_link_and_a_copy_where_asked(tmp_path: Path, source: Path) -> None:
    place_file(source, tmp_path / "out/linked.nii.gz")
    place_file(source, tmp_path / "out/copied.nii.gz", copy=True)
    assert (tmp_path / "out/linked.nii.gz").samefile(source)
    assert not (tmp_path / "out/copied.nii.gz").samefile(source)
    assert (tmp_path / "out/copied.nii.gz").read_bytes() == source.read_bytes() == b"content"


def test_a_symbolic_link_is_followed(tmp_path: Path, source: Path) -> None:
    (tmp_path / "alias").symlink_to(source)
    place_file(tmp_path / "alias", tmp_path / "out")
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "out").samefile(source)


def test_falls_back_to_a_copy_across_file_systems(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    place_file(source, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"content"
    assert not (tmp_path / "out").samefile(source)
    written = (tmp_path / "out").stat().st_ino
    place_file(source, tmp_path / "out")
    assert (tmp_path / "out").stat().st_ino == written  # not written again


@pytest.mark.parametrize("copy", [False, True])
def test_a_changed_source_replaces_the_old_copy(tmp_path: Path, source: Path, copy: bool) -> None:
    place_file(source, tmp_path / "out", copy=True)
    source.write_bytes(b"other content")
    place_file(source, tmp_path / "out", copy=copy)
    assert (tmp_path / "out").read_bytes() == b"other content"
    assert (tmp_path / "out").samefile(source) is not copy


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")

    def half(path: Path) -> None:
        path.write_text("ha")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        with_temporary(target, half)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_leftovers_are_named_and_only_removed_on_request(tmp_path: Path) -> None:
    images = tmp_path / "imagesTr"
    images.mkdir()
    for name in ("a_0000.nii.gz", "b_0000.nii.gz", ".77.c_0000.nii.gz"):
        (images / name).write_text("")
    with pytest.raises(DatasetError, match=r"1 file\(s\).*imagesTr/b_0000\.nii\.gz.*`overwrite`"):
        check_leftovers(tmp_path, {"imagesTr": {"a_0000.nii.gz"}}, overwrite=False)
    assert {path.name for path in images.iterdir()} == {"a_0000.nii.gz", "b_0000.nii.gz"}
    check_leftovers(tmp_path, {"imagesTr": {"a_0000.nii.gz"}}, overwrite=True)
    assert [path.name for path in images.iterdir()] == ["a_0000.nii.gz"]


def test_numbers_and_names_are_checked(tmp_path: Path) -> None:
    assert dataset_folder(tmp_path, 7, "Heart").name == "Dataset007_Heart"
    (tmp_path / "Dataset007_Liver").mkdir()
    with pytest.raises(DatasetError, match="Dataset007_Liver"):
        dataset_folder(tmp_path, 7, "Heart")
    for number, name in ((0, "Heart"), (1000, "Heart"), (1, "a b"), (1, "../x"), (1, "")):
        with pytest.raises(DatasetError):
            dataset_folder(tmp_path, number, name)


def test_description_has_the_layout_of_nnunet_v2_and_is_not_rewritten(tmp_path: Path) -> None:
    description = LayoutDescription(("T1", "T2"), {"b": 5, "a": 2}, ".nii.gz", {"licence": "CC0"})
    write_description(tmp_path, "Brain", 3, description)
    content = json.loads((tmp_path / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "T1", "1": "T2"}
    assert list(content["labels"].items()) == [("background", 0), ("a", 2), ("b", 5)]
    assert (content["numTraining"], content["file_ending"], content["licence"]) == (3, ".nii.gz", "CC0")
    before = (tmp_path / "dataset.json").stat().st_ino
    write_description(tmp_path, "Brain", 3, description)
    assert (tmp_path / "dataset.json").stat().st_ino == before


@pytest.mark.parametrize("workers", [1, 2])
def test_every_bad_case_is_reported(tmp_path: Path, workers: int) -> None:
    (tmp_path / "dataset.json").write_text("{}")
    bad = for_each_case(_fails_on_odd, [(f"case{n}", n) for n in range(5)], workers, "Testing")
    assert bad == {"case1": "1 is odd", "case3": "3 is odd"}
    with pytest.raises(DatasetError, match=r"(?s)2 case\(s\).*case1  1 is odd.*case3  3 is odd"):
        raise_bad_cases(bad, tmp_path)
    assert not (tmp_path / "dataset.json").exists()
    raise_bad_cases({}, tmp_path)


@pytest.mark.parametrize(("number", "said"), [(13, "memory"), (14, "stopped from outside")])
def test_a_lost_worker_costs_its_case_alone(number: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if number == 14 and not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells that a process is stopped")
    monkeypatch.setattr(processes, "LOOK_S", 0.1)
    done: dict[str, object] = {}
    bad = for_each_case(_fails_on_odd, [("lost", number), *((f"other{n}", 2) for n in range(3))], 2, "Testing", done)
    assert [*bad] == ["lost"] and said in bad["lost"] and sorted(done) == ["other0", "other1", "other2"]
