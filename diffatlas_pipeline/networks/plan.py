"""The topology of the U-Net, as a plan says it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from diffatlas_pipeline.fields import rule, within
from diffatlas_pipeline.volumes.grids import Triple

# Far above what any plan needs: a damaged plan, or a stranger's, is refused before memory is taken for it.
MOST_CHANNELS, MOST_STRIDE, MOST_KERNEL, MOST_BLOCKS = 16384, 64, 31, 256


@dataclass(frozen=True)
class NetworkPlan:
    """Topology of the U-Net.

    Stage i works at the input grid divided by the product of ``strides[0..i]``; ``strides[0]`` is the stem's own (all
    ones, or a patch embedding). ``kernels``, ``widths``, ``blocks`` and ``attention`` have one entry per stage. With
    ``smooth_output``, outputs have no period of the stem's stride.
    """

    widths: tuple[int, ...] = field(metadata=within(1, MOST_CHANNELS))
    strides: tuple[Triple, ...] = field(metadata=within(1, MOST_STRIDE))
    kernels: tuple[Triple, ...] = field(
        metadata=rule(lambda size: 1 <= size <= MOST_KERNEL and size % 2 == 1, f"must be odd, 1 to {MOST_KERNEL}")
    )
    blocks: tuple[int, ...] = field(metadata=within(1, MOST_BLOCKS))
    attention: tuple[bool, ...]
    embedding: int = field(metadata=within(1, MOST_CHANNELS))
    smooth_output: bool = False  # as in the plans of earlier releases

    def problems(self) -> Iterator[str]:
        """What does not go together."""
        stages = {name: len(getattr(self, name)) for name in ("widths", "strides", "kernels", "blocks", "attention")}
        if len(set(stages.values())) > 1 or not self.widths:
            found = ", ".join(f"{count} {name}" for name, count in stages.items())
            yield f"one entry per stage is needed, but there are {found}"

    @property
    def total_stride(self) -> Triple:
        """Product of all strides per axis: patch sizes are multiples of it."""
        x, y, z = (math.prod(stride[axis] for stride in self.strides) for axis in range(3))
        return x, y, z
