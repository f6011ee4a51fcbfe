from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline import parallel, processes
from diffatlas_pipeline.datasets import sizes
from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.datasets.sizes import (
    SMALL_BYTES,
    largest_bytes,
    memory_note,
    reading_bytes,
    useful_workers,
)
from diffatlas_pipeline.errors import DatasetError
from diffatlas_pipeline.parallel import run_cases, run_short_cases
from diffatlas_pipeline.volumes.io import write_scalars
from tests.factories import make_grid
from tests.faults.processes import wait_for_the_end
from tests.parallel_work import (
    die,
    die_at_two,
    fail,
    make_folder_or_die,
    make_folder_or_fail,
    process_number,
    raise_stubborn,
    square,
    stop_at_one,
    threads,
)

NAMES = ["a", "b", "dies", "d"]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_keep_the_order(workers: int) -> None:
    assert run_cases(square, [3, 1, 2, 0], NAMES, workers, "Test") == [9, 1, 4, 0]


def test_a_killed_worker_costs_its_own_case_which_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        DatasetError, match=r"^dies, test: .*killed.* It needs 2 GB\. All but 2 is kept\. .*fewer `workers`"
    ) as caught:
        run_cases(die_at_two, [0, 1, 2, 3], NAMES, 2, "Test", memory=lambda n: f"It needs {n} GB.", kept="All but 2 is kept.")
    assert not {"a,", "b,", "d,"} & set(str(caught.value).split())
    assert "The other cases go on." in capsys.readouterr().out
    assert not multiprocessing.active_children()


def test_cases_after_a_killed_one_are_done(tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in ("a", "dies", "c", "d", "e")]
    with pytest.raises(DatasetError, match=r"^dies, test: "):
        run_cases(make_folder_or_die, folders, ["a", "dies", "c", "d", "e"], 2, "Test")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "d", "e"]


