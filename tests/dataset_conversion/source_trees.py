"""What the tests of converters of laboratories' data share: tiny volumes, the command, and what it leaves on disk."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from diffatlas_pipeline.commands.convert import main
from diffatlas_pipeline.datasets.checks import inspect_dataset
from diffatlas_pipeline.datasets.raw import read_dataset
from tests.volumes.examples import oblique_affine

SHAPE = (12, 12, 12)
AFFINE = oblique_affine()


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, SHAPE).astype(np.int16)


def labels(seed: int, values: tuple[int, ...] = (1, 2)) -> np.ndarray:
    """Every value occurs."""
    array = np.random.default_rng(seed).choice([0, *values], SHAPE).astype(np.uint8)
    array.flat[: len(values)] = values
    return array


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array, affine).to_filename(path)
    return path


def convert(workspace: Path, *words: str) -> None:
    main([*words, "--workspace", str(workspace), "--workers", "1"])


def refused(workspace: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message; nothing that is there may have changed."""
    before = state(workspace)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        convert(workspace, *words)
    assert stopped.value.code == 2
    assert state(workspace) == before
    return capsys.readouterr().err


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What tells every file from any other."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def check_twice(workspace: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Convert, and again: the second run changes nothing and says so. The data set can be planned. What was said."""
    convert(workspace, *words)
    said, before = capsys.readouterr().out, state(workspace)
    assert "Wrote " in said
    convert(workspace, *words)
    assert state(workspace) == before
    assert "Nothing changed" in (again := capsys.readouterr().out) and "Wrote " not in again
    (folder,) = (workspace / "raw").iterdir()
    assert not inspect_dataset(read_dataset(folder), 1).problems
    return said


def same_grid(path: Path, affine: np.ndarray = AFFINE) -> bool:
    """Whether a file has this affine, as NIfTI can hold it."""
    return np.array_equal(nib.load(path).affine, np.asarray(affine, np.float32))
