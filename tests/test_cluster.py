"""Scheduler and workers of Dask as processes of their own: all is done, nothing twice that was done, and lost ones are
named.
"""

from __future__ import annotations

import gc
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffatlas_pipeline import cluster
from diffatlas_pipeline.errors import DatasetError, UserError
from diffatlas_pipeline.parallel import run_cases
from tests import cluster_work
from tests.dask_cluster import Dask

pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    made = Dask(tmp_path_factory.mktemp("dask"))
    for _ in range(2):
        made.add_worker()
    made.wait_for_workers()
    yield made
    made.close()


def events(folder: Path, kind: str) -> list[tuple[str, int]]:
    """(name, process) of what was begun, or done."""
    found = [re.fullmatch(rf"(\w+)_{kind}_(\d+)_\d+", path.name) for path in folder.iterdir()]
    return [(match[1], int(match[2])) for match in found if match]


def test_two_workers_do_all_in_the_order_of_the_cases(dask: Dask, tmp_path: Path) -> None:
    names = [f"case{number:02d}" for number in range(6)]
    with cluster.on(str(dask.file)):
        found = run_cases(cluster_work.noted, [(str(tmp_path), name, 0.1) for name in names], names, 1, "Working")
    assert found == names and sorted(name for name, _ in events(tmp_path, "done")) == names
    assert {process for _, process in events(tmp_path, "done")} == {worker.pid for worker in dask.workers}


def test_paths_are_those_of_this_process(dask: Dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with cluster.on(str(dask.file)):
        assert run_cases(cluster_work.here, [1], ["one"], 1, "Working") == [str(tmp_path)]


def test_what_a_function_says_is_said_here(dask: Dask, tmp_path: Path) -> None:
    with cluster.on(str(dask.file)), pytest.raises(DatasetError, match="case: a header that is damaged"):
        run_cases(cluster_work.wrong, [(str(tmp_path), "case", 0.0)], ["case"], 1, "Working")


def test_a_killed_worker_costs_nothing_that_was_done(dask: Dask, tmp_path: Path) -> None:
    names, victim = [f"case{number:02d}" for number in range(12)], dask.workers[0]

    def kill() -> None:
        """While it is at its second case."""
        deadline = time.monotonic() + 60
        while [process for _, process in events(tmp_path, "begun")].count(victim.pid) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.15)
        victim.kill()
        victim.wait()

    killer = threading.Thread(target=kill)
    killer.start()
    with cluster.on(str(dask.file)):
        found = run_cases(cluster_work.noted, [(str(tmp_path), name, 0.4) for name in names], names, 1, "Working")
    killer.join()
    dask.workers.remove(victim)
    done = events(tmp_path, "done")
    assert found == names and sorted(name for name, _ in done) == names, "all once"
    assert [process for _, process in done].count(victim.pid) == 1
    begun = [name for name, _ in events(tmp_path, "begun")]
    assert len(begun) == len(names) + 1, "that at which the worker was killed is begun again"


def test_a_case_that_ends_its_workers_is_named_and_those_beside_it_are_done(tmp_path: Path) -> None:
    made, names = Dask(tmp_path, failures=0), ["first", "bad", "last"]

    def add_workers() -> None:
        """One for each of those that are done alone, when all three are in the first one."""
        deadline = time.monotonic() + 60
        while len(events(tmp_path, "begun")) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        made.add_worker()
        made.add_worker()

    adder = threading.Thread(target=add_workers)
    try:
        made.add_worker(threads=3)
        adder.start()
        with cluster.on(str(made.file)), pytest.raises(DatasetError) as raised:
            run_cases(cluster_work.deadly, [(str(tmp_path), name, 1.0) for name in names], names, 1, "Working")
        adder.join()
    finally:
        made.close()
    assert "bad, working: each of several workers of the cluster was lost" in str(raised.value)
    assert not re.search("first,|last,", str(raised.value))
    begun, done = ([name for name, _ in events(tmp_path, kind)] for kind in ("begun", "done"))
    assert sorted(begun) == ["first", "first", "last", "last"], "again, alone"
    assert sorted(done) == ["first", "last"]


