"""Where the time of a training step goes: the share of its convolutions alone, and what they reach of the peak.

Four things are timed in turn, so that what else the machine does meets all alike: a matrix product (the peak), the
network's convolutions alone with tensors of the same shapes, the network, its loss, and the whole step of a training.
``GOMP_SPINCOUNT`` says how long torch's threads wait in place; commands set it to 1000, this does not.

Then, if asked for, the network as torch.compile makes it, and how long a real training waits for its batches. Of
several precisions each is timed in turn, and has a row.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.commands import main_of
from benchmarks.record import RESULTS, append_row, machine
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.methods.base import LearnedMethod
from diffatlas_pipeline.methods.registry import create_method, recipe_of
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.networks.execution import resolve_device, running_in
from diffatlas_pipeline.training.job import read_plan, run_training
from diffatlas_pipeline.training.options import TrainingOptions
from diffatlas_pipeline.training.schedule import seconds_of
from diffatlas_pipeline.training.state import TrainingState

MATRIX = 1536  # edge of the matrices whose product is the peak


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Share of a training step that its convolutions alone take, and of the peak that they reach.",
        epilog="example:\n  python -m benchmarks.utilisation --preprocessed .../Dataset004_Hippocampus",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--preprocessed", type=Path, required=True, metavar="FOLDER", help="a planned data set")
    made.add_argument(
        "--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32"], help="side by side (default: float32)"
    )
    made.add_argument("--busy", type=int, default=0, metavar="N", help="beside N processes that never rest (default: 0)")
    made.add_argument("--repeats", type=int, default=15, metavar="N", help="rounds (default: %(default)s)")
    made.add_argument(
        "--compile", action="store_true", help="time the compiled network, too; on a CPU that needs a C++ compiler"
    )
    made.add_argument("--train-for", metavar="TIME", help="train so long, and tell how long it waited for batches")
    made.add_argument("--device", default="cpu", help="auto, cpu, cuda, mps (default: %(default)s)")
    made.add_argument(
        "--results", type=Path, default=RESULTS / "utilisation.csv", metavar="FILE", help="(default: documentation/results/)"
    )
    return made


def run(
    preprocessed: Path,
    precision: list[str],
    busy: int,
    repeats: int,
    compile: bool,
    train_for: str | None,
    device: str,
    results: Path,
) -> None:
    """Time everything, keep a row for each precision. UserError for a folder without a plan, or a missing device."""
    if repeats < 1:
        raise UserError(f"--repeats {repeats}: at least 1 is needed.")
    steps = [Step(preprocessed, resolve_device(device), one, compile) for one in dict.fromkeys(precision)]
    found: list[dict[str, list[float]]] = [{name: [] for name in step.timed} for step in steps]
    with beside(busy):
        for repeat in range(-2, repeats):  # the first rounds warm up
            for step, times in zip(steps, found, strict=True):
                for name, work in step.timed.items():
                    start = time.perf_counter()
                    work()
                    step.wait()
                    if repeat >= 0:
                        times[name].append(time.perf_counter() - start)
    for step, times in zip(steps, found, strict=True):
        seconds = {name: statistics.median(values) for name, values in times.items()}
        row = {"dataset": preprocessed.name, "precision": step.precision, "batch": step.batch, "repeats": repeats}
        row |= {"busy": busy, "spins": os.environ.get("GOMP_SPINCOUNT", "")}
        row |= {f"{name}_ms": round(1000 * value, 2) for name, value in seconds.items()}
        row["peak_gflops"] = round(2 * MATRIX**3 / seconds["product"] / 1e9, 1)
        row["convolutions_gflops"] = round(step.convolution_flops / seconds["convolutions"] / 1e9, 1)
        if train_for is not None:
            row |= {"train_for": train_for, "waiting_share": waiting_share(preprocessed, train_for, step.precision, device)}
        append_row(results, machine() | {"device": device} | row)
        print(", ".join(f"{name} {value}" for name, value in row.items()))
    print(f"Added to {results}")


@contextmanager
def beside(busy: int) -> Iterator[None]:
    """In here so many other processes never rest."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def waiting_share(preprocessed: Path, train_for: str, precision: str, device: str) -> float:
    """The part of a training of all stored cases for which it waited for batches."""
    with tempfile.TemporaryDirectory() as folder:
        place = Workspace(preprocessed.parent, preprocessed.parent, Path(folder))
        options = TrainingOptions(
            preprocessed.name, "all", max_time_s=seconds_of(train_for), precision=precision, device=device, validation=False
        )
        trained = ModelFolder(run_training(options, place).model)
        return float(trained.metadata("all")["waiting_share"])


