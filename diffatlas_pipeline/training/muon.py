"""Muon: gradient steps of which every direction is as long as every other.

Jordan et al. 2024 ("Muon: An optimizer for hidden layers in neural networks"): the momentum of a weight matrix is
replaced by the nearest matrix with orthogonal rows, so that directions that rarely have a large gradient are learnt as
fast as the others. Convolutions are matrices of output channels by all that they see. Other weights are AdamW's.
torch.optim.Muon takes matrices alone, and works in bfloat16, which many processors only emulate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Newton-Schulz: singular values come to lie between about 0.7 and 1.2
ITERATIONS = 5
FEWEST = 16  # rows and columns of a matrix that is worth it
# The root mean square of a step is this times the rate: AdamW's own is about 0.2 (Liu et al. 2025, arXiv 2502.16982,
# section 2.2), and matrices bear twice as much.
STEP_RMS = 0.4


class MuonWithAdamW(torch.optim.AdamW):
    """Muon for the matrices among the parameters, AdamW for the rest, with one learning rate and weight decay."""

    def __init__(self, parameters: Iterable[nn.Parameter], **options: Any) -> None:
        everything = list(parameters)
        matrices = [one for one in everything if is_matrix(one)]
        rest = [one for one in everything if not is_matrix(one)]
        groups: list[dict[str, Any]] = [{"params": rest}, {"params": matrices, "orthogonal": True}]
        super().__init__(groups, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of both; ``closure`` is not used."""
        groups = self.param_groups
        orthogonal = [group for group in groups if group.get("orthogonal")]
        self.param_groups = [group for group in groups if not group.get("orthogonal")]
        try:
            super().step()
        finally:
            self.param_groups = groups
        for group in orthogonal:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step_of(weight, group["lr"], group["weight_decay"])

    def _step_of(self, weight: nn.Parameter, rate: float, decay: float) -> None:
        state, gradient = self.state[weight], cast(Tensor, weight.grad)
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
            state["step"] = torch.zeros(())  # AdamW, which reads all states again, wants it
        momentum: Tensor = state["momentum"].mul_(MOMENTUM).add_(gradient)
        ahead = gradient.add(momentum, alpha=MOMENTUM)
        matrix = ahead.flatten(1)
        step = orthogonalised(matrix).reshape(ahead.shape)
        weight.mul_(1 - rate * decay).add_(step, alpha=-rate * STEP_RMS * math.sqrt(max(matrix.shape)))


def is_matrix(weight: Tensor) -> bool:
    """Whether Muon learns ``weight``: that of a convolution of many channels."""
    return weight.ndim == 5 and min(weight.shape[0], weight[0].numel()) >= FEWEST


def orthogonalised(matrix: Tensor) -> Tensor:
    """(m, n) -> nearly the nearest matrix with orthogonal rows or columns, in float32, by Newton and Schulz.

    Jordan's iteration X <- (a + b X X' + c (X X')^2) X. All factors are polynomials of the first X X', so they are
    multiplied with each other first: two large products instead of ten.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    wide = (matrix.T if tall else matrix).float()
    wide = wide / wide.norm().clamp_min(1e-12)
    gram = wide @ wide.T
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    together = identity
    for _ in range(ITERATIONS):
        factor = a * identity + b * gram + c * (gram @ gram)
        together = factor @ together
        gram = factor @ gram @ factor
    found = together @ wide
    return (found.T if tall else found).to(matrix.dtype)
