"""What this computer has to spare: cores, memory, and a place for sockets."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

PROC, CGROUP, SHARED = Path("/proc"), Path("/sys/fs/cgroup"), Path("/dev/shm")
MOST_WORKERS = 8  # beyond it the disk is what all wait for
WORKER_BYTES = 2 * 10**9  # a CT of 512 x 512 x 150 voxels with a few labels
# File names of limit, use and the line of memory.stat with cached files, which the system gives back: versions 2 and 1.
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
SPINS = "1000"  # turns in which a thread waits, a few microseconds
_limit: int | None = None


def default_workers() -> int:
    """As many processes as cores this process may use and as the free memory has room for: at least one, at most
    eight.
    """
    memory = available_bytes()
    room = MOST_WORKERS if memory is None else memory // WORKER_BYTES
    return max(1, min(MOST_WORKERS, usable_cores(), room))


def rank_here() -> tuple[int, int]:
    """Number of this process, and how many train together, as torchrun and `num_gpus` tell it; (0, 1) alone."""
    if any(name not in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wait_briefly() -> None:
    """Threads that compute together give up their core soon where one of them is late, as beside other work.

    GNU's OpenMP, with which torch computes on Linux, lets them turn in place for milliseconds otherwise, and keep the
    late one from its core. What the user's environment says goes first. It counts from the import of torch on.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def is_stopped(process: int, proc: Path = PROC) -> bool:
    """Whether a signal stopped the process of that number (SIGSTOP, Ctrl-Z). False where the system does not tell."""
    state = _text(proc / str(process) / "stat").rpartition(")")[2].split()  # a name may hold any sign but the last ")"
    return state[:1] == ["T"]


def limit_memory(most_bytes: int | None) -> None:
    """From now on this process is to take at most so much memory, where :func:`available_bytes` is asked; None: all."""
    global _limit
    _limit = most_bytes


def resident_bytes(proc: Path = PROC) -> int:
    """Memory that this process takes now; 0 where the system does not tell."""
    numbers = _text(proc / "self" / "statm").split()
    return int(numbers[1]) * os.sysconf("SC_PAGE_SIZE") if len(numbers) > 1 else 0


def available_bytes(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """Memory that can still be taken without swapping, within the limits of containers, of job schedulers (control
    groups) and of :func:`limit_memory`.

    Where the system does not tell what is free (macOS) all memory counts; None where it tells nothing.
    """
    found = [_meminfo(proc / "meminfo"), *_left_in_groups(proc / "self" / "cgroup", cgroup)]
    found.append(None if _limit is None else _limit - resident_bytes(proc))
    known = [value for value in found if value is not None]
    return max(0, min(known)) if known else _physical()


def shared_memory_bytes(place: Path = SHARED) -> int | None:
    """What is free of the memory that processes share, which containers keep small; None where there is no limit."""
    try:
        found = os.statvfs(place)
    except (AttributeError, OSError):
        return None
    return found.f_bavail * found.f_frsize


def folder_for_sockets(others: Sequence[str] = ("/tmp",)) -> str | None:
    """A folder in which processes can open a socket to one another: the temporary folder, or one of ``others``.

    A socket's name may have about a hundred bytes, so a folder with a long name cannot be used, nor one that cannot be
    written. None if there is none at all; where the system has no such sockets, any folder does.
    """
    try:
        usual = [tempfile.gettempdir()]
    except OSError:  # it can write nowhere
        usual = []
    if not hasattr(socket, "AF_UNIX"):
        return usual[0] if usual else None
    return next((folder for folder in (*usual, *others) if _can_hold_a_socket(folder)), None)


def _can_hold_a_socket(folder: str) -> bool:
    """Tried with a name as long as that of Python's own ("pymp-" and "listener-", each with eight letters)."""
    try:
        own = tempfile.mkdtemp(prefix="pymp-", dir=folder)
    except OSError:
        return False
    try:
        with closing(socket.socket(socket.AF_UNIX)) as tried:
            tried.bind(str(Path(own) / "listener-12345678"))
    except OSError:
        return False
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return True


def _meminfo(path: Path) -> int | None:
    for line in _text(path).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _left_in_groups(membership: Path, mounted: Path) -> Iterator[int | None]:
    """What each control group with a limit has left, from this process's own up to the outermost."""
    for line in _text(membership).splitlines():
        _, kinds, group = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        root, names = (mounted / "memory", _VERSION_1) if kinds else (mounted, _VERSION_2)
        folder = root / group.lstrip("/")
        for each in [folder, *folder.parents]:
            if each.is_relative_to(root):
                yield _left(each, *names)


def _left(folder: Path, limit_name: str, use_name: str, cached_name: str) -> int | None:
    limit, use = _text(folder / limit_name).strip(), _text(folder / use_name).strip()
    if not limit.isdigit() or not use.isdigit():  # "max": no limit
        return None
    cached = [line.split()[1] for line in _text(folder / "memory.stat").splitlines() if line.startswith(f"{cached_name} ")]
    return int(limit) - int(use) + int(cached[0] if cached else 0)


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
