"""A trained network on its device: the precision it runs in, and what happens when the device's memory is full."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from diffatlas_pipeline.errors import ModelError
from diffatlas_pipeline.inference.stitched import is_out_of_memory
from diffatlas_pipeline.methods.base import LearnedMethod, Method
from diffatlas_pipeline.models.folder import TrainedFold
from diffatlas_pipeline.networks.execution import native_precision, running_in

T = TypeVar("T")


class RunningNetwork(nn.Module):
    """A network and the precision it runs in; "auto" is that which the device has instructions for."""

    def __init__(self, network: nn.Module, device: torch.device, precision: str) -> None:
        super().__init__()
        self.network = network.to(device).eval()
        self.device = device
        self.precision = native_precision(device) if precision == "auto" else precision

    def forward(self, windows: Tensor, *levels: Tensor) -> Tensor:
        with running_in(self.precision, self.device):
            return self.network(windows, *levels)


def restored(method: Method, fold: TrainedFold, device: torch.device, precision: str) -> nn.Module:
    """What ``method`` segments with, from a trained fold. ModelError if the checkpoint does not fit the plan, or holds
    what is no number.
    """
    if wrong := [name for name, tensor in fold.state.items() if not bool(torch.isfinite(tensor).all())]:
        raise ModelError(
            f"{fold.fold}: {len(wrong)} of its weights, such as {wrong[0]}, are not finite. Restore the model folder, or "
            "train it again."
        )
    try:
        network = method.restore(fold.state)
    except RuntimeError as error:
        raise ModelError(f"{fold.fold}: its checkpoint does not fit the plan ({error}). Restore the model folder.") from error
    return RunningNetwork(network, device, precision) if isinstance(method, LearnedMethod) else network


def with_room(segment: Callable[[Tensor], T], image: Tensor, device: torch.device) -> T:
    """``segment`` of ``image`` on ``device``; on the CPU where the state of the whole volume does not fit beside the
    network.

    Windows still run on the device then.
    """
    with torch.inference_mode():
        if device.type != "cpu":
            try:
                return segment(image.to(device))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
        return segment(image)
