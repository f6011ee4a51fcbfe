"""The topology of the U-Net, as a plan says it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from diffatlas_pipeline.fields import at_least, rule
from diffatlas_pipeline.volumes.grids import Triple


@dataclass(frozen=True)
class NetworkPlan:
    """Topology of the U-Net.

    Stage i works at the input grid divided by the product of ``strides[0..i]``; ``strides[0]`` is the stem's own (all
    ones, or a patch embedding). ``kernels``, ``widths``, ``blocks`` and ``attention`` have one entry per stage. With
    ``smooth_output``, outputs have no period of the stem's stride.
    """

    widths: tuple[int, ...] = field(metadata=at_least(1))
    strides: tuple[Triple, ...] = field(metadata=at_least(1))
    kernels: tuple[Triple, ...] = field(metadata=rule(lambda size: size >= 1 and size % 2 == 1, "must be odd and at least 1"))
    blocks: tuple[int, ...] = field(metadata=at_least(1))
    attention: tuple[bool, ...]
    embedding: int = field(metadata=at_least(1))
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
