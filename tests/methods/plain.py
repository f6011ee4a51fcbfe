"""A stitch of one window: the whole volume."""

from __future__ import annotations

import torch
from torch import Tensor

from diffatlas_pipeline.diffusion.solvers import Parts
from diffatlas_pipeline.methods.base import Volumes, WindowFunction
from diffatlas_pipeline.scratch import EVERYTHING, IN_MEMORY


class Plain:
    scratch = IN_MEMORY

    def __call__(self, run: WindowFunction, volume: Volumes) -> Tensor:
        return run((torch.cat(volume) if isinstance(volume, tuple) else volume)[None])[0]

    def rows(self, run: WindowFunction, volume: Volumes) -> Parts:
        yield EVERYTHING, self(run, volume)


plain = Plain()
