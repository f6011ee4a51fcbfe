from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from diffatlas_pipeline import machine as _machine
from diffatlas_pipeline.machine import SPINS, available_bytes, folder_for_sockets, wait_briefly

GB = 10**9


def system(folder: Path, available_kb: int | None, group: str = "") -> tuple[Path, Path]:
    """A /proc with so much memory available and membership in a control group, and a /sys/fs/cgroup without groups."""
    (folder / "proc/self").mkdir(parents=True)
    if available_kb is not None:
        (folder / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable: {available_kb} kB\n")
    (folder / "proc/self/cgroup").write_text(group)
    return folder / "proc", folder / "cgroup"


def limit(group: Path, most: str, use: int, cached: int, names: tuple[str, str, str] = _machine._VERSION_2) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, text in zip(names, (f"{most}\n", f"{use}\n"), strict=False):
        (group / name).write_text(text)
    (group / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\nactive_file 7\n")


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_wait_briefly_unless_the_user_says_how(
    given: dict[str, str], found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == found
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)


def test_a_command_says_so_before_torch_is_imported() -> None:
    lines = [
        "import sys",
        "from diffatlas_pipeline.commands import _common, train",
        "_common.wait_briefly = lambda: print('torch' in sys.modules)",
        "train.main(['999', 'fold0'])",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("False") and "999" in done.stderr


def test_memory_without_a_limit_is_what_the_system_says(tmp_path: Path) -> None:
    proc, cgroup = system(tmp_path, 4_000_000, "0::/user.slice\n")
    limit(cgroup / "user.slice", "max", 3 * GB, 0)
    assert available_bytes(proc, cgroup) == 4_000_000 * 1024


@pytest.mark.parametrize("where", [".", "job", "job/step"])
def test_the_narrowest_group_counts_and_cached_files_are_free(tmp_path: Path, where: str) -> None:
    proc, cgroup = system(tmp_path, 64_000_000, "0::/job/step\n")
    limit(cgroup, "max", 0, 0)
    limit(cgroup / where, str(10 * GB), 7 * GB, 2 * GB)
    limit(cgroup / "another job", str(GB), GB, 0)
    assert available_bytes(proc, cgroup) == 5 * GB


def test_groups_of_the_first_version(tmp_path: Path) -> None:
    proc, cgroup = system(tmp_path, 64_000_000, "5:cpu,cpuacct:/\n3:memory:/docker/7\n0::/\n")
    limit(cgroup / "memory", str(6 * GB), 2 * GB, 0, _machine._VERSION_1)  # a container sees its own group as the outermost
    assert available_bytes(proc, cgroup) == 4 * GB


def test_a_group_beyond_its_limit_leaves_nothing(tmp_path: Path) -> None:
    proc, cgroup = system(tmp_path, 64_000_000, "0::/\n")
    limit(cgroup, str(GB), 2 * GB, 0)
    assert available_bytes(proc, cgroup) == 0


def test_a_system_that_does_not_tell_what_is_free(tmp_path: Path) -> None:
    assert (available_bytes(*system(tmp_path, None)) or GB) >= GB  # all of its memory, or unknown


@pytest.mark.parametrize(
    ("cores", "memory", "workers"),
    [(16, 64 * GB, 8), (4, 64 * GB, 4), (16, 7 * GB, 3), (16, GB, 1), (16, 0, 1), (3, None, 3), (16, None, 8)],
)
def test_workers_follow_from_cores_and_memory(
    monkeypatch: pytest.MonkeyPatch, cores: int, memory: int | None, workers: int
) -> None:
    monkeypatch.setattr(_machine, "usable_cores", lambda: cores)
    monkeypatch.setattr(_machine, "available_bytes", lambda: memory)
    assert _machine.default_workers() == workers


def test_this_computer() -> None:
    memory = available_bytes()
    assert memory is None or memory > 0
    assert 1 <= _machine.default_workers() <= _machine.usable_cores()


def test_sockets_lie_in_the_temporary_folder_or_where_their_names_are_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        assert folder_for_sockets() == short and not [*Path(short).iterdir()]
        long = Path(short) / ("x" * 100)
        long.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(long))
        assert folder_for_sockets() == "/tmp" and folder_for_sockets(others=(short,)) == short
        assert folder_for_sockets(others=(str(tmp_path / "not there"),)) is None and not [*long.iterdir()]
