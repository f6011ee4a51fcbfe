"""A residual U-Net in three dimensions, told the noise level of the image and of the mask. It knows nothing of
diffusion.

Two-dimensional data are volumes with Z = 1 whose kernels and strides are 1 along Z.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffatlas_pipeline.networks.convolution import Convolution
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.volumes.grids import Triple

_FREQUENCIES = 16


class LevelEmbedding(nn.Module):
    """Two noise levels (B,), (B,) in [0, 1] -> one embedding (B, size): Fourier features of each, their own layers,
    summed.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(2 * _FREQUENCIES, size), nn.SiLU(), nn.Linear(size, size))
        self.mask = nn.Sequential(nn.Linear(2 * _FREQUENCIES, size), nn.SiLU(), nn.Linear(size, size))
        self.register_buffer("frequencies", math.pi * torch.arange(1, _FREQUENCIES + 1) / 2, persistent=False)

    def forward(self, level_image: Tensor, level_mask: Tensor) -> Tensor:
        return functional.silu(self.image(self._features(level_image)) + self.mask(self._features(level_mask)))

    def _features(self, level: Tensor) -> Tensor:
        angles = level[:, None] * self.get_buffer("frequencies")
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResidualBlock(nn.Module):
    """Two convolutions; the noise embedding scales and shifts the second's input (Dhariwal & Nichol 2021, section 3).

    ``embedding`` is its size; 0 for a network that is told no noise level.
    """

    def __init__(self, inputs: int, outputs: int, kernel: Triple, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_groups(inputs), inputs)
        self.conv1 = _convolution(inputs, outputs, kernel)
        self.modulation = nn.Linear(embedding, 2 * outputs) if embedding else None
        self.norm2 = nn.GroupNorm(_groups(outputs), outputs, affine=not embedding)
        self.conv2 = _convolution(outputs, outputs, kernel)
        self.skip = Convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.conv2.weight)  # a block starts as the identity

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        hidden = self.norm2(self.conv1(functional.silu(self.norm1(x))))
        if self.modulation is not None:
            scale, shift = self.modulation(embedding)[:, :, None, None, None].chunk(2, dim=1)
            hidden = torch.addcmul(shift, hidden, 1 + scale)
        return self.skip(x) + self.conv2(functional.silu(hidden))


