from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from diffatlas_pipeline.data import loader
from diffatlas_pipeline.data.batches import Batch, BatchStream, Unlabelled
from diffatlas_pipeline.data.loader import is_lost_worker, training_batches
from diffatlas_pipeline.data.patches import PatchSource
from diffatlas_pipeline.errors import DatasetError, UserError
from diffatlas_pipeline.preprocessing.store import StoredCase
from tests.factories import make_plan, store_cases

PLAN = make_plan(patch_size=(16, 24, 16))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("preprocessed")
    return folder, store_cases(folder, PLAN, [(20, 26, 18), (14, 30, 18), (24, 24, 24)])


def batches(stored: tuple[Path, list[str]], first: int, last: int, seed: int = 7) -> list[Batch]:
    with training_batches(*stored, PLAN, seed, first, last, workers=0) as made:
        return list(made)


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(a[key], b[key]) for key in ("image", "distances"))


def test_shapes_and_range(stored: tuple[Path, list[str]]) -> None:
    made = batches(stored, 0, 5)
    assert len(made) == 5
    for batch in made:
        assert set(batch) == {"image", "distances"}
        assert batch["image"].shape == (2, 1, 16, 24, 16) and batch["distances"].shape == (2, 2, 16, 24, 16)
        for tensor in batch.values():
            assert tensor.dtype == torch.float32 and tensor.min() >= -1 and tensor.max() <= 1
    assert any((batch["distances"] < 0).any() for batch in made)


def test_unlabelled_samples_have_an_image_and_no_distances(stored: tuple[Path, list[str]]) -> None:
    folder, names = stored
    with training_batches(folder, names[:1], PLAN, 7, 0, 40, 0, Unlabelled(tuple(names[1:]), 0.4)) as made:
        batches = list(made)
    distances = torch.cat([batch["distances"] for batch in batches]).flatten(1)
    assert torch.equal(distances.isnan().any(dim=1), distances.isnan().all(dim=1)), "a sample is labelled or it is not"
    assert 0.25 < float(distances.isnan().any(dim=1).float().mean()) < 0.55
    assert not any(batch["image"].isnan().any() for batch in batches)


def test_pseudo_labelled_cases_are_read_with_their_labels_from_their_own_folder(
    stored: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, names = stored
    (labelled,) = store_cases(tmp_path, PLAN, [(22, 26, 20)])
    with training_batches(folder, names, PLAN, 7, 0, 4, 0, Unlabelled((labelled,), 1.0, tmp_path)) as made:
        batches = list(made)
    assert not any(batch["distances"].isnan().any() for batch in batches)
    with training_batches(tmp_path, [labelled], PLAN, 7, 0, 4, 0, Unlabelled((labelled,), 1.0, tmp_path)) as alone:
        assert all(same(one, other) for one, other in zip(batches, alone, strict=True)), (
            "all samples come from the pseudo-labelled case"
        )


def test_batch_depends_on_seed_and_number_only(stored: tuple[Path, list[str]]) -> None:
    all_at_once = batches(stored, 0, 6)
    resumed = batches(stored, 4, 6)
    assert same(all_at_once[4], resumed[0]) and same(all_at_once[5], resumed[1])
    assert not same(all_at_once[4], all_at_once[5])
    assert not same(all_at_once[0], batches(stored, 0, 1, seed=8)[0])


def test_workers_make_the_same_batches_and_end_with_the_loop(stored: tuple[Path, list[str]]) -> None:
    expected = batches(stored, 3, 8)
    with training_batches(*stored, PLAN, 7, 3, 1000, workers=2) as made:
        for number, batch in enumerate(made):
            assert same(batch, expected[number])
            if number == 4:
                break
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


def test_every_batch_comes_once_and_in_order_when_workers_run_dry(stored: tuple[Path, list[str]]) -> None:
    expected = batches(stored, 3, 8)
    with training_batches(*stored, PLAN, 7, 3, 8, workers=2) as made:  # three for one, two for the other
        found = list(made)
    assert len(found) == 5 and all(map(same, found, expected))
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_of_being_stopped_hides_nothing(stored: tuple[Path, list[str]]) -> None:
    """Seen once: a worker aborted as its interpreter ended, and torch raised that in place of the loop's exception."""

    class Dying:
        def __init__(self, message: str) -> None:
            self.message = message

        def _shutdown_workers(self) -> None:
            raise RuntimeError(self.message)

    with pytest.raises(ZeroDivisionError), training_batches(*stored, PLAN, 7, 0, 10, workers=0) as made:
        made._batches, made._workers = Dying("DataLoader worker (pid 19410) is killed by signal: Aborted."), 1  # type: ignore[assignment]
        raise ZeroDivisionError
    made._batches = Dying("something else")  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="something else"):
        made.close()


