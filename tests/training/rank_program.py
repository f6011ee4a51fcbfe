"""The batches of :mod:`tests.training.test_loop` learnt by one of several processes: what RANK says.

Leaves in the folder the gradients of the first batch, and the weights after the training.

python -m tests.training.rank_program FOLDER ITERATIONS
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from diffatlas_pipeline.training.loop import train
from diffatlas_pipeline.training.ranks import ALONE, Ranks, joined
from tests.training.test_loop import CPU, batch, method, run


def gradients(ranks: Ranks = ALONE) -> dict[str, torch.Tensor]:
    """Those of the loss of the first batch, by the names of the weights."""
    torch.manual_seed(0)
    learnt, first = method(), batch(0)
    network = learnt.build_network()
    shared = ranks.share(network, len(learnt.output_names))
    learnt.loss(shared, first["image"], first["distances"], torch.Generator().manual_seed(5)).total.backward()
    ranks.sum_gradients(network.parameters())
    return {name: one.grad.contiguous() for name, one in network.named_parameters() if one.grad is not None}


def main(folder: Path, iterations: int) -> None:
    torch.set_num_threads(1)
    with joined(CPU) as ranks:

        @contextmanager
        def batches(first: int) -> Iterator[Iterator[dict[str, torch.Tensor]]]:
            yield (batch(number) for number in range(first + ranks.rank, 10**6, ranks.count))

        save_file(gradients(ranks), folder.parent / f"gradients{ranks.rank}.safetensors")
        trained = train(method(), run(folder, iterations), batches, None, ranks)
        save_file({name: one.contiguous() for name, one in trained.weights.items()}, folder / f"rank{ranks.rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
