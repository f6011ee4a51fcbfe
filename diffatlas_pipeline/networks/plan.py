"""The topology of the U-Net, as a plan says it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from diffatlas_pipeline.volumes.grids import Triple


@dataclass(frozen=True)
class NetworkPlan:
    """Topology of the U-Net.

    Stage i works at the input grid divided by the product of ``strides[0..i]``; ``strides[0]`` is the stem's own (all ones, or
    a patch embedding). ``kernels``, ``widths``, ``blocks`` and ``attention`` have one entry per stage.
    """

    widths: tuple[int, ...]
    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]
    blocks: tuple[int, ...]
    attention: tuple[bool, ...]
    embedding: int

    @property
    def total_stride(self) -> Triple:
        """Product of all strides per axis: patch sizes are multiples of it."""
        x, y, z = (math.prod(stride[axis] for stride in self.strides) for axis in range(3))
        return x, y, z
