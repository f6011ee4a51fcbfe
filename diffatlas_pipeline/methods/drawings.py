"""Drawings: what a reader has drawn of a scan's labels, shown to a network beside what it sees anyway.

A drawing (K, X, Y, Z) has one channel per label: -1 where that label was drawn, +1 where something else was (another
label, or background), 0 where nobody has looked. These are the signs of the signed distances: a drawn slice tells
labels, not how far the border in other slices is. A network of a recipe with ``given_labels`` has these channels behind
its others, :func:`spread` from what was drawn to what was not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate

from diffatlas_pipeline.diffusion.solvers import Parts
from diffatlas_pipeline.methods.base import Stitch, Volumes, WindowFunction
from diffatlas_pipeline.methods.partly_known import Bounds

MOST_SLICES = 12  # shown of a training patch
SLICES, BOXES = 0.7, 0.15  # shares of the drawings that are slices and boxes; the rest are whole structures
REACH = 8.0  # shortest voxel edges at which what is spread from a drawing has fallen to 1/e
DISPLACED = 0.75  # share of the drawings of labels that the image does not tell
FURTHEST = 2.0  # shortest voxel edges that these are displaced by, at most, at one standard deviation
SMOOTHEST = (5.0, 20.0)  # shortest voxel edges between independent displacements
CUT = 0.3  # share of the drawings of slices of which only a part was looked at


class Shown(nn.Module):
    """``network`` whose last inputs are a ``drawing`` (B, K, X, Y, Z): called as one that is shown none."""

    def __init__(self, network: nn.Module, drawing: Tensor) -> None:
        super().__init__()
        self.network, self.drawing = network, drawing

    def forward(self, seen: Tensor, *levels: Tensor) -> Tensor:
        both = torch.cat([seen, self.drawing.to(seen)], dim=1)
        found: Tensor = self.network(both.contiguous(memory_format=torch.channels_last_3d), *levels)
        return found


def spread(drawing: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """``drawing`` (K, X, Y, Z) with what was drawn nearest in each voxel, times exp(-distance / REACH): 1 and -1 in
    drawn voxels alone.

    A single slice is a sparse thing: a network finds what lies between slices faster where it need not look far.
    """
    unknown = (drawing[0] == 0).cpu().numpy()
    if unknown.all():
        return drawing
    edges = [size / min(spacing_mm) for size in spacing_mm]
    distance, (x, y, z) = distance_transform_edt(unknown, edges, return_indices=True)
    weight = torch.exp(torch.from_numpy(distance).to(drawing) / -REACH)
    return drawing[:, x, y, z] * weight


def with_drawings(
    network: nn.Module,
    distances: Tensor,
    share: float,
    spacing_mm: Sequence[float],
    generator: torch.Generator,
    labels: int | None = None,
) -> tuple[nn.Module, Tensor]:
    """``network`` that is shown :func:`random_drawings` of a training batch, spread, and the ``distances`` (B, K, X, Y,
    Z) of as many ``labels`` (default: all) that it is to learn beside them; more are bounds of
    :class:`~diffatlas_pipeline.methods.partly_known.Bounds`. Both are as they were where ``share`` is 0.

    Of the samples with a drawing, the labels of most are :func:`displaced` before. Else a network that has learnt its
    few cases by heart knows their labels from the image, and need not look at a drawing. So the drawing alone tells
    where the reader sees the border, as where the network errs in a new scan.
    """
    if not share:
        return network, distances
    chosen, moved = (torch.rand(len(distances), generator=generator) < one for one in (share, DISPLACED))
    chosen &= ~distances[:, 0, 0, 0, 0].isnan().cpu()
    distances = torch.stack(
        [
            displaced(one, spacing_mm, generator) if shown and other else one
            for one, shown, other in zip(distances, chosen.tolist(), moved.tolist(), strict=True)
        ]
    )
    bounds = Bounds.of(distances, labels or distances.shape[1])
    drawings = random_drawings(bounds.high, chosen, generator)
    if bounds.known is not None:  # nobody draws what is not known
        drawings = drawings * bounds.known[:, None]
    return Shown(network, torch.stack([spread(one, spacing_mm) for one in drawings])), distances


def displaced(distances: Tensor, spacing_mm: Sequence[float], generator: torch.Generator) -> Tensor:
    """``distances`` (K, X, Y, Z) after a smooth random displacement, of up to FURTHEST shortest voxel edges at one
    standard deviation.
    """
    shape, edge = distances.shape[1:], min(spacing_mm)
    size, length = torch.rand(2, generator=generator).tolist()
    knots_apart = edge * SMOOTHEST[0] * (SMOOTHEST[1] / SMOOTHEST[0]) ** length
    knots = [max(2, math.ceil(n * one / knots_apart)) for n, one in zip(shape, spacing_mm, strict=True)]
    field = torch.randn((1, 3, *knots), generator=generator) * (size * FURTHEST * edge)
    field = interpolate(field, shape, mode="trilinear", align_corners=True)[0]
    axes: list[Tensor] = []
    for n, one, shift in zip(shape, spacing_mm, field, strict=True):  # in grid_sample's units an axis goes from -1 to 1
        place = torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1)
        view = [-1 if axis == len(axes) else 1 for axis in range(3)]
        axes.append(place.view(view) + (shift * (2 / (one * (n - 1))) if n > 1 else 0 * shift))
    grid = torch.stack(axes[::-1], dim=-1)[None].to(distances)
    return grid_sample(distances[None], grid, padding_mode="border", align_corners=True)[0]


def of_samples(network: nn.Module, samples: Tensor) -> nn.Module:
    """``network`` for the ``samples`` (B,) bool of a batch alone: of a :class:`Shown` one, with their drawings."""
    return Shown(network.network, network.drawing[samples]) if isinstance(network, Shown) else network


def showing(network: nn.Module, stitch: Stitch, labels: int, drawing: Tensor | None) -> tuple[nn.Module, Stitch]:
    """What a method is to be given as network and stitch, so that each window is shown its part of ``drawing``.

    ``drawing`` (K, X, Y, Z) lies on the grid of the volumes that are stitched; None: nothing is drawn. ``labels`` is
    how many inputs the network has for it; without any, both are returned as they are.
    """
    if not labels:
        return network, stitch
    shown = Shown(network, torch.zeros(()))
    return shown, _Showing(shown, stitch, labels, drawing)


class _Showing:
    """A :class:`Stitch` that shows each window its part of a drawing."""

    def __init__(self, shown: Shown, stitch: Stitch, labels: int, drawing: Tensor | None) -> None:
        self._shown, self._stitch, self._labels, self._drawing = shown, stitch, labels, drawing
        self.scratch = stitch.scratch

    def __call__(self, run: WindowFunction, volume: Volumes) -> Tensor:
        return self._stitch(self._showing(run), self._with_drawing(volume))

    def rows(self, run: WindowFunction, volume: Volumes) -> Parts:
        return self._stitch.rows(self._showing(run), self._with_drawing(volume))

    def _showing(self, run: WindowFunction) -> WindowFunction:
        def run_windows(windows: Tensor) -> Tensor:
            self._shown.drawing = windows[:, -self._labels :]
            return run(windows[:, : -self._labels])

        return run_windows

    def _with_drawing(self, volume: Volumes) -> Volumes:
        volumes = volume if isinstance(volume, tuple) else (volume,)
        like = volumes[0]
        nothing = like.new_zeros(()).expand(self._labels, *like.shape[1:])
        return (*volumes, nothing if self._drawing is None else self._drawing.to(like))


def random_drawings(distances: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """A part of the labels of the ``chosen`` samples (B,) bool, nothing of the others: (B, K, X, Y, Z), as drawings.

    What is shown of ``distances`` (B, K, X, Y, Z) are some slices across one axis, through or beside the structures; a
    box; or some of the structures, and nothing around them.
    """
    known = torch.stack(
        [
            _looked_at(one, generator) if wanted else torch.zeros(one.shape[1:])
            for one, wanted in zip(distances, chosen.tolist(), strict=True)
        ]
    )
    return torch.where(distances < 0, -1.0, 1.0) * known[:, None].to(distances)


def _looked_at(distances: Tensor, generator: torch.Generator) -> Tensor:
    """1 where a reader may have looked, else 0: (X, Y, Z), on the CPU. ``distances`` (K, X, Y, Z)."""
    inside = (distances < 0).cpu()
    kind = float(torch.rand((), generator=generator))
    shape = inside.shape[1:]
    present = [index for index in range(len(inside)) if inside[index].any()]
    if kind >= SLICES + BOXES and len(present) > 1:
        count = int(torch.randint(1, len(present), (), generator=generator))
        picked = torch.randperm(len(present), generator=generator)[:count].tolist()
        return inside[[present[index] for index in picked]].any(dim=0).float()
    if kind >= SLICES:
        return _box(shape, 0.1, generator)
    drawn = _slices(inside.any(dim=0), generator)
    part = drawn * _box(shape, 0.5, generator) if float(torch.rand((), generator=generator)) < CUT else drawn
    return part if part.any() else drawn


def _slices(foreground: Tensor, generator: torch.Generator) -> Tensor:
    """1 in 1 to MOST_SLICES slices, few more often than many, across a random axis: where ``foreground`` is, and next
    to it.
    """
    axes = [axis for axis in range(3) if foreground.shape[axis] > 1]
    axis = axes[int(torch.randint(len(axes), (), generator=generator))]
    others = tuple(other for other in range(3) if other != axis)
    where = foreground.any(dim=others[1]).any(dim=others[0]).nonzero().flatten()
    low, high = (int(where.min()) - 1, int(where.max()) + 2) if len(where) else (0, foreground.shape[axis])
    low, high = max(0, low), min(foreground.shape[axis], high)
    count = int(MOST_SLICES ** float(torch.rand((), generator=generator)))
    drawn = torch.zeros(foreground.shape)
    drawn.index_fill_(axis, low + torch.randperm(high - low, generator=generator)[:count], 1.0)
    return drawn


def _box(shape: torch.Size, smallest: float, generator: torch.Generator) -> Tensor:
    """1 in a random box whose edges are at least ``smallest`` of those of ``shape``."""
    box = torch.zeros(shape)
    slices = []
    for size in shape:
        fraction, place = torch.rand(2, generator=generator).tolist()
        length = max(1, round(size * (smallest + (1 - smallest) * fraction)))
        start = round((size - length) * place)
        slices.append(slice(start, start + length))
    box[tuple(slices)] = 1.0
    return box
