"""kill -9 while a checkpoint is written: what is on the disk then is good, and leads to the very same weights."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from diffatlas_pipeline.training import checkpoints, loop
from diffatlas_pipeline.training.state import TrainingState
from tests.faults.processes import run_module
from tests.training.test_loop import CPU, PLAN, batches, method, run

ITERATIONS = 12
MOMENTS = ("half of it is written", "it is written", "the one before is renamed", "it is renamed")
AT = 3  # the third checkpoint: there are a latest and a previous one by then


def train_until_killed(folder: Path, moment: str) -> None:
    """In a process of its own: train, and be killed at the ``moment`` of writing the third checkpoint."""
    written, write, replace = 0, checkpoints.write_tensors, Path.replace

    def die(name: str) -> None:
        if written == AT and name == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def write_and_die(path: Path, *arguments: object) -> None:
        nonlocal written
        written += 1
        write(path, *arguments)  # type: ignore[arg-type]
        if written == AT and moment == MOMENTS[0]:
            os.truncate(path, path.stat().st_size // 2)
        die(MOMENTS[0])
        die(MOMENTS[1])

    def replace_and_die(path: Path, target: Path) -> Path:
        moved = replace(path, target)
        if path.name == checkpoints.LATEST:
            die(MOMENTS[2])
        if target.name == checkpoints.LATEST:
            die(MOMENTS[3])
        return moved

    checkpoints.write_tensors = write_and_die  # type: ignore[assignment]
    Path.replace = replace_and_die  # type: ignore[assignment, method-assign]
    loop.SECONDS_BETWEEN_CHECKPOINTS = 0.0  # after every step
    loop.train(method(), run(folder, ITERATIONS), batches, None)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes that are killed: sums of more threads differ in their last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return loop.train(method(), run(tmp_path_factory.mktemp("whole"), ITERATIONS), batches, None).weights


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a training that was killed, by the moment of it."""
    folders = {moment: tmp_path_factory.mktemp("killed") for moment in MOMENTS}
    done = run_module("tests.faults.test_checkpoint_kills", *folders.values())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [-signal.SIGKILL] * len(MOMENTS), done.stderr
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_a_checkpoint_is_written(
    killed: dict[str, Path], undisturbed: dict[str, torch.Tensor], moment: str
) -> None:
    folder = killed[moment]
    found = checkpoints.load_checkpoint(folder)
    assert found is not None
    _, status, warning = found
    assert (status.iteration, warning) == (AT if moment == MOMENTS[3] else AT - 1, "")
    resumed = loop.train(method(), run(folder, ITERATIONS), batches, None).weights
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)
    assert not [path.name for path in folder.iterdir() if path.name.endswith(".tmp")], "half a file is left"


def main(folders: list[str]) -> None:
    """Print how the training of each moment ended. Each is a process of its own, forked from one that has imported all:
    nothing is computed in that one, so torch has no threads in it yet.
    """
    torch.set_num_threads(1)
    TrainingState(method().build_network(), PLAN.training, 0, CPU)  # with its first optimiser torch imports much more
    codes = []
    for moment, folder in zip(MOMENTS, folders, strict=True):
        child = os.fork()
        if not child:
            try:
                train_until_killed(Path(folder), moment)
            finally:
                os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(codes))


if __name__ == "__main__":
    main(sys.argv[1:])
