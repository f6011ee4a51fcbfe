"""The value that fills a scan where a scanner or a program saw nothing, such as -9999."""

from __future__ import annotations

import numpy as np

_FEWEST_PADDED = 0.001  # of the voxels; fewer do not move the percentiles
_SAMPLED_VOXELS = 1 << 22  # percentiles of so many evenly spread voxels are exact enough, and quick on a large scan


def padding_value(channel: np.ndarray) -> float | None:
    """The value that pads ``channel`` (X, Y, Z), None if none does.

    It is the smallest or the largest, and further from the other intensities than these are from each other.
    """
    return _without_padding(_sample(channel))[1]


def content_sample(channel: np.ndarray) -> np.ndarray:
    """Evenly spread intensities of ``channel`` (X, Y, Z), without what pads it."""
    return _without_padding(_sample(channel))[0]


def _sample(channel: np.ndarray) -> np.ndarray:
    voxels = channel.reshape(-1)
    return voxels[:: max(1, voxels.size // _SAMPLED_VOXELS)]


def _without_padding(voxels: np.ndarray) -> tuple[np.ndarray, float | None]:
    """``voxels`` without those that hold the padding value, and this value."""
    for end, other in ((voxels.min(), voxels.max()), (voxels.max(), voxels.min())):
        inside = voxels[voxels != end]
        if not len(inside) or len(inside) > (1 - _FEWEST_PADDED) * len(voxels):
            continue
        nearest = float(inside.min() if end < other else inside.max())
        if abs(float(end) - nearest) > abs(nearest - float(other)) > 0:
            return inside, float(end)
    return voxels, None
