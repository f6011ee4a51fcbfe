"""A network of the shape that the DiffAtlas authors use, to count and time its work; it is never trained here.

They use a U-Net made for video (Ho et al. 2022, *Video Diffusion Models*, section 3): convolutions within slices, attention
within slices, and attention along the remaining axis, which is never halved. Written from that description and from the
paper's sizes (64 x (1, 2, 4, 8) channels); position encodings of the attention, which cost next to nothing, are left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

BASE_WIDTH = 64
MULTIPLES = (1, 2, 4, 8)
HEADS, HEAD_WIDTH = 8, 32
GROUPS = 8
STEM_KERNEL = (1, 7, 7)
STEPS = 300  # sampling steps of the authors' setting
# What is stated of the authors' network: at 64^3 voxels with six channels.
STATED_PARAMETERS, STATED_FLOPS = 35.9e6, 1.05e12


class ConvolutionBlock(nn.Module):
    """Two 1 x 3 x 3 convolutions; the time embedding scales and shifts between them; residual."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.conv1 = nn.Conv3d(inputs, outputs, (1, 3, 3), padding=(0, 1, 1))
        self.norm1 = nn.GroupNorm(GROUPS, outputs)
        self.conv2 = nn.Conv3d(outputs, outputs, (1, 3, 3), padding=(0, 1, 1))
        self.norm2 = nn.GroupNorm(GROUPS, outputs)
        self.skip = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(functional.silu(embedding))[:, :, None, None, None].chunk(2, dim=1)
        hidden = functional.silu(self.norm1(self.conv1(x)) * (1 + scale) + shift)
        return self.skip(x) + functional.silu(self.norm2(self.conv2(hidden)))


class Attention(nn.Module):
    """Multi-head attention within slices or along the axis across them, with a residual connection.

    ``kind``: "slice" (all pairs of voxels of a slice), "slice-linear" (the same, linear in their number: Shen et al. 2021) or
    "axis" (all pairs along X).
    """

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.norm = nn.GroupNorm(1, width)
        self.qkv = nn.Linear(width, 3 * HEADS * HEAD_WIDTH, bias=False)
        self.out = nn.Linear(HEADS * HEAD_WIDTH, width, bias=kind == "slice-linear")

    def forward(self, x: Tensor) -> Tensor:
        batch, width, depth, height, breadth = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 4, 1)  # (B, X, Y, Z, c)
        if self.kind == "axis":
            tokens = tokens.permute(0, 2, 3, 1, 4).reshape(-1, depth, width)
        else:
            tokens = tokens.reshape(-1, height * breadth, width)
        groups, count = tokens.shape[:2]
        query, key, value = self.qkv(tokens).reshape(groups, count, 3, HEADS, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
        if self.kind == "slice-linear":
            summary = key.softmax(dim=2).transpose(-1, -2) @ value  # (groups, heads, d, d)
            mixed = (query.softmax(dim=-1) / math.sqrt(HEAD_WIDTH)) @ summary
        else:
            mixed = functional.scaled_dot_product_attention(query, key, value)
        mixed = self.out(mixed.transpose(1, 2).reshape(groups, count, HEADS * HEAD_WIDTH))
        if self.kind == "axis":
            mixed = mixed.reshape(batch, height, breadth, depth, width).permute(0, 4, 3, 1, 2)
        else:
            mixed = mixed.reshape(batch, depth, height, breadth, width).permute(0, 4, 1, 2, 3)
        return x + mixed


class Level(nn.Module):
    """Two convolution blocks, attention within slices, attention along the axis."""

    def __init__(self, inputs: int, outputs: int, embedding: int, kind: str = "slice-linear") -> None:
        super().__init__()
        self.block1 = ConvolutionBlock(inputs, outputs, embedding)
        self.block2 = ConvolutionBlock(outputs, outputs, embedding)
        self.attention = nn.Sequential(Attention(outputs, kind), Attention(outputs, "axis"))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.block2(self.block1(x, embedding), embedding))


class AuthorsNetwork(nn.Module):
    """forward(x (B, c, X, Y, Z), level (B,), ignored) -> (B, c, X, Y, Z); Y and Z must be multiples of 8.

    The third argument stands for the second noise level that this pipeline's network is told, so that both are called alike.
    """

    def __init__(self, channels: int, base: int = BASE_WIDTH, multiples: tuple[int, ...] = MULTIPLES) -> None:
        super().__init__()
        widths = [base * multiple for multiple in multiples]
        embedding = 4 * base
        self.base = base
        self.time = nn.Sequential(nn.Linear(base, embedding), nn.GELU(), nn.Linear(embedding, embedding))
        padding = (STEM_KERNEL[0] // 2, STEM_KERNEL[1] // 2, STEM_KERNEL[2] // 2)
        self.stem = nn.Sequential(nn.Conv3d(channels, base, STEM_KERNEL, padding=padding), Attention(base, "axis"))
        self.encoder, self.down = nn.ModuleList(), nn.ModuleList()
        for before, width in zip([base, *widths[:-1]], widths, strict=True):
            last = width == widths[-1]
            self.encoder.append(Level(before, width, embedding))
            self.down.append(nn.Identity() if last else nn.Conv3d(width, width, (1, 4, 4), (1, 2, 2), (0, 1, 1)))
        self.middle = Level(widths[-1], widths[-1], embedding, "slice")
        self.decoder, self.up = nn.ModuleList(), nn.ModuleList()
        for width, after in zip(reversed(widths), [*reversed(widths[:-1]), base], strict=True):
            last = width == widths[0]
            self.decoder.append(Level(2 * width, after, embedding))
            self.up.append(nn.Identity() if last else nn.ConvTranspose3d(after, after, (1, 4, 4), (1, 2, 2), (0, 1, 1)))
        self.final = ConvolutionBlock(2 * base, base, embedding)
        self.head = nn.Conv3d(base, channels, 1)

    def forward(self, x: Tensor, level: Tensor, ignored: Tensor | None = None) -> Tensor:
        embedding = self.time(self._features(level))
        start = x = self.stem(x)
        skips = []
        for encode, down in zip(self.encoder, self.down, strict=True):
            x = encode(x, embedding)
            skips.append(x)
            x = down(x)
        x = self.middle(x, embedding)
        for decode, up in zip(self.decoder, self.up, strict=True):
            x = up(decode(torch.cat([x, skips.pop()], dim=1), embedding))
        return self.head(self.final(torch.cat([x, start], dim=1), embedding))

    def _features(self, level: Tensor) -> Tensor:
        """Sines and cosines of the level: (B,) -> (B, base)."""
        half = self.base // 2
        frequency = torch.exp(-math.log(1e4) / (half - 1) * torch.arange(half, device=level.device))
        angles = level[:, None] * frequency
        return torch.cat([angles.sin(), angles.cos()], dim=1)
