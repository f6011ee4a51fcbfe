"""What a network costs: FLOPs and saved bytes counted without data, milliseconds and peak memory measured.

FLOPs are counted by torch.utils.flop_counter.FlopCounterMode, which counts a multiplication and an addition as two and leaves
out everything but convolutions and matrix products. It runs on the meta device: no memory is needed, and attention is counted,
which it is not when the counter runs on a CPU.
"""

from __future__ import annotations

import concurrent.futures
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.authors_network import AuthorsNetwork
from diffatlas_pipeline.inference.tiling import windows
from diffatlas_pipeline.networks.execution import faster_precision, running_in
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.networks.unet import build_network
from diffatlas_pipeline.volumes.grids import Triple

OPTIMISER_COPIES = 5  # weights, gradients, two moments of AdamW, moving average
OVERLAP = 0.5  # of the windows of a volume larger than the patch


@dataclass(frozen=True)
class Subject:
    """A network in the setting it is used in; ``plan`` None stands for the shape of the authors' network.

    ``volume`` is what one case is, ``patch`` what one forward pass takes, ``channels`` those of the joint state.
    """

    name: str
    plan: NetworkPlan | None
    channels: int
    volume: Triple
    patch: Triple
    batch: int
    steps: int

    def build(self) -> nn.Module:
        if self.plan is None:
            network = AuthorsNetwork(self.channels)
            network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
            return network
        return build_network(self.plan, self.channels, self.channels)

    @property
    def windows(self) -> int:
        """Forward passes per sampling step: overlapping windows that cover the volume."""
        x, y, z = (max(size, window) for size, window in zip(self.volume, self.patch, strict=True))
        return len(windows((x, y, z), self.patch, OVERLAP))


@dataclass(frozen=True)
class Counts:
    """FLOPs of one forward pass of one window, of one training step (forward and backward of a batch); parameters; bytes."""

    parameters: int
    forward_flops: int
    training_flops: int
    training_bytes: int


def count(subject: Subject) -> Counts:
    """Count on the meta device. ``training_bytes`` as the planner counts them (networks.memory), for any network."""
    with torch.device("meta"):
        network = subject.build()
        parameters = sum(parameter.numel() for parameter in network.parameters())
        one = _example(subject, 1, torch.device("meta"))
        with torch.no_grad(), FlopCounterMode(display=False) as forward:
            network(*one)
        batch = _example(subject, subject.batch, torch.device("meta"))
        with FlopCounterMode(display=False) as training:
            network(*batch).square().mean().backward()
        saved = _saved_bytes(network, batch)
    state = 2 * 4 * subject.batch * subject.channels * math.prod(subject.patch)
    total = saved + state + OPTIMISER_COPIES * 4 * parameters
    return Counts(parameters, forward.get_total_flops(), training.get_total_flops(), total)


def _example(subject: Subject, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    state = torch.randn(batch, subject.channels, *subject.patch, device=device)
    level = torch.full((batch,), 0.5, device=device)
    return state.contiguous(memory_format=torch.channels_last_3d), level, level


def _saved_bytes(network: nn.Module, example: tuple[Tensor, ...]) -> int:
    """Bytes that autograd saves for backward, each storage once, weights left out."""
    weights = {id(parameter) for parameter in network.parameters()}
    saved: dict[int, int] = {}
    held = []  # keeps the storages alive, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        if id(tensor) not in weights:
            storage = tensor.untyped_storage()
            held.append(storage)
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        network(*example)
    return sum(saved.values())


# ------------------------------------------------------------------------------------------------------------- measured
class Stopwatch:
    """One subject ready to run: :meth:`sampling_ms` and :meth:`training_ms` do one step each and return its time.

    As in real use: everything in channels-last order, and bfloat16 where it is measured faster (``precision`` "auto").
    A sampling step is one forward pass of one window, a training step forward, backward and an AdamW update of a batch.
    """

    def __init__(self, subject: Subject, device: torch.device, precision: str = "auto") -> None:
        self.device = device
        self.network = subject.build().to(device)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), 1e-4)
        self.one, self.batch = _example(subject, 1, device), _example(subject, subject.batch, device)
        self._precision = {False: precision, True: precision}

    def sampling_ms(self) -> float:
        self.network.eval()
        precision = self.precision(train=False)

        def step() -> None:
            with torch.inference_mode(), running_in(precision, self.device):
                self.network(*self.one)

        return self._timed(step)

    def training_ms(self) -> float:
        self.network.train()
        precision = self.precision(train=True)

        def step() -> None:
            self.optimiser.zero_grad(set_to_none=True)
            with running_in(precision, self.device):
                output = self.network(*self.batch)
            output.float().square().mean().backward()
            self.optimiser.step()

        return self._timed(step)

    def precision(self, train: bool) -> str:
        """What it runs in, measured when first asked."""
        if self._precision[train] == "auto":
            example = self.batch if train else self.one
            self._precision[train] = faster_precision(self.device, self.network, lambda: self.network(*example), train)
        return self._precision[train]

    def _timed(self, step: Callable[[], None]) -> float:
        self._wait()
        start = time.perf_counter()
        step()
        self._wait()
        return 1000 * (time.perf_counter() - start)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def peak_memory(subject: Subject, train: bool, device: str, threads: int) -> tuple[float, float]:
    """Peak memory in GB of a fresh process that does two steps, and that before the network was made.

    On a CUDA device it is the memory that torch took there, else the process' resident memory.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_run_and_look, subject, train, device, threads).result(timeout=1800)


def _run_and_look(subject: Subject, train: bool, device: str, threads: int) -> tuple[float, float]:
    torch.set_num_threads(threads)
    target = torch.device(device)
    before = _peak_gb(target)
    watch = Stopwatch(subject, target, "float32")  # so that the machine's taste in precisions does not change the memory
    for _ in range(2):
        if train:
            watch.training_ms()
        else:
            watch.sampling_ms()
    return _peak_gb(target), before


def _peak_gb(device: torch.device) -> float:
    """Peak so far. Linux' VmHWM, because ru_maxrss there also counts the process that this one was started from."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