def test_a_cluster_that_cannot_be_used_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    for address, said in (("tcp://127.0.0.1:9", "cannot be reached"), ("nowhere.json", "cannot be reached")):
        with cluster.on(address), pytest.raises(UserError, match=f"`scheduler` {address}: {said}"):
            run_cases(cluster_work.here, [1], ["one"], 1, "Working")
    monkeypatch.setattr(cluster, "FIRST_WORKER_S", 1)
    empty = Dask(tmp_path)
    try:
        with cluster.on(str(empty.file)), pytest.raises(UserError, match="it has no worker"):
            run_cases(cluster_work.here, [1], ["one"], 1, "Working")
        empty.add_worker()
        monkeypatch.setattr(cluster, "FIRST_WORKER_S", 60)
        monkeypatch.setattr(cluster, "__version__", "0.0.0")
        with cluster.on(str(empty.file)), pytest.raises(UserError, match=r"here it is 0\.0\.0"):
            run_cases(cluster_work.here, [1], ["one"], 1, "Working")
    finally:
        empty.close()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nowhere.json"])
def test_a_connection_that_fails_is_closed_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collection would wait for ever, if it closed it where another one is just beginning."""
    from distributed import Client

    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    gc.collect()
    gc.disable()
    try:
        with cluster.on(address), pytest.raises(UserError, match="cannot be reached"):
            run_cases(cluster_work.here, [1], ["one"], 1, "Working")
        clients = [each for each in gc.get_objects() if issubclass(type(each), Client)]
        assert clients and all(client.status == "closed" for client in clients)
    finally:
        gc.enable()


def test_a_connection_is_tried_again_where_the_machine_stood_still(dask: Dask, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed.utils import LoopRunner

    real, tries = LoopRunner.start, list[int]()

    def start(runner: LoopRunner) -> None:
        tries.append(1)
        assert len(tries) > 1  # as distributed says that its thread has not begun
        real(runner)

    monkeypatch.setattr(LoopRunner, "start", start)
    with cluster.on(str(dask.file)):
        assert run_cases(cluster_work.here, [1], ["one"], 1, "Working") and len(tries) == 2


def test_a_result_is_not_waited_for_where_the_connection_was_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may end between the news that a task is done and the asking for its result, which nothing answers then."""

    class Silent:
        status, looks = "finished", 0

        def result(self, timeout: float) -> int:
            self.looks += 1
            client.status = "closed" if self.looks == 3 else "running"
            raise TimeoutError

    client = SimpleNamespace(status="running")
    with pytest.raises(RuntimeError, match="closed"):
        cluster._result(client, Silent())  # type: ignore[arg-type]
    own = Silent()
    own.status = "error"
    with pytest.raises(TimeoutError):
        cluster._result(client, own)  # type: ignore[arg-type]


def test_a_connection_that_is_ended_here_ends_the_waiting(dask: Dask, tmp_path: Path) -> None:
    dask.add_worker()

    def end() -> None:
        deadline = time.monotonic() + 60
        while not events(tmp_path, "begun") and time.monotonic() < deadline:
            time.sleep(0.01)
        cluster.disconnect()

    ender = threading.Thread(target=end)
    ender.start()
    with cluster.on(str(dask.file)), pytest.raises(UserError, match="the connection was lost"):
        run_cases(cluster_work.noted, [(str(tmp_path), "one", 2.0)], ["one"], 1, "Working")
    ender.join()


def test_a_killed_scheduler_is_told(tmp_path: Path) -> None:
    made, names = Dask(tmp_path), [f"case{number}" for number in range(4)]

    def kill() -> None:
        """When one is done, and the next is begun."""
        deadline = time.monotonic() + 60
        while len(events(tmp_path, "begun")) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        made.scheduler.kill()

    killer = threading.Thread(target=kill)
    try:
        made.add_worker()
        killer.start()
        start = time.monotonic()
        with cluster.on(str(made.file)), pytest.raises(UserError, match="the connection was lost"):
            run_cases(cluster_work.noted, [(str(tmp_path), name, 1.0) for name in names], names, 1, "Working")
        assert time.monotonic() - start < 60
        killer.join()
    finally:
        made.close()
    assert [name for name, _ in events(tmp_path, "done")][:1] == ["case0"]


def test_commands_see_where_things_are(dask: Dask, monkeypatch: pytest.MonkeyPatch) -> None:
    """All variables that are read for it, of this process or as they are given."""
    monkeypatch.setenv("DiffAtlas_raw", "/somewhere/raw")
    with cluster.on(str(dask.file)):
        ((_, found),) = cluster.run_commands([["info"]])
        ((_, other),) = cluster.run_commands([["info"]], environment={"DiffAtlas_raw": "/elsewhere"})
    assert isinstance(found, cluster.Said) and "/somewhere/raw" in found.text
    assert isinstance(other, cluster.Said) and "/elsewhere" in other.text


def test_without_the_extra_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with cluster.on("tcp://127.0.0.1:9"), pytest.raises(UserError, match=r"pip install \"diffatlas-pipeline\[cluster\]\""):
        run_cases(cluster_work.here, [1], ["one"], 1, "Working")
