"""Registration-based multi-atlas segmentation (RBA in the paper: paradigm (b), Eq. 3 and 4). Nothing is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from diffatlas_pipeline.fields import at_least, one_of
from diffatlas_pipeline.methods.base import MemorisedMethod, PlannedSegmentation, Progress, Recipe, Stitch
from diffatlas_pipeline.registration.atlas import Atlas, halved, pack, unpack
from diffatlas_pipeline.registration.frame import in_common_frame
from diffatlas_pipeline.registration.fusion import FUSIONS
from diffatlas_pipeline.registration.register import AtlasSettings, segment_by_atlases
from diffatlas_pipeline.volumes.grids import Triple

PADDING = -1.0  # what small volumes are padded with before they come here

REGISTRATIONS = ("affine", "deformable")


@dataclass(frozen=True)
class RegistrationRecipe(Recipe):
    """How atlases are registered and their labels fused.

    The ``aligned`` most alike of the training cases are registered affinely; the ``atlases`` most alike of these then
    are deformed, and vote.
    """

    registration: str = field(default="deformable", metadata=one_of(*REGISTRATIONS))
    fusion: str = field(default="votes", metadata=one_of(*FUSIONS))
    atlases: int = field(default=12, metadata=at_least(1))
    aligned: int = field(default=24, metadata=at_least(1))


class RegistrationAtlas(MemorisedMethod):
    """Every training case is an atlas; those most like the target are registered to it and vote."""

    name = "rba"
    recipe_type = RegistrationRecipe
    recipes: ClassVar = {
        "default": RegistrationRecipe(),
        "affine": RegistrationRecipe(registration="affine"),
        "majority": RegistrationRecipe(fusion="majority"),
        "staple": RegistrationRecipe(fusion="staple"),
    }
    recipe: RegistrationRecipe

    def memorise(self, cases: Iterable[Atlas]) -> dict[str, Tensor]:
        atlases = in_common_frame([halved(case) for case in cases], self.plan.spacing_mm, quiet=False)
        return {name: torch.from_numpy(array) for atlas in atlases for name, array in pack(atlas).items()}

    def restore(self, state: Mapping[str, Tensor]) -> nn.Module:
        try:
            atlases = unpack({name: tensor.numpy() for name, tensor in state.items()})
        except ValueError as error:
            raise RuntimeError(str(error)) from error
        if not atlases:
            raise RuntimeError("no atlas is in it")
        channels, labels = len(self.plan.channels), len(self.plan.dataset.labels)
        for atlas in atlases:
            if (len(atlas.image), len(atlas.distances)) != (channels, labels):
                raise RuntimeError(f"atlas {atlas.name} does not have {channels} channel(s) and {labels} label(s)")
        return AtlasBank(atlases)

    def segment(
        self,
        network: nn.Module,
        image: Tensor,
        stitch: Stitch,
        seed: int,
        progress: Progress | None = None,
        begin: Tensor | None = None,
    ) -> PlannedSegmentation:
        if not isinstance(network, AtlasBank):
            raise TypeError(f"expected the atlases that restore() gave, received {type(network).__name__}")
        recipe = self.recipe
        target = image.detach().float().cpu().numpy()
        inside = unpadded_box(target, self.plan.patch_size)
        fused = segment_by_atlases(
            np.ascontiguousarray(target[(slice(None), *inside)]),
            network.atlases(),
            self.plan.spacing_mm,
            self.plan.distance.tau_mm,
            AtlasSettings(
                recipe.registration, recipe.fusion, recipe.atlases, recipe.aligned, overlapping=not self.codes.exclusive
            ),
            seed,
            progress=progress,
        )
        shape = (len(self.plan.dataset.labels), *target.shape[1:])
        distances = torch.ones(shape)
        distances[(slice(None), *inside)] = torch.from_numpy(fused.distances)
        return PlannedSegmentation(distances)


class AtlasBank(nn.Module):
    """Atlases in half precision, as buffers ``image_<i>`` and ``distances_<i>``; ``names`` and ``frames`` have their
    order.
    """

    def __init__(self, atlases: Sequence[Atlas]) -> None:
        super().__init__()
        self.names = tuple(atlas.name for atlas in atlases)
        for index, atlas in enumerate(atlases):
            self.register_buffer(f"image_{index}", torch.from_numpy(atlas.image).half())
            self.register_buffer(f"distances_{index}", torch.from_numpy(atlas.distances).half())
        self.frames = tuple(atlas.frame for atlas in atlases)

    def atlases(self) -> list[Atlas]:
        """The atlases as float16 arrays; on the CPU they share the buffers' memory."""
        return [
            Atlas(name, self.get_buffer(f"image_{i}").cpu().numpy(), self.get_buffer(f"distances_{i}").cpu().numpy(), frame)
            for i, (name, frame) in enumerate(zip(self.names, self.frames, strict=True))
        ]


def unpadded_box(image: np.ndarray, patch: Triple) -> tuple[slice, slice, slice]:
    """The part of ``image`` (C, X, Y, Z) that padding to ``patch`` can not have made.

    Padding goes to both sides alike and ends at the patch's size; the first voxel more goes to the far side.
    """
    box = []
    for axis, (n, window) in enumerate(zip(image.shape[1:], patch, strict=True)):
        empty = (np.moveaxis(image, axis + 1, 0).reshape(n, -1) == PADDING).all(axis=1)
        added = 0
        if n == window and not empty.all():
            before, after = int(np.argmin(empty)), int(np.argmin(empty[::-1]))
            added = min(2 * before + 1, 2 * after)
        box.append(slice(added // 2, n - (added - added // 2)))
    return box[0], box[1], box[2]
