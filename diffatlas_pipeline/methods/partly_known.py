"""Labels that are known in a part of the voxels: between which bounds the signed distances of a batch then lie.

Where some voxels are not known, the distance to a label's surface is largest if none of them has the label, and
smallest if all have: nothing more is known of it. A prediction between the two is as good as any, so what it is
compared with is the nearest distance that may be true. In the voxels that are known, so is the sign of all distances.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bounds:
    """The signed distances lie between ``low`` and ``high`` (B, K, X, Y, Z), in units of tau."""

    high: Tensor
    low: Tensor

    @staticmethod
    def of(maps: Tensor, labels: int) -> Bounds:
        """``maps`` (B, K, X, Y, Z) of as many ``labels`` are the distances; (B, 2 K, X, Y, Z) their upper bounds and
        then their lower ones.
        """
        return Bounds(maps[:, :labels], maps[:, labels:] if maps.shape[1] > labels else maps[:, :labels])

    @property
    def one(self) -> Tensor:
        """The distances, or what lies in the middle between the bounds."""
        return self.high if self._same else (self.high + self.low) / 2

    @property
    def open(self) -> Tensor:
        """Which samples (B,) bool are not known everywhere; of an unlabelled one, whose bounds are NaN, False."""
        if self._same:
            return torch.zeros(len(self.high), dtype=torch.bool, device=self.high.device)
        return (self.low < self.high).flatten(1).any(dim=1)

    @property
    def known(self) -> Tensor | None:
        """Which voxels' labels (B, X, Y, Z) bool are known; None: all."""
        return None if self._same else ((self.high < 0) == (self.low < 0)).all(dim=1)

    def nearest(self, predicted: Tensor) -> Tensor:
        """What may be true and is nearest to the ``predicted`` distances, without gradient."""
        return self.high if self._same else predicted.detach().clamp(min=self.low, max=self.high)

    def of_samples(self, chosen: Tensor) -> Bounds:
        """Those of the samples ``chosen`` (B,) bool."""
        high = self.high[chosen]
        return Bounds(high, high if self._same else self.low[chosen])

    @property
    def _same(self) -> bool:
        return self.low is self.high or self.low.data_ptr() == self.high.data_ptr()
