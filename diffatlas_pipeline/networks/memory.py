"""The memory of a training step, measured without allocating any of it."""

from __future__ import annotations

import torch
from torch.autograd.graph import saved_tensors_hooks

from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.networks.unet import build_network
from diffatlas_pipeline.volumes.grids import Triple

_OPTIMISER_COPIES = 5  # weights, gradients, two moments of AdamW, EMA


def training_bytes(network: NetworkPlan, channels: int, patch: Triple, batch: int) -> int:
    """Bytes that one float32 training step holds: what autograd saves for backward, twice its input, weights and
    optimiser.

    Runs forward on the meta device, where tensors have shapes but no data; a tensor saved twice is counted once.
    ``channels`` are those of the joint state.
    """
    with torch.device("meta"):
        model = build_network(network, channels, channels)
        weights = {id(parameter): parameter.numel() * parameter.element_size() for parameter in model.parameters()}
        saved: dict[int, int] = {}
        held = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in weights:
                held.append(tensor)  # keeps addresses from being reused while they are counted
                storage = tensor.untyped_storage()
                saved[storage._cdata] = storage.nbytes()
            return tensor

        level = torch.rand(batch)
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.empty(batch, channels, *patch), level, level)
    state = 2 * 4 * batch * channels * patch[0] * patch[1] * patch[2]
    return sum(saved.values()) + state + _OPTIMISER_COPIES * sum(weights.values())
