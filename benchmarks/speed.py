"""What the planned networks cost: FLOPs, milliseconds of a sampling step and of a training step, memory.

FLOPs are counted by torch.utils.flop_counter.FlopCounterMode, which counts a multiplication and an addition as two and
leaves out everything but convolutions and matrix products. It runs on the meta device: no memory is needed, and
attention is counted, which it is not when the counter runs on a CPU.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.commands import main_of
from benchmarks.record import RESULTS, machine
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.inference.tiling import windows
from diffatlas_pipeline.methods.joint_recipe import DEFAULT
from diffatlas_pipeline.networks.execution import faster_precision, native_precision, resolve_device, running_in
from diffatlas_pipeline.networks.memory import training_bytes
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.networks.unet import build_network
from diffatlas_pipeline.planning.plan import Budget
from diffatlas_pipeline.planning.topology import plan_batch_size, plan_topology
from diffatlas_pipeline.volumes.grids import Triple, TripleMm

CPU, GPU, AUTHORS = "planned for a CPU", "planned for an 8 GB GPU", "stated by the authors"
BUDGETS = {CPU: Budget(8, "cpu", "cpu"), GPU: Budget(8, "cuda", "gpu8")}
CLAIMS = {CPU: 500, GPU: 50}  # times fewer FLOPs per case than the authors' setting
SPACING_MM: TripleMm = (1.0, 1.0, 1.0)
HIPPOCAMPUS: Triple = (35, 51, 35)  # median case of Task04_Hippocampus
HIPPOCAMPUS_CASES, HIPPOCAMPUS_CHANNELS = 160, 3  # one image, two labels
CUBE: Triple = (64, 64, 64)
CUBE_CHANNELS = 6  # one image, five labels
SIZE = "{} x {} x {}"
AUTHORS_PARAMETERS, AUTHORS_FLOPS, AUTHORS_FORWARDS = 35.9e6, 1.05e12, 300  # at CUBE with CUBE_CHANNELS


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="FLOPs, times and memory of a sampling step and a training step of the planned networks, beside what the\n"
        "authors of DiffAtlas state of theirs. The exit code is 1 if a case does not take far fewer FLOPs.",
        epilog="example:\n  python -m benchmarks.speed --quick",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--quick", action="store_true", help="count everything, time the CPU's networks only, write no file")
    made.add_argument("--repeats", type=int, default=9, metavar="N", help="times each step is timed (default: %(default)s)")
    made.add_argument("--device", default="cpu", help="auto, cpu, cuda, mps (default: %(default)s)")
    made.add_argument(
        "--results", type=Path, default=RESULTS / "speed.csv", metavar="FILE", help="(default: documentation/results/)"
    )
    return made


def run(quick: bool, repeats: int, device: str, results: Path) -> None:
    """Count, time, print, write. UserError for a device that is not there; SystemExit(1) if a claim fails."""
    import pandas as pd  # here: a machine that only measures has none

    from benchmarks.tables import speed_table

    if repeats < 1:
        raise UserError(f"--repeats {repeats}: at least 1 is needed.")
    place = resolve_device(device)
    compared = subjects()
    timed = [one for one in compared if one.name == CPU or not quick]
    times = measure(timed, place, min(3, repeats) if quick else repeats)
    memory = {} if quick else {one: peak_training_gb(one, str(place)) for one in timed}
    rows = [row(one, times.get(one), memory.get(one)) for one in compared]
    table = pd.DataFrame([*rows, authors_row()])
    print(speed_table(table))
    if not quick:
        said = table.assign(**machine(), device=str(place))
        write_text_atomically(results, said.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
        print(f"Written: {results}")
    if not report_claims(rows):
        sys.exit(1)


# ------------------------------------------------------------------------------------------------------------- subjects
@dataclass(frozen=True)
class Subject:
    """A network in the setting it is used in.

    ``volume`` is what one case is, ``patch`` what one forward pass takes, ``channels`` those of the joint state.
    """

    name: str
    plan: NetworkPlan
    channels: int
    volume: Triple
    patch: Triple
    batch: int

    def build(self) -> nn.Module:
        return build_network(self.plan, self.channels, self.channels)

    @property
    def forwards(self) -> int:
        """Forward passes per case: sampling steps of the default recipe, for each window that covers the volume."""
        x, y, z = (max(size, window) for size, window in zip(self.volume, self.patch, strict=True))
        return DEFAULT.sampler.steps * DEFAULT.sampler.draws * len(windows((x, y, z), self.patch))


def subjects() -> list[Subject]:
    """The CPU's network as planned for 160 hippocampus cases; both networks at 64^3, six channels, batches of 1."""
    network, patch, _ = plan_topology(BUDGETS[CPU], HIPPOCAMPUS, SPACING_MM, HIPPOCAMPUS_CHANNELS, training_bytes)
    voxels = HIPPOCAMPUS_CASES * math.prod(HIPPOCAMPUS)
    batch, _ = plan_batch_size(BUDGETS[CPU], network, patch, HIPPOCAMPUS_CHANNELS, voxels, training_bytes)
    found = [Subject(CPU, network, HIPPOCAMPUS_CHANNELS, HIPPOCAMPUS, patch, batch)]
    return [*found, *map(cube, BUDGETS)]


def cube(name: str) -> Subject:
    """The network planned for the budget ``name`` in the authors' setting."""
    network, patch, _ = plan_topology(BUDGETS[name], CUBE, SPACING_MM, CUBE_CHANNELS, training_bytes)
    return Subject(name, network, CUBE_CHANNELS, CUBE, patch, 1)


