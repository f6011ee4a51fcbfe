"""A convolution in three dimensions that is as fast for one patch as for two."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class Convolution(nn.Conv3d):
    """A Conv3d whose fast kernels (oneDNN) also compute a single small patch on a CPU.

    torch chooses between them and slow ones by the size of the input without its last axis: for images that is the work
    there is, for a volume of 24 voxels along an axis a fraction of it.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        plain = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        if plain and len(input) == 1 and input.ndim == 5 and _computed_by_onednn(input):
            padding = cast(tuple[int, ...], self.padding)
            return torch.mkldnn_convolution(input, weight, bias, padding, self.stride, self.dilation, self.groups)
        return super()._conv_forward(input, weight, bias)


def _computed_by_onednn(image: Tensor) -> bool:
    """Whether it can. In autocast torch chooses for itself: bfloat16 always goes to the fast kernels."""
    return (
        image.device.type == "cpu"
        and image.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
    )