class Step:
    """A training step of the default recipe by the plan of a data set, on random images, and its parts: ``timed`` by
    name.
    """

    def __init__(self, preprocessed: Path, device: torch.device, precision: str, compile: bool = False) -> None:
        plan = read_plan(preprocessed)
        method = create_method("diffatlas", plan, recipe_of(plan, "diffatlas", "default"))
        assert isinstance(method, LearnedMethod)
        self.method, self.device, self.precision, self.batch = method, device, precision, plan.training.batch_size
        self.state = TrainingState(method.build_network(), plan.training, 0, device)
        self.network, self.clip = self.state.network, plan.training.gradient_clip

        def volumes(channels: int) -> Tensor:
            made = torch.rand((self.batch, channels, *plan.patch_size)) * 2 - 1
            return made.to(device).contiguous(memory_format=torch.channels_last_3d)

        self.image, self.distances = volumes(len(plan.channels)), volumes(plan.dataset.distance_maps)
        self.seen, self.levels = volumes(len(method.input_names)), torch.full((self.batch,), 0.5, device=device)
        self.matrices = torch.rand((2, MATRIX, MATRIX), device=device)
        self.layers = self._layers()
        self.convolution_flops = self._flops_of_convolutions()
        self.timed: dict[str, Callable[[], Any]] = {
            "product": self.product,
            "convolutions": self.convolutions,
            "network": self.through_network,
            "loss": self.loss,
            "step": self.step,
        }
        if compile:
            compiled = torch.compile(self.network)
            self.timed["compiled"] = lambda: self.through_network(compiled)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def product(self) -> None:
        with running_in(self.precision, self.device):
            self.matrices[0] @ self.matrices[1]

    def convolutions(self) -> None:
        """Forward and backward of each, alone."""
        for layer, seen, gradient in self.layers:
            with running_in(self.precision, self.device):
                out = layer(seen)
            out.backward(gradient.to(out.dtype))

    def through_network(self, network: Callable[..., Tensor] | None = None) -> None:
        with running_in(self.precision, self.device):
            out = (self.network if network is None else network)(self.seen, self.levels, self.levels)
        out.backward(torch.ones_like(out))

    def loss(self) -> None:
        with running_in(self.precision, self.device):
            report = self.method.loss(self.network, self.image, self.distances, self.state.generator)
        self.state.optimiser.zero_grad(set_to_none=True)
        report.total.backward()

    def step(self) -> None:
        self.loss()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        self.state.optimiser.step()
        self.state.update_ema()

    def _layers(self) -> list[tuple[nn.Module, Tensor, Tensor]]:
        """Each convolution with an input as it sees it, and a gradient as it is given one."""
        found: list[tuple[nn.Module, Tensor, Tensor]] = []

        def look(layer: nn.Module, seen: tuple[Tensor, ...], out: Tensor) -> None:
            copy = seen[0].detach().clone().float().requires_grad_(bool(found))  # the images need no gradient
            found.append((layer, copy, torch.randn_like(out, dtype=torch.float32)))

        hooks = [one.register_forward_hook(look) for one in self.network.modules() if is_convolution(one)]
        self.through_network()
        for hook in hooks:
            hook.remove()
        return found

    def _flops_of_convolutions(self) -> int:
        with FlopCounterMode(display=False) as counter:
            self.convolutions()
        return counter.get_total_flops()


def is_convolution(module: nn.Module) -> bool:
    return isinstance(module, (nn.Conv3d, nn.ConvTranspose3d))


if __name__ == "__main__":
    main()