def test_a_slow_worker_is_named_and_ended_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time counts from when a process is started: the function needs no import, so that all soon have one."""
    monkeypatch.setattr(processes, "LOOK_S", 0.5)
    with pytest.raises(DatasetError, match=r"^b, test: not finished after 8 s.* Open the file .*fewer `workers`.* again\.$"):
        run_cases(time.sleep, [0, 300, *[0.02] * 600], [*NAMES[:2], *["a"] * 600], 2, "Test", timeout_s=8)
    assert not multiprocessing.active_children()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells that a process is stopped")
def test_a_stopped_worker_is_named_and_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "LOOK_S", 0.1)
    began = time.monotonic()
    with pytest.raises(DatasetError, match=r"^stops, test: .*SIGSTOP.*Open the file"):
        run_cases(stop_at_one, [0, 1, 2, 3], ["a", "stops", "c", "d"], 2, "Test")
    assert time.monotonic() - began < 60
    assert not multiprocessing.active_children()


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """Killed, it cannot tell them; and they hold both ends of the pipes that they wait at."""
    script = tmp_path / "mine.py"
    lines = ["import sys, time", "from diffatlas_pipeline.parallel import run_cases", 'if __name__ == "__main__":']
    lines += ["    print('begins', flush=True)", "    run_cases(time.sleep, [0, 0, 600, 600], 'abcd', 2, 'Test')"]
    script.write_text("\n".join(lines))
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None and process.stdout.readline() == "begins\n"
    time.sleep(5)
    process.kill()
    process.wait()
    wait_for_the_end(process.pid, 30)


def test_where_no_process_lives_the_others_are_not_tried(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DatasetError, match=r"^\d, test: .*killed.* \d, test: .*killed"):
        run_cases(die, list(range(50)), [str(number) for number in range(50)], 2, "Test")
    assert capsys.readouterr().out.count("killed") == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_bugs_keep_their_type(workers: int) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug of ours"):
        run_cases(fail, [0, 1], NAMES[:2], workers, "Test")


@pytest.mark.parametrize(
    ("workers", "names"),
    [(1, ["fails", "a", "large", "b"]), (2, ["a", "b", "fails", "large", "c"])],  # of two processes one has done something
)
@pytest.mark.parametrize("short", [False, True])
def test_a_crash_costs_its_own_case(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    workers: int,
    names: list[str],
    short: bool,
) -> None:
    monkeypatch.setattr(parallel, "WORTH_WORKERS_S", 0.0)
    folders = [str(tmp_path / name) for name in names]
    with pytest.raises(ZeroDivisionError, match="a bug of ours") as caught:
        (run_short_cases if short else run_cases)(make_folder_or_fail, folders, names, workers, "Test")
    notes = "\n".join(caught.value.__notes__)
    assert "Failed: fails. large, test: there was not enough memory" in notes
    assert "make_folder_or_fail" in notes + "".join(traceback.format_tb(caught.value.__traceback__)), "where it was raised"
    assert {path.name for path in tmp_path.iterdir()} == {*names} - {"fails", "large"}
    said = capsys.readouterr().out
    assert (
        "fails, test: a fault of this program (ZeroDivisionError: a bug of ours)." in said and "The other cases go on." in said
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_too_little_memory_is_told_as_such(tmp_path: Path, workers: int) -> None:
    folders, mend = (
        [str(tmp_path / name) for name in ("a", "large", "c")],
        "fewer `workers`" if workers > 1 else "crop the image",
    )
    with pytest.raises(DatasetError, match=rf"^large, test: .*not enough memory for it\. It needs 2 GB\. .*{mend}"):
        run_cases(make_folder_or_fail, folders, ["a", "large", "c"], workers, "Test", memory=lambda _: "It needs 2 GB.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


def test_a_process_that_stands_still_is_given_up_within_a_minute() -> None:
    assert processes.LOOK_S * (processes.LOOKS + 1) + 2 * processes.ENDING_S < 60


def test_workers_have_one_thread_and_this_process_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert run_cases(threads, [0, 1], NAMES[:2], 2, "Test") == ["1", "1"]
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ


def _run_script(path: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    path.write_text("\n".join(lines) + "\n")
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120)


def test_a_script_whose_processes_run_it_again_is_told_to_guard_its_calls(tmp_path: Path) -> None:
    lines = ["import math", "from diffatlas_pipeline.parallel import run_cases"]
    call = 'print(run_cases(math.sqrt, [1, 4], ["a", "b"], 2, "Test"))'
    said = _run_script(tmp_path / "mine.py", *lines, call).stderr
    assert re.search(
        r'DatasetError: [ab], test: .*more likely that mine\.py, .*under the line: if __name__ == "__main__": .*workers', said
    )
    assert _run_script(tmp_path / "mine.py", *lines, 'if __name__ == "__main__":', f"    {call}").stdout == "[1.0, 2.0]\n"


def test_functions_that_start_processes_refuse_a_process_that_runs_the_script_again(tmp_path: Path) -> None:
    functions = ("plan_and_preprocess", "train", "evaluate")
    run = _run_script(
        tmp_path / "mine.py",
        "import multiprocessing",
        'if __name__ == "__main__":',
        "    process = multiprocessing.get_context('spawn').Process(target=print)",
        "    process.start()",
        "    process.join()",
        "else:",  # where alone the imports are needed: they take seconds
        f"    from diffatlas_pipeline import UserError, {', '.join(functions)}",
        f"    for call in ({', '.join(functions)}):",
        "        try:",
        "            call('1', '2') if call is not plan_and_preprocess else call('1')",
        "        except UserError as error:",
        "            print(call.__name__, error)",
    )
    told = [line for line in run.stdout.splitlines() if 'put the calls under the line: if __name__ == "__main__":' in line]
    assert [line.split()[0] for line in told] == list(functions)


def test_memory_note_counts_the_larger_grid(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    write_scalars(path, np.zeros((100, 100, 50), np.float32), make_grid((100, 100, 50), (1.0, 1.0, 2.0)))
    files = CaseFiles("a", (path,), None)
    assert memory_note(files, 1000) == "It needs about 0.7 GB (100 x 100 x 50 voxels)."
    assert memory_note(files, 1000, (1.0, 1.0, 1.0)) == "It needs about 1.2 GB (100 x 100 x 50 voxels)."
    assert memory_note(files, 1000, (2.0, 2.0, 2.0)) == memory_note(files, 1000)
    path.write_bytes(b"damaged")
    assert memory_note(files, 1000) == ""


@pytest.mark.parametrize("module", ["datasets.checks", "planning.measure", "preprocessing.run"])
def test_what_workers_import_is_light(module: str) -> None:
    """Spawned workers import it before their first case: torch (which acvl_utils imports too) alone takes seconds."""
    line = f"import sys, diffatlas_pipeline.{module}; print({{'torch', 'pandas', 'acvl_utils'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_small_data_start_no_processes(tmp_path: Path) -> None:
    (tmp_path / "small.nii").write_bytes(b"x")
    with (tmp_path / "large.nii").open("wb") as file:
        file.truncate(SMALL_BYTES + 1)
    small, large = (CaseFiles(name, (tmp_path / f"{name}.nii",), None) for name in ("small", "large"))
    assert useful_workers([small], 4) == 1
    assert useful_workers([small, large], 4) == 4


def test_no_more_workers_than_the_memory_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if all worked at cases as large as the largest; a single one is a process of its own, which may be killed."""
    cases = []
    for name, shape in (("a", (20, 20, 20)), ("b", (200, 200, 100)), ("c", (10, 10, 10))):
        write_scalars(tmp_path / f"{name}.nii.gz", np.zeros(shape, np.float32), make_grid(shape, (1.0, 1.0, 1.0)))
        cases.append(CaseFiles(name, (tmp_path / f"{name}.nii.gz",), None))
    most = largest_bytes(cases, reading_bytes)
    assert most == sizes.PROCESS_BYTES + 16 * 200 * 200 * 100
    monkeypatch.setattr(sizes, "available_bytes", lambda: most - 1)
    assert largest_bytes(cases, reading_bytes) == sizes.PROCESS_BYTES + 16 * 20**3, "what never fits fails by itself"
    for free, found in ((None, 3), (most * 9, 3), (int(most * 2.5), 2), (most // 2, 1)):
        monkeypatch.setattr(parallel, "available_bytes", lambda free=free: free)
        processes_of = run_cases(process_number, [0.3] * 6, [*"abcdef"], 3, "Test", item_bytes=most)
        assert len({*processes_of}) <= found and os.getpid() not in processes_of
        said = f"{found} of 3 workers: a case takes up to 0.3 GB of memory"
        assert (said in capsys.readouterr().out) == (found < 3)


def test_an_exception_that_cannot_travel_is_told_by_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="Stubborn: of two 1 and 2"):
        run_cases(raise_stubborn, [0, 1, 2], [*"abc"], 2, "Test")
