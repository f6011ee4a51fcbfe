"""The mean atlas: the training cases' mean distance map, without a look at the image. A sanity row for every table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from torch import Tensor, nn

from diffatlas_pipeline.methods.base import MemorisedMethod, PlannedSegmentation, Progress, Recipe, Stitch
from diffatlas_pipeline.registration.atlas import Atlas


@dataclass(frozen=True)
class MeanAtlasRecipe(Recipe):
    """Nothing to choose."""


class MeanAtlas(MemorisedMethod):
    """Volumes are laid upon each other by their centres; what lies outside one of them is far from every label (+1)."""

    name = "mean"
    recipe_type = MeanAtlasRecipe
    recipes: ClassVar = {"default": MeanAtlasRecipe()}

    def memorise(self, cases: Iterable[Atlas]) -> dict[str, Tensor]:
        maps = [torch.from_numpy(case.distances).float().clamp(-1, 1) for case in cases]
        largest = np.max([volume.shape[1:] for volume in maps], axis=0)
        shape = (int(largest[0]), int(largest[1]), int(largest[2]))
        mean = torch.stack([_about_the_centre(volume, shape) for volume in maps]).mean(dim=0)
        return {"mean_distances": mean.half()}

    def restore(self, state: Mapping[str, Tensor]) -> nn.Module:
        mean = state.get("mean_distances")
        labels = len(self.plan.dataset.labels)
        if mean is None or mean.ndim != 4 or mean.shape[0] != labels:
            raise RuntimeError(f"the mean atlas of {labels} label(s) is not in it")
        return _Atlas(mean)

    def segment(
        self,
        network: nn.Module,
        image: Tensor,
        stitch: Stitch,
        seed: int,
        progress: Progress | None = None,
        begin: Tensor | None = None,
    ) -> PlannedSegmentation:
        x, y, z = image.shape[1:]
        if progress is not None:
            progress(1, 1)
        return PlannedSegmentation(_about_the_centre(network.get_buffer("mean").float().cpu(), (x, y, z)))


class _Atlas(nn.Module):
    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)


def _about_the_centre(volume: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """``volume`` (K, X, Y, Z) cropped, or padded with +1, to ``shape`` about its centre."""
    starts = [(size - wanted) // 2 for size, wanted in zip(volume.shape[1:], shape, strict=True)]
    box = [[start, start + wanted] for start, wanted in zip(starts, shape, strict=True)]
    return crop_and_pad_nd(volume, box, pad_value=1, pad_mode="constant")
