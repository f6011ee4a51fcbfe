"""A full disk: an error that names the file, nothing half written under a final name, earlier results as they were."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from diffatlas_pipeline.api.preparation import plan_and_preprocess
from diffatlas_pipeline.api.training import train
from tests.faults.processes import on_small_disk
from tests.planning.raw_data import write_dataset

SCRIPT = """
import os, shutil, sys
from pathlib import Path

place = Path({place!r})
{prepare}
free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
(place / "filler").write_bytes(b"x" * max(0, free - {left}))
before = {{path: path.read_bytes() for path in place.rglob("*") if path.is_file() and not path.name.startswith(".")}}
from diffatlas_pipeline.commands import {command}
try:
    if __name__ == "__main__":
        {command}.main({words!r})
except SystemExit as end:
    print("ended with", end.code)
    changed = [str(path) for path, content in before.items() if path.suffix != ".log" and path.read_bytes() != content]
    print("changed:", changed)
    new = [path for path in place.rglob("*") if path.is_file() and path not in before and not path.name.startswith(".")]
    print("new:", sorted(path.name for path in new))
    print("empty:", [path.name for path in new if path.stat().st_size == 0])
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("workspace")
    write_dataset(place / "raw", cases=3)
    plan_and_preprocess(7, workspace=place, device="cpu", workers=1)
    train(7, "fold0", iterations=1, validation=False, workspace=place, device="cpu", workers=0, precision="float32")
    return place


def ended(tmp_path: Path, command: str, words: list[str], prepare: str, left: int, size: int = 40_000) -> tuple[str, str]:
    place = tmp_path / "disk"
    filled = [word.replace("PLACE", str(place)) for word in words]
    text = SCRIPT.format(place=str(place), prepare=prepare, left=left, command=command, words=filled)
    done = on_small_disk(tmp_path, text, place, size)
    assert "ended with 2" in done.stdout, done.stdout + done.stderr
    assert "changed: []" in done.stdout and "empty: []" in done.stdout, done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout, done.stderr


def test_while_preprocessing(workspace: Path, tmp_path: Path) -> None:
    words = ["-d", "7", "--workspace", "PLACE", "--workers", "1"]
    prepare = f"shutil.copytree({str(workspace / 'raw')!r}, place / 'raw')"
    out, error = ended(tmp_path, "plan_and_preprocess", words, prepare, left=30_000)
    assert "cannot be written" in error
    assert ".b2nd" not in out or "case" in error


def test_while_training(workspace: Path, tmp_path: Path) -> None:
    words = ["7", "fold1", "--iterations", "2", "--device", "cpu", "--workers", "0", "--no-validation", "--workspace", "PLACE"]
    prepare = f"shutil.copytree({str(workspace / 'preprocessed')!r}, place / 'preprocessed')"
    out, error = ended(tmp_path, "train", words, prepare, left=300_000)
    assert "cannot be written" in error and "No space left" in error and "Make room" in error
    assert "checkpoint_final.safetensors" not in out


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".mhd"])
def test_while_writing_an_image(tmp_path: Path, ending: str) -> None:
    """An image of noise, which does not shrink, on a disk of half its size."""
    place = tmp_path / "disk"
    script = f"""
import numpy as np
from pathlib import Path
from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import write_scalars
place, noise = Path({str(place)!r}), np.random.default_rng(0).standard_normal((60, 60, 60)).astype(np.float32)
try:
    write_scalars(place / "a{ending}", noise, Grid.of(noise.shape, np.eye(4)))
except ImageError as error:
    print("told:", error)
print("left:", list(place.iterdir()))
"""
    done = on_small_disk(tmp_path, script, place, 400)
    assert "told:" in done.stdout and f"a{ending}: cannot be written" in done.stdout, done.stdout + done.stderr
    assert "left: []" in done.stdout, done.stdout


def test_while_predicting(workspace: Path, tmp_path: Path) -> None:
    model = workspace / "results" / "Dataset007_Balls" / "diffatlas__default"
    scans = workspace / "raw" / "Dataset007_Balls" / "imagesTr"
    words = ["-i", str(scans), "-o", "PLACE/out", "-m", str(model), "--device", "cpu"]
    out, error = ended(tmp_path, "predict", words, "(place / 'out').mkdir()", left=0)
    assert "cannot be written" in error
    assert "new: []" in out