def example(subject: Subject, batch: int, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """A noisy state (batch, channels, X, Y, Z) and the two noise levels, as the network is called."""
    state = torch.randn(batch, subject.channels, *subject.patch, device=device)
    level = torch.full((batch,), 0.5, device=device)
    return state.contiguous(memory_format=torch.channels_last_3d), level, level


def forward_flops(subject: Subject) -> tuple[int, int]:
    """FLOPs of one forward pass of one window, and the number of parameters."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = subject.build()
        network(*example(subject, 1, "meta"))
    return counter.get_total_flops(), sum(parameter.numel() for parameter in network.parameters())


# ------------------------------------------------------------------------------------------------------------- measured
class Stopwatch:
    """One subject ready to run: :meth:`sampling_ms` and :meth:`training_ms` do one step each and return its time.

    As in real use: everything in channels-last order, and in the precision that training and prediction choose. A
    sampling step is one forward pass of one window, a training step forward, backward and an AdamW update of a batch.
    """

    def __init__(self, subject: Subject, device: torch.device, precision: str | None = None) -> None:
        self.device = device
        self.network = subject.build().to(device)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), 1e-4)
        self.one, self.batch = example(subject, 1, device), example(subject, subject.batch, device)
        self.precision = {False: precision or native_precision(device), True: precision or self._faster()}

    def _faster(self) -> str:
        return faster_precision(self.device, self.network, lambda: self.network(*self.batch))

    def sampling_ms(self) -> float:
        self.network.eval()

        def step() -> None:
            with torch.inference_mode(), running_in(self.precision[False], self.device):
                self.network(*self.one)

        return self._timed(step)

    def training_ms(self) -> float:
        self.network.train()

        def step() -> None:
            self.optimiser.zero_grad(set_to_none=True)
            with running_in(self.precision[True], self.device):
                output = self.network(*self.batch)
            output.float().square().mean().backward()
            self.optimiser.step()

        return self._timed(step)

    def _timed(self, step: Callable[[], None]) -> float:
        self._wait()
        start = time.perf_counter()
        step()
        self._wait()
        return 1000 * (time.perf_counter() - start)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure(timed: Sequence[Subject], device: torch.device, repeats: int) -> dict[Subject, tuple[list[float], list[float]]]:
    """Milliseconds of single sampling and training steps.

    All steps are timed in turn, ``repeats`` times around, so that what else the machine does meets all of them alike.
    """
    watches = {subject: Stopwatch(subject, device) for subject in timed}
    times: dict[Subject, tuple[list[float], list[float]]] = {subject: ([], []) for subject in timed}
    for repeat in range(-1, repeats):
        print(f"timing, round {repeat + 1} of {repeats} ...", file=sys.stderr, flush=True)
        for subject, watch in watches.items():
            for step, found in zip((watch.sampling_ms, watch.training_ms), times[subject], strict=True):
                milliseconds = step()
                if repeat >= 0:  # the first round warms up
                    found.append(milliseconds)
    return times


def peak_training_gb(subject: Subject, device: str) -> float:
    """Peak memory in GB of a fresh process that does two training steps in float32, Python and torch included.

    On a CUDA device it is the memory that torch took there, else the process' resident memory.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_train_and_look, subject, device, torch.get_num_threads()).result(timeout=1800)


def _train_and_look(subject: Subject, device: str, threads: int) -> float:
    torch.set_num_threads(threads)
    watch = Stopwatch(subject, torch.device(device), "float32")
    watch.training_ms()
    watch.training_ms()
    if watch.device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")  # on Linux, ru_maxrss also counts the process that this one was started from
    if status.exists():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


# ----------------------------------------------------------------------------------------------------------------- rows
def row(subject: Subject, times: tuple[list[float], list[float]] | None, peak_gb: float | None) -> dict[str, Any]:
    """One row of the results file; what was not measured is None."""
    flops, parameters = forward_flops(subject)
    same_input = (subject.volume, subject.channels) == (CUBE, CUBE_CHANNELS)
    return {
        "network": subject.name,
        "input": SIZE.format(*subject.volume),
        "channels": subject.channels,
        "patch": SIZE.format(*subject.patch),
        "parameters": parameters,
        "forward_gflop": flops / 1e9,
        "forwards_per_case": subject.forwards,
        "flops_ratio": AUTHORS_FORWARDS * AUTHORS_FLOPS / (subject.forwards * flops) if same_input else None,
        "batch": subject.batch,
        **_spread("sampling_ms", times[0] if times else []),
        **_spread("training_ms", times[1] if times else []),
        "repeats": len(times[0]) if times else 0,
        "peak_training_gb": peak_gb,
    }


def authors_row() -> dict[str, Any]:
    """What is stated of the authors' network; nothing is measured."""
    counted = {"parameters": AUTHORS_PARAMETERS, "forward_gflop": AUTHORS_FLOPS / 1e9, "forwards_per_case": AUTHORS_FORWARDS}
    return {"network": AUTHORS, "input": SIZE.format(*CUBE), "channels": CUBE_CHANNELS, **counted}


def report_claims(rows: Sequence[dict[str, Any]]) -> bool:
    """Print each claim and whether it holds; whether all hold."""
    ratios = {one["network"]: one["flops_ratio"] for one in rows if one["flops_ratio"] is not None}
    for name, wanted in CLAIMS.items():
        verdict = "holds" if ratios[name] >= wanted else "FAILS"
        print(f"At least {wanted} times fewer FLOPs per case, {name}: {ratios[name]:,.0f} times, {verdict}")
    return all(ratios[name] >= wanted for name, wanted in CLAIMS.items())


def _spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Median and quartiles."""
    if not values:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


if __name__ == "__main__":
    main()
