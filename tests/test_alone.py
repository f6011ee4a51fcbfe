"""One process at a time works in a folder; the second is told who the first is."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import alone_in

HOLD = """
import sys, time
from pathlib import Path
from diffatlas_pipeline.files import alone_in
with alone_in(Path(sys.argv[1]), "a training", "Wait."):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    held = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "in")], stdout=subprocess.PIPE, text=True)
    try:
        assert held.stdout is not None and held.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=rf"in: a training is running there already \(process {held.pid} on .*\)\. Wait\."),
            alone_in(tmp_path / "in", "a training", "Wait."),
        ):
            raise AssertionError("it was let in")
        with alone_in(tmp_path / "in", "another", "Wait.", ".another.lock"):
            pass
    finally:
        held.kill()
        held.wait()
    with alone_in(tmp_path / "in", "a training", "Wait."):  # what the killed one left is no obstacle
        assert f"process {os.getpid()} " in (tmp_path / "in" / ".lock.owner").read_text()
    assert not (tmp_path / "in" / ".lock.owner").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot be written"), alone_in(tmp_path / "file", "a training", "Wait."):
        raise AssertionError("it was let in")


def test_an_error_inside_frees_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), alone_in(tmp_path, "a training", "Wait."):
        raise ValueError("inside")
    with alone_in(tmp_path, "a training", "Wait."):
        pass


@pytest.mark.parametrize("answer", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")])
def test_where_a_drive_has_no_locks_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Exception
) -> None:
    def acquire(*_: object, **__: object) -> None:
        raise answer

    monkeypatch.setattr("diffatlas_pipeline.files.FileLock.acquire", acquire)
    done = False
    with alone_in(tmp_path, "a training", "Wait."):
        done = True
    assert done
