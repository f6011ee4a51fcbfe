"""What is there is kept only if it belongs to the present scan; edited work is never lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.inference.earlier import decide, digest_of_file, digest_of_scan
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import write_labels, write_scalars

GRID = Grid.of((4, 5, 6), np.eye(4))
SETTINGS = {"model": "m", "seed": 0, "precision": "float32"}


def write(path: Path, value: int) -> Path:
    write_labels(path, np.full(GRID.shape, value, dtype=np.uint8), GRID)
    return path


@pytest.fixture
def made(tmp_path: Path) -> tuple[CaseFiles, Path, dict[str, Any]]:
    """A scan, its segmentation, and what the record says of it."""
    write_scalars(tmp_path / "scan.nii.gz", np.zeros(GRID.shape), GRID)
    files, path = CaseFiles("scan", (tmp_path / "scan.nii.gz",), None), write(tmp_path / "out.nii.gz", 1)
    return files, path, {"input": digest_of_scan(files), "output": digest_of_file(path), "made_with": SETTINGS}


def test_what_is_not_there_is_made(made: tuple[CaseFiles, Path, dict[str, Any]], tmp_path: Path) -> None:
    files, _, known = made
    assert decide(files, tmp_path / "absent.nii.gz", known, SETTINGS) == decide(
        files, tmp_path / "absent.nii.gz", None, SETTINGS
    )
    assert not decide(files, tmp_path / "absent.nii.gz", known, SETTINGS).is_kept


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("changed", [False, True])
def test_kept_or_made_again(made: tuple[CaseFiles, Path, dict[str, Any]], edited: bool, changed: bool) -> None:
    files, path, known = made
    if edited:
        write(path, 2)
    if changed:
        write_scalars(files.images[0], np.ones(GRID.shape), GRID)
    found = decide(files, path, known, SETTINGS)
    assert found.is_kept == (edited or not changed), "only what nobody has worked on is made again"
    assert ("changed since" in found.warning) == changed and not found.made_otherwise


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize(("change", "again"), [({"seed": 1}, True), ({"model": "n"}, True), ({"precision": "bfloat16"}, False)])
def test_what_was_made_otherwise_is_made_again(
    made: tuple[CaseFiles, Path, dict[str, Any]], edited: bool, change: dict[str, Any], again: bool
) -> None:
    files, path, known = made
    if edited:
        write(path, 2)
    found = decide(files, path, known, SETTINGS | change)
    assert found.is_kept == (edited or not again) and found.made_otherwise == (again and not edited)
    assert ("another model or other settings. `overwrite`" in found.warning) == (again and edited)


@pytest.mark.parametrize("content", [b"", b"half a file", None])
def test_half_a_file_is_made_again(made: tuple[CaseFiles, Path, dict[str, Any]], content: bytes | None) -> None:
    files, path, known = made
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    found = decide(files, path, known, SETTINGS)
    assert not found.is_kept and "could not be read" in found.warning


def test_a_file_that_no_record_tells_of_is_kept_and_told(made: tuple[CaseFiles, Path, dict[str, Any]]) -> None:
    files, path, _ = made
    found = decide(files, path, None, SETTINGS)
    assert found.is_kept and "no record" in found.warning
    assert decide(files, path, {"status": "segmented"}, SETTINGS).is_kept, "earlier releases wrote no digests"


def test_the_digest_of_a_scan_is_of_all_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    for name in ("1.dcm", "2.dcm"):
        (folder / name).write_bytes(name.encode())
    write_labels(tmp_path / "a.mhd", np.zeros(GRID.shape, dtype=np.uint8), GRID)
    for image, part in ((folder, folder / "2.dcm"), (tmp_path / "a.mhd", tmp_path / "a.zraw")):
        files = CaseFiles("a", (image,), None)
        before = digest_of_scan(files)
        assert digest_of_scan(files) == before
        part.write_bytes(part.read_bytes() + b"x")
        assert digest_of_scan(files) != before
    assert digest_of_scan(CaseFiles("a", (folder,), None, missing=(1,))) != digest_of_scan(CaseFiles("a", (folder,), None))


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_a_segmentation_with_a_flipped_bit_is_made_again(tmp_path: Path, ending: str) -> None:
    write_scalars(tmp_path / "scan.nii.gz", np.zeros(GRID.shape), GRID)
    files, path = CaseFiles("scan", (tmp_path / "scan.nii.gz",), None), tmp_path / f"out{ending}"
    grid = Grid.of((20, 18, 16), np.eye(4))
    write_labels(path, np.random.default_rng(1).integers(0, 200, grid.shape), grid)
    known = {"input": digest_of_scan(files), "output": digest_of_file(path), "made_with": SETTINGS}
    assert decide(files, path, known, SETTINGS).is_kept
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    found = decide(files, path, known, SETTINGS)
    assert not found.is_kept and "could not be read" in found.warning