def test_exception_in_the_loop_ends_the_workers(stored: tuple[Path, list[str]]) -> None:
    with pytest.raises(ZeroDivisionError), training_batches(*stored, PLAN, 7, 0, 1000, workers=1) as made:
        next(made)
        raise ZeroDivisionError
    assert not multiprocessing.active_children()


def test_a_worker_hears_no_signal_to_end_even_before_it_can_refuse_it(stored: tuple[Path, list[str]]) -> None:
    """A job scheduler signals the whole group; a worker still at its imports ended, and torch raised that anywhere."""
    with training_batches(*stored, PLAN, 7, 0, 2, workers=1) as made:
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGTERM)
        assert len(list(made)) == 2
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_killed_worker_is_an_error_and_not_a_wait(stored: tuple[Path, list[str]]) -> None:
    with training_batches(*stored, PLAN, 7, 0, 10**6, workers=1) as made:
        next(made)
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(UserError, match=r"In the making were batches of case_00\d.*; a batch takes .* MB.*fewer `workers`"):
            for _ in made:
                assert time.monotonic() - start < 30
        assert time.monotonic() - start < 30
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("part", "parts"), [(0, 1), (1, 3)])
def test_the_cases_of_a_batch_are_told_as_they_are_drawn(
    stored: tuple[Path, list[str]], part: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    whole = PatchSource.draw_case

    def draw_case(self: PatchSource, rng: np.random.Generator) -> StoredCase:
        case = whole(self, rng)
        drawn.append(case.case)
        return case

    stream = BatchStream(*stored, PLAN, 7, range(3, 40), Unlabelled(), 0.5, part, parts)
    told = [stream.cases_after(number, 1) for number in range(5)]
    monkeypatch.setattr(PatchSource, "draw_case", draw_case)
    size = PLAN.training.batch_size
    for _ in zip(range(5), stream, strict=False):
        pass
    assert told == [sorted(set(drawn[size * number : size * (number + 1)])) for number in range(5)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells that a process is stopped")
def test_a_stopped_worker_is_an_error_and_not_a_wait(stored: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "LOOK_S", 0.2)
    with pytest.raises(UserError, match=r"SIGSTOP.*last checkpoint"), training_batches(*stored, PLAN, 7, 0, 10**6, 1) as made:
        next(made)
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        start = time.monotonic()
        for _ in made:
            assert time.monotonic() - start < 30
    assert time.monotonic() - start < 30
    assert not multiprocessing.active_children()


def test_a_worker_lost_while_the_training_computes_is_told_as_one(stored: tuple[Path, list[str]]) -> None:
    """Torch's own handler raises as soon as a worker has died, also in the middle of a step."""
    with pytest.raises(UserError, match="fewer `workers`"), training_batches(*stored, PLAN, 7, 0, 10**6, workers=1) as made:
        next(made)
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        time.sleep(20)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), True),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), True),
        (EOFError(), True),  # the connection to the worker, closed while a batch was fetched
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nshapes differ"), False),
        (OSError("Caught OSError in DataLoader worker process 0.\nno such file"), False),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_a_lost_worker_is_told_from_a_bug_in_one(error: Exception, lost: bool) -> None:
    assert is_lost_worker(error) is lost


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_case_is_named(stored: tuple[Path, list[str]], tmp_path: Path, workers: int) -> None:
    (name,) = store_cases(tmp_path, PLAN, [(20, 26, 18)])
    (tmp_path / "cases" / f"{name}.image.b2nd").write_bytes(b"damaged")
    with pytest.raises(DatasetError, match=rf"^\S*{name}\.image\.b2nd: missing, or not"):
        next(training_batches(tmp_path, [name], PLAN, 7, 0, 10, workers))
    assert not multiprocessing.active_children()


def test_missing_case_is_said_before_any_worker_starts(stored: tuple[Path, list[str]]) -> None:
    with pytest.raises(DatasetError, match="'nowhere' is not preprocessed"):
        training_batches(stored[0], ["nowhere"], PLAN, 7, 0, 10, workers=1)
    assert not multiprocessing.active_children()


def test_no_batches_left(stored: tuple[Path, list[str]]) -> None:
    made = training_batches(*stored, PLAN, 7, 3, 3, workers=0)
    assert list(made) == []
    made.close()
    with pytest.raises(StopIteration):
        next(made)
