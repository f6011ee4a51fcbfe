"""Work on the machines of a Dask cluster: its workers run the functions and commands that processes here would.

All machines see the same files at the same paths. Whatever is run there may run twice, if a machine is lost: so it
writes files whole, and keeps what is there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from diffatlas_pipeline import __version__
from diffatlas_pipeline.children import line_of
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.processes import LOOK_S, Lost

if TYPE_CHECKING:
    from distributed import Client, Future

Item = TypeVar("Item")
Result = TypeVar("Result")

CONNECT_S, FIRST_WORKER_S = 20, 60
_VARIABLES = ("DIFFATLAS_", "DiffAtlas_", "nnUNet_")
_connections: weakref.WeakSet[Client] = weakref.WeakSet()
_scheduler: ContextVar[str | None] = ContextVar("scheduler", default=None)


_LOST = Lost("each of several workers of the cluster was lost while it worked on it.")


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    code: int
    text: str


@contextlib.contextmanager
def on(scheduler: str | None) -> Iterator[None]:
    """In here work is done by the cluster of ``scheduler``: an address (tcp://HOST:PORT) or a scheduler file; None:
    here.
    """
    token = _scheduler.set(scheduler)
    try:
        yield
    finally:
        _scheduler.reset(token)


def scheduler() -> str | None:
    """Whose cluster works, None if none does."""
    return _scheduler.get()


def finished(
    function: Callable[[Item], Result], items: Sequence[Item], gpu: bool = False
) -> Iterator[tuple[int, Result | Lost]]:
    """(index, result) of each item as the cluster ends it; raises what ``function`` raised.

    An item whose worker is lost goes to another; one that has lost several is :class:`Lost`. Those that shared these
    workers are done again, one by one. With ``gpu`` each takes one unit of the workers' resource GPU. UserError if the
    cluster cannot be used, or is lost.
    """
    address = scheduler()
    assert address is not None
    with _connected(address) as client:
        from distributed import CancelledError, KilledWorker, as_completed
        from distributed.comm import CommClosedError

        here, resources = str(Path.cwd()), {"GPU": 1} if gpu else None

        def submitted(index: int) -> Future:
            return client.submit(_call, function, items[index], here, pure=False, resources=resources)

        def alone(index: int) -> Result | Lost:
            future = submitted(index)
            try:
                return _result(client, future)
            except KilledWorker:
                return _LOST
            finally:
                client.cancel([future], force=True)

        futures, suspects = {submitted(index): index for index in range(len(items))}, []
        try:
            for future in as_completed(list(futures), loop=client.loop):
                index = futures.pop(future)
                try:
                    yield index, _result(client, future)
                except KilledWorker:
                    suspects.append(index)
                future.release()
            cleared = 0
            for index in suspects:
                found = alone(index) if cleared < len(suspects) - 1 else _LOST  # the last one that is left did it
                cleared += found is not _LOST
                yield index, found
        except (CancelledError, CommClosedError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and client.status != "closed":  # it is the function's own
                raise
            raise UserError(
                f"`scheduler` {address}: the connection was lost. What is finished is kept: give the same again when it runs."
            ) from error
        finally:
            if futures and client.status != "closed":
                client.cancel(list(futures), force=True)


def _result(client: Client, future: Future) -> Any:
    """What came of it, once that is there; raises what was raised. RuntimeError if the connection is ended meanwhile:
    then nothing would ever answer.
    """
    while True:
        try:
            return future.result(timeout=LOOK_S)
        except TimeoutError:
            if future.status == "error":  # the function's own
                raise
            if client.status == "closed":
                raise RuntimeError("the connection was closed") from None


def disconnect() -> None:
    """End all connections of this process: :func:`finished` raises UserError where it waits."""
    for client in list(_connections):
        client.close()


def run_commands(
    lines: Sequence[Sequence[str]], gpu: bool = False, environment: Mapping[str, str] = os.environ
) -> Iterator[tuple[int, Said | Lost]]:
    """:func:`finished` of commands, each the words after "DiffAtlas_"; of the variables ``environment`` they see those
    by which the program is told where things are.
    """
    variables = {name: value for name, value in environment.items() if name.startswith(_VARIABLES)}
    yield from finished(_command, [(tuple(line), variables) for line in lines], gpu)


def slots() -> int:
    """How many things the cluster's workers do at a time."""
    address = scheduler()
    assert address is not None
    with _connected(address) as client:
        return sum(client.nthreads().values())


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Client]:
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError(
            '`scheduler`: needs the extra "cluster". Install it: pip install "diffatlas-pipeline[cluster]".'
        ) from error
    for name in ("distributed", "distributed.client"):  # they would tell of what is lost in their own words
        logging.getLogger(name).setLevel(logging.CRITICAL)

    class Connection(Client):
        """One that failed is closed at once: the garbage collection may do it while another one begins, and would wait
        for ever for what that one holds.
        """

        def start(self, **words: Any) -> None:
            try:
                super().start(**words)
            except BaseException:
                self.close()
                raise

    where = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
    try:
        try:
            client = Connection(**where, timeout=CONNECT_S, set_as_default=False)
        except AssertionError:  # of distributed, on a machine that stood still: its thread has not begun in ten seconds
            client = Connection(**where, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"`scheduler` {address}: cannot be reached ({str(error) or type(error).__name__}). Give the address that `dask "
            "scheduler` prints, such as tcp://HOST:8786, or its scheduler file."
        ) from error
    _connections.add(client)
    try:
        _check_workers(client, address)
        yield client
    finally:
        _connections.discard(client)
        client.close()


def _check_workers(client: Client, address: str) -> None:
    """UserError if there is none, or one of another release, or one that does not see this folder."""
    try:
        client.wait_for_workers(1, timeout=FIRST_WORKER_S)
    except TimeoutError as error:
        raise UserError(
            f"`scheduler` {address}: it has no worker. Start some where this program is installed: dask worker {address}."
        ) from error
    here = str(Path.cwd())
    try:
        found: dict[str, tuple[str, bool]] = client.run(_here, here)
    except Exception as error:  # whatever a worker without this package raises
        raise UserError(
            f"`scheduler` {address}: a worker cannot run this program ({error}). Start workers from the same environment."
        ) from error
    for worker, (version, sees) in found.items():
        if version != __version__:
            raise UserError(
                f"`scheduler` {address}: {worker} has release {version}, here it is {__version__}. Install the same."
            )
        if not sees:
            raise UserError(
                f"`scheduler` {address}: {worker} does not see {here}. All machines need the files at the same paths."
            )


def _here(folder: str) -> tuple[str, bool]:
    return __version__, Path(folder).is_dir()


def _call(function: Callable[[Any], Any], item: Any, folder: str) -> Any:
    os.chdir(folder)  # paths may be relative
    return function(item)


def _command(task: tuple[Sequence[str], Mapping[str, str]]) -> Said:
    """Run a command (words, variables) in a process of its own, which ends with this one."""
    (command, *words), variables = task
    here, pipe = {**os.environ, **variables}, subprocess.PIPE
    child = subprocess.Popen(line_of(command, words), stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, env=here)
    assert child.stdout is not None
    text = child.stdout.read().decode(errors="replace")
    return Said(child.wait(), text)
