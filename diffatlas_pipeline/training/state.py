"""All that changes while training: network, its moving average, optimiser, noise generator; and its tensors by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from diffatlas_pipeline.planning.plan import TrainingPlan
from diffatlas_pipeline.training.muon import MuonWithAdamW
from diffatlas_pipeline.training.schedule import ema_decay


class TrainingState:
    """Network on ``device``, its EMA, optimiser, and the CPU generator that training noise is drawn from."""

    def __init__(self, network: nn.Module, plan: TrainingPlan, seed: int, device: torch.device) -> None:
        self.network = network.to(device)
        self.ema = AveragedModel(self.network, multi_avg_fn=self._blend)
        self.updates = 0
        self._fraction = plan.ema_fraction
        kind = MuonWithAdamW if plan.optimiser == "muon" else torch.optim.AdamW
        self.optimiser = kind(
            self.network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay, betas=(0.9, 0.99)
        )
        self.generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def _blend(self, averaged: Any, current: Any, count: Any) -> None:
        torch._foreach_lerp_(averaged, current, 1 - ema_decay(self.updates, self._fraction))

    def update_ema(self) -> None:
        self.updates += 1
        self.ema.update_parameters(self.network)

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name; :meth:`restore` is the inverse."""
        named = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        named |= {f"ema.{name}": tensor for name, tensor in self.ema.module.state_dict().items()}
        for index, entries in self.optimiser.state_dict()["state"].items():
            named |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in entries.items()}
        named["generator"] = self.generator.get_state()
        named["ema_updates"] = torch.tensor(self.updates)
        return named

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """ValueError if tensors of the network, of its average or of the noise are missing or of another shape."""
        own = {name: tensor.shape for name, tensor in self.tensors().items() if not name.startswith("optimiser.")}
        wrong = sorted(name for name, shape in own.items() if name not in tensors or tensors[name].shape != shape)
        if wrong:
            raise ValueError(f"{len(wrong)} tensors are missing or of another shape, such as {wrong[0]}")
        self.network.load_state_dict(_below("network.", tensors))
        self.ema.module.load_state_dict(_below("ema.", tensors))
        self.updates = int(tensors["ema_updates"])
        self.ema.n_averaged.fill_(self.updates)  # at 0 the next update would copy the weights instead of averaging
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("optimiser.", tensors).items():
            index, entry = name.split(".", 1)
            state.setdefault(int(index), {})[entry] = tensor
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.generator.set_state(tensors["generator"])

    def ema_weights(self) -> dict[str, Tensor]:
        return dict(self.ema.module.state_dict())


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