def test_while_evaluating(workspace: Path, tmp_path: Path) -> None:
    labels = workspace / "raw" / "Dataset007_Balls" / "labelsTr"
    prepare = f"shutil.copytree({str(labels)!r}, place / 'predictions')"
    words = ["-p", "PLACE/predictions", "-r", str(labels), "-o", "PLACE/scores", "--workers", "1"]
    _, error = ended(tmp_path, "evaluate", words, prepare, left=0)
    assert "cannot be written" in error


def test_a_read_only_disk_is_said(workspace: Path, tmp_path: Path) -> None:
    model = workspace / "results" / "Dataset007_Balls" / "diffatlas__default"
    scans = workspace / "raw" / "Dataset007_Balls" / "imagesTr"
    words = ["-i", str(scans), "-o", str(tmp_path / "disk" / "out"), "-m", str(model), "--device", "cpu"]
    script = f"from diffatlas_pipeline.commands import predict\npredict.main({words!r})"
    done = on_small_disk(tmp_path, script, tmp_path / "disk", 400, ",ro")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "cannot be written (Read-only file system)" in done.stderr and "Traceback" not in done.stderr


def test_too_little_shared_memory_is_said(workspace: Path, tmp_path: Path) -> None:
    """As in a container: the batches of a worker do not fit, so there is none."""
    words = ["7", "fold2", "--iterations", "2", "--device", "cpu", "--workers", "1", "--no-validation", "--overwrite"]
    words += ["--workspace", str(workspace)]
    lines = ["from diffatlas_pipeline.commands import train", "if __name__ == '__main__':", f"    train.main({words!r})"]
    done = on_small_disk(tmp_path, "\n".join(lines), Path("/dev/shm"), 64)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "/dev/shm has 0.1 MB free" in done.stdout and "Give the container more" in done.stdout, done.stdout


def with_full_temporary_folder(
    tmp_path: Path, command: str, words: list[str], left: int, name: str = "temporary"
) -> tuple[int, str]:
    """Run a command where TMPDIR names a disk with so many bytes ``left``: exit code, and all that was said."""
    place = tmp_path / name
    lines = ["import os", f"place = {str(place)!r}", "os.environ['TMPDIR'] = place"]
    lines += ["free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize"]
    lines += [f"open(place + '/filler', 'wb').write(b'x' * (free - {left}))"]
    lines += [f"from diffatlas_pipeline.commands import {command}", "if __name__ == '__main__':"]
    done = on_small_disk(tmp_path, "\n".join([*lines, f"    {command}.main({words!r})"]), place, 200)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_a_full_temporary_folder_is_said(workspace: Path, tmp_path: Path) -> None:
    model = workspace / "results" / "Dataset007_Balls" / "diffatlas__default"
    archive = shutil.make_archive(str(tmp_path / "model"), "zip", model)
    scans = workspace / "raw" / "Dataset007_Balls" / "imagesTr"
    words = ["-i", str(scans), "-o", str(tmp_path / "out"), "-m", archive, "--device", "cpu"]
    code, said = with_full_temporary_folder(tmp_path, "predict", words, left=20_000)
    assert code == 2 and "model.zip: cannot be unpacked to" in said and "set TMPDIR" in said, said
    assert not list((tmp_path / "out").glob("*.nii.gz"))


@pytest.mark.parametrize("name", ["t", "a-folder-of-a-queue-whose-name-is-too-long-for-the-sockets-between-two-processes"])
def test_a_training_needs_no_temporary_folder(workspace: Path, tmp_path: Path, name: str) -> None:
    """Full, or with a long name: the batches of another process come through sockets, which lie in it."""
    words = ["7", "fold2", "--iterations", "2", "--device", "cpu", "--workers", "1", "--no-validation", "--overwrite"]
    code, said = with_full_temporary_folder(tmp_path, "train", [*words, "--workspace", str(workspace)], 0, name)
    assert code == 0 and "WARNING" not in said, said
