"""One training by several processes, its ranks, each with a GPU or a share of the cores.

All ranks hold the same weights, get the same batch and draw the same random numbers. Each runs the network on its part
of the samples and is given the outputs of the others, so each computes the loss of the whole batch, and the gradient by
its own outputs. The sum over ranks is the gradient that a single process would compute. So neither losses nor
checkpoints depend on the number of ranks, but for rounding, and a training may go on with another number.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.machine import rank_here

PATIENCE = timedelta(days=7)  # the others wait while the first validates; one that dies is noticed by its connection


@dataclass(frozen=True)
class Ranks:
    """Process ``rank`` of ``count``, which talks to the others in memory of ``device``."""

    rank: int
    count: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes, validates and speaks."""
        return self.rank == 0

    def share(self, network: nn.Module, outputs: int) -> nn.Module:
        """``network`` with so many output channels, of which each rank computes the samples that are its own."""
        return network if self.count == 1 else _Shared(network, outputs, self)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all ranks, bitwise alike for each."""
        if self.count == 1:
            return
        trained = [one for one in parameters if one.requires_grad]
        for one in trained:
            if one.grad is None:
                one.grad = torch.zeros_like(one)
        flat = torch.cat([one.grad.reshape(-1) for one in trained])  # type: ignore[union-attr]
        with _together():
            dist.all_reduce(flat)
        parts = flat.split([one.numel() for one in trained])
        for one, part in zip(trained, parts, strict=True):
            one.grad.copy_(part.view_as(one))  # type: ignore[union-attr]

    def agree(self, progress: float, stop: bool) -> tuple[float, bool]:
        """The first rank's ``progress``, and whether any was told to stop."""
        if self.count == 1:
            return progress, stop
        said = torch.tensor([progress if self.leads else 0.0, float(stop)], dtype=torch.float64).to(self._carrier)
        with _together():
            dist.all_reduce(said, op=dist.ReduceOp.MAX)
        return float(said[0]), bool(said[1])

    def told(self, value: int = 0) -> int:
        """What the first rank says; the others wait for it."""
        if self.count == 1:
            return value
        said = torch.tensor([value]).to(self._carrier)
        with _together():
            dist.broadcast(said, src=0)
        return int(said)

    def deal(self, batches: Iterator[dict[str, Tensor]], shapes: Mapping[str, Sequence[int]]) -> Iterator[dict[str, Tensor]]:
        """All batches for all, of which each rank makes every ``count``-th; of these ``shapes``, float32."""
        if self.count == 1:
            yield from batches
            return
        for number in itertools.count():
            owner = number % self.count
            mine = next(batches) if owner == self.rank else {}
            yield {name: self._sent(mine.get(name), shape, owner) for name, shape in shapes.items()}

    def _sent(self, tensor: Tensor | None, shape: Sequence[int], owner: int) -> Tensor:
        sent = torch.empty(tuple(shape)) if tensor is None else tensor.float().contiguous()
        sent = sent.to(self._carrier)
        with _together():
            dist.broadcast(sent, src=owner)
        return sent

    @property
    def _carrier(self) -> torch.device:
        return self.device if self.device.type == "cuda" else torch.device("cpu")


ALONE = Ranks(0, 1, torch.device("cpu"))


class _Shared(nn.Module):
    """Called with the whole batch; runs ``network`` on the samples of its rank. Gradients reach its own alone."""

    def __init__(self, network: nn.Module, outputs: int, ranks: Ranks) -> None:
        super().__init__()
        self.network, self.outputs, self.ranks = network, outputs, ranks

    def forward(self, *inputs: Tensor) -> Tensor:
        seen, parts = inputs[0], []
        bounds = [len(seen) * rank // self.ranks.count for rank in range(self.ranks.count + 1)]
        for rank, (first, stop) in enumerate(itertools.pairwise(bounds)):
            if first == stop:
                continue
            if rank == self.ranks.rank:
                found = self.network(*(one[first:stop] for one in inputs)).float()
                sent = found.detach().contiguous()
            else:
                sent = seen.new_empty((stop - first, self.outputs, *seen.shape[2:]), dtype=torch.float32)
            with _together():
                dist.broadcast(sent, src=rank)
            parts.append(found if rank == self.ranks.rank else sent)
        return torch.cat(parts)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The ranks of this training, if torchrun or `num_gpus` started several; each has a GPU where ``device`` is one.

    UserError if there is no GPU for it, or the others cannot be reached.
    """
    rank, count = rank_here()
    if count == 1:
        yield replace(ALONE, device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank)))
        present = torch.cuda.device_count()
        if device.index >= present:
            raise UserError(
                f"`num_gpus`: process {rank + 1} of {count} has no GPU; this machine has {present}. Give at most that."
            )
        torch.cuda.set_device(device)
    with _together():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(rank, count, device)
    finally:
        dist.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of the connections: all that is computed is outside
        raise UserError(
            "Another process of this training ended, or cannot be reached, so this one ends, too. Run the same command again: "
            "it goes on from the last checkpoint."
        ) from error