class Attention(nn.Module):
    """Self-attention among all voxels of a coarse grid, with a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(_groups(width), width)
        self.qkv = Convolution(width, 3 * width, 1)
        self.out = Convolution(width, width, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        batch, width = x.shape[:2]
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, width // self.heads, -1).transpose(-1, -2)
        mixed = functional.scaled_dot_product_attention(qkv[:, 0], qkv[:, 1], qkv[:, 2])
        return x + self.out(mixed.transpose(-1, -2).reshape(x.shape))


class WithoutPeriod(nn.Module):
    """(B, C, X, Y, Z) without what has the period of ``stride`` along an axis: every place in a block weighs the same
    in the mean of two strides, the nearest voxels weighing most.

    A transposed convolution has weights of its own for each place in a block, which differ until they are learnt: a
    checkerboard (Odena et al. 2016, Distill, "Deconvolution and Checkerboard Artifacts").
    """

    def __init__(self, channels: int, stride: Triple) -> None:
        super().__init__()
        x, y, z = (torch.tensor([(s - abs(k)) / s**2 for k in range(1 - s, s)]) for s in stride)
        kernel = x[:, None, None] * y[None, :, None] * z[None, None, :]
        self.register_buffer("kernel", kernel.expand(channels, 1, *kernel.shape).clone(), persistent=False)
        self.margins = [s - 1 for s in reversed(stride) for _ in range(2)]  # Z first, as torch's pad wants it

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, self.margins, mode="replicate")
        return functional.conv3d(padded, self.get_buffer("kernel"), groups=x.shape[1])


class UNet(nn.Module):
    """See :func:`build_network`."""

    def __init__(self, plan: NetworkPlan, inputs: int, outputs: int, levels: bool) -> None:
        super().__init__()
        widths, kernels, size = plan.widths, plan.kernels, plan.embedding if levels else 0
        self.embedding = LevelEmbedding(size) if levels else None
        self.stem = _stem(inputs, widths[0], kernels[0], plan.strides[0])
        self.encoder, self.down, self.attention = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for stage, width in enumerate(widths):
            before = widths[max(stage - 1, 0)]
            stride = plan.strides[stage]
            self.down.append(Convolution(before, width, stride, stride) if stage else nn.Identity())
            self.encoder.append(
                nn.ModuleList(ResidualBlock(width, width, kernels[stage], size) for _ in range(plan.blocks[stage]))
            )
            self.attention.append(Attention(width, _heads(width)) if plan.attention[stage] else nn.Identity())
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        for stage in range(len(widths) - 2, -1, -1):
            stride = plan.strides[stage + 1]
            self.up.append(nn.ConvTranspose3d(widths[stage + 1], widths[stage], stride, stride))
            self.decoder.append(ResidualBlock(2 * widths[stage], widths[stage], kernels[stage], size))
        self.head_norm = nn.GroupNorm(_groups(widths[0]), widths[0])
        self.head = _head(widths[0], outputs, kernels[0], plan.strides[0])
        self.smooth = WithoutPeriod(outputs, plan.strides[0]) if plan.smooth_output else nn.Identity()

    def forward(self, x: Tensor, level_image: Tensor | None = None, level_mask: Tensor | None = None) -> Tensor:
        embedding = None if self.embedding is None else self.embedding(level_image, level_mask)
        x = self.stem(x)
        skips = []
        for down, blocks, attention in zip(self.down, self.encoder, self.attention, strict=True):
            x = down(x)
            for block in cast(nn.ModuleList, blocks):
                x = block(x, embedding)
            x = attention(x)
            skips.append(x)
        skips.pop()
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(torch.cat([up(x), skips.pop()], dim=1), embedding)
        return self.smooth(self.head(functional.silu(self.head_norm(x))))


def build_network(plan: NetworkPlan, inputs: int, outputs: int, levels: bool = True) -> UNet:
    """A U-Net of ``plan``'s topology; without ``levels`` it is told no noise level: forward(x) alone.

    forward(x (B, inputs, X, Y, Z), image level (B,), mask level (B,)) -> (B, outputs, X, Y, Z), where X, Y and Z must
    be multiples of ``plan.total_stride``. Weights lie channels-last, which is about twice as fast on a CPU.
    """
    network = UNet(plan, inputs, outputs, levels)
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return network


def _convolution(inputs: int, outputs: int, kernel: Triple) -> Convolution:
    return Convolution(inputs, outputs, kernel, padding=_each(lambda k: k // 2, kernel))


def _stem(inputs: int, width: int, kernel: Triple, stride: Triple) -> nn.Module:
    """A convolution, or, where the stem has a stride, an embedding of overlapping blocks of twice the stride."""
    if stride == (1, 1, 1):
        return _convolution(inputs, width, kernel)
    block, padding = _overlapping(kernel, stride)
    return Convolution(inputs, width, block, stride, padding=padding)


def _head(width: int, outputs: int, kernel: Triple, stride: Triple) -> nn.Module:
    """The stem's inverse."""
    if stride == (1, 1, 1):
        return _convolution(width, outputs, kernel)
    block, padding = _overlapping(kernel, stride)
    return nn.ConvTranspose3d(width, outputs, block, stride, padding=padding)


def _overlapping(kernel: Triple, stride: Triple) -> tuple[Triple, Triple]:
    """Block size and padding per axis: twice the stride, or the kernel on an axis without a stride."""
    block = _each(lambda k, s: 2 * s if s > 1 else k, kernel, stride)
    return block, _each(lambda b, s: (b - s + 1) // 2, block, stride)


def _each(function: Callable[..., int], *triples: Triple) -> Triple:
    x, y, z = (function(*values) for values in zip(*triples, strict=True))
    return x, y, z


def _groups(width: int) -> int:
    """The largest of 8, 4, 2, 1 groups that divides ``width``."""
    return next(groups for groups in (8, 4, 2, 1) if width % groups == 0)


def _heads(width: int) -> int:
    return next(heads for heads in (8, 4, 2, 1) if (width % heads == 0 and width // heads >= 16) or heads == 1)
