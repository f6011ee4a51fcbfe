"""Several processes for one training: they start together, and end together."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import IO

from diffatlas_pipeline.children import line_of
from diffatlas_pipeline.errors import Stopped, UserError
from diffatlas_pipeline.machine import rank_here, usable_cores
from diffatlas_pipeline.processes import ENDING_S, LOOK_S, StoppedProcesses

_POLL_S = 0.2
_TOLD_S = 60.0  # for a training that was told to end: it finishes its step and writes a checkpoint
_USER, _TERMINATED = 2, 143  # exit codes
_KILL = 9  # the signal


def are_started() -> bool:
    """Whether this process is one of several already, by torchrun or by :func:`run_ranks`."""
    return rank_here()[1] > 1


@contextmanager
def silent_followers() -> Iterator[None]:
    """In here only the first of several processes prints."""
    if rank_here()[0] == 0:
        yield
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def run_ranks(command: str, words: Sequence[str], count: int, on_cpu: bool) -> None:
    """``DiffAtlas_<command> words`` in ``count`` processes of one training; ``on_cpu`` they share the cores.

    The first one speaks. When one ends in any other way than well, the others are ended. UserError says which it was;
    SystemExit 2 if it has said so itself; Stopped after SIGTERM.
    """
    with ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(1, count)]
        port = _free_port()
        children = [_start(command, words, rank, count, port, on_cpu, file) for rank, file in enumerate([None, *said])]
        try:
            found = _first_to_fail(children)
        except BaseException:  # Ctrl-C, or SIGTERM to this process
            _end(children, _TOLD_S)
            raise
        if found is None:
            return
        failed, stood_still = found
        _end(children, ENDING_S)
        code = children[failed].returncode
        if failed == 0 and code == _USER:
            sys.exit(_USER)
        if code == _TERMINATED:
            raise Stopped("Stopped. The same command goes on from the last checkpoint.")
        last = "" if failed == 0 else _text(said[failed - 1])
        how = "was stopped by a signal and stood still" if stood_still else _how(code)
        raise UserError(
            f"Process {failed + 1} of {count} {how}, so the others were ended. {last}Run the same command again: the "
            "training goes on from its last checkpoint."
        )


def _start(
    command: str, words: Sequence[str], rank: int, count: int, port: int, on_cpu: bool, errors: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if on_cpu:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // count)))
    return subprocess.Popen(  # in a session of its own: Ctrl-C is for this process, which then ends the others
        line_of(command, words),
        stdin=subprocess.PIPE,  # they end when it closes, however this process ends
        stderr=errors,
        env=environment,
        start_new_session=True,
    )


def _first_to_fail(children: Sequence[subprocess.Popen[bytes]]) -> tuple[int, bool] | None:
    """Wait for all; the number of the one that failed, and whether it stood still and was killed; None if all went
    well.

    When one is killed, the others soon fail, too, some of them by a signal of their own: one that was killed comes
    first, then those that another signal ended, then the first process.
    """
    stopped, look_at, still = StoppedProcesses(), time.monotonic() + LOOK_S, set[int]()
    while True:
        codes = [child.poll() for child in children]
        failed = [number for number, code in enumerate(codes) if code]
        if failed:
            deadline = time.monotonic() + ENDING_S
            while children[0].poll() is None and time.monotonic() < deadline:  # it may be about to say what is wrong
                time.sleep(_POLL_S)
            codes = [child.poll() for child in children]
            ends = {number: code for number, code in enumerate(codes) if code}
            first = min(ends, key=lambda number: (ends[number] != -_KILL, ends[number] > 0))
            return first, children[first].pid in still
        if all(code == 0 for code in codes):
            return None
        if time.monotonic() >= look_at:
            look_at = time.monotonic() + LOOK_S
            numbers = {child.pid: child for child in children if child.poll() is None}
            for number in stopped.look(numbers):
                still.add(number)
                numbers[number].kill()
        time.sleep(_POLL_S)


def _end(children: Sequence[subprocess.Popen[bytes]], patience_s: float) -> None:
    """Tell them to end, and kill what does not."""
    running = [child for child in children if child.poll() is None]
    for child in running:
        child.terminate()
    deadline = time.monotonic() + patience_s
    for child in running:
        try:
            child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _how(code: int) -> str:
    return (
        f"was killed (signal {-code}), most often by the system for lack of memory" if code < 0 else f"ended with code {code}"
    )


def _text(said: IO[bytes]) -> str:
    said.seek(0)
    text = said.read().decode(errors="replace").strip()
    return f"It said: {text.splitlines()[-1]} " if text else ""


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
