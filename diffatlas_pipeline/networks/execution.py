"""How a network is run on a device: in which precision it learns, and in which it segments."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from diffatlas_pipeline.errors import UserError

_REPEATS = 2


def resolve_device(name: str | None) -> torch.device:
    """'auto' or None: CUDA, else Apple's MPS, else the CPU. UserError if a named device is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name in (None, "auto"):
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"`device` {name}: not a device; use one of auto, cpu, cuda, cuda:1, mps.") from error
    if not available.get(device.type, False):
        present = ", ".join(kind for kind, there in available.items() if there)
        raise UserError(f"`device` {name}: not available on this machine (available: {present}).")
    return device


def running_in(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """A context to run a network in: "float32", or "bfloat16" autocast."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()


def native_precision(device: torch.device) -> str:
    """ "bfloat16" where the device has instructions for it, else "float32".

    Nothing is measured: the same scan is to be segmented in the same way whenever one asks on this machine.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    kinds = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public name for them
    return "bfloat16" if device.type == "cpu" and any(getattr(torch.cpu, kind, bool)() for kind in kinds) else "float32"


def faster_precision(device: torch.device, network: nn.Module, run: Callable[[], Tensor]) -> str:
    """ "bfloat16" where a training step of ``network`` is measured faster in it than in float32, else "float32".

    ``run`` calls it on a real input on ``device``; what it returns is differentiated. Processors without bfloat16
    instructions emulate it several times slower, those with them halve a step; where torch does not rule it out, only a
    measurement tells. Leaves no gradients behind.
    """
    if device.type == "mps" or (device.type == "cpu" and not _computes_bfloat16()):
        return "float32"
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"

    def seconds(precision: str) -> float:
        with running_in(precision, device):
            return _seconds(network, run)

    full = min(seconds("float32") for _ in range(_REPEATS))
    half = seconds("bfloat16")
    if half < 2 * full:  # else it is emulated, and not worth a second look
        half = min(half, *(seconds("bfloat16") for _ in range(_REPEATS - 1)))
    return "bfloat16" if half < 0.9 * full else "float32"


def _computes_bfloat16() -> bool:
    """Whether torch's convolutions compute bfloat16 on this processor at all, and do not convert it back and forth."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _seconds(network: nn.Module, run: Callable[[], Tensor]) -> float:
    """One step's time; callers take the best of a few, because a shared machine only ever adds time."""
    start = time.perf_counter()
    run().float().square().mean().backward()
    network.zero_grad(set_to_none=True)
    return time.perf_counter() - start
