"""Image-conditional feed-forward segmentation (ICF in the paper, Fig. 1a): the backbone, told no noise level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from diffatlas_pipeline.datasets.codes import shown_classes
from diffatlas_pipeline.methods.base import (
    LearnedMethod,
    LearnedRecipe,
    LossReport,
    PlannedSegmentation,
    Progress,
    Stitch,
)
from diffatlas_pipeline.methods.drawings import with_drawings
from diffatlas_pipeline.methods.partly_known import Bounds
from diffatlas_pipeline.methods.segmentation_loss import margins, segmentation_loss
from diffatlas_pipeline.networks.unet import build_network


@dataclass(frozen=True)
class FeedForwardRecipe(LearnedRecipe):
    """Nothing of its own to choose."""


class FeedForward(LearnedMethod):
    """Image -> logits of background and labels, learnt by cross-entropy and soft Dice. Where labels overlap, each
    combination of them has a logit.
    """

    name = "icf"
    recipe_type = FeedForwardRecipe
    recipes: ClassVar = {"default": FeedForwardRecipe()}

    @property
    def input_names(self) -> tuple[str, ...]:
        return (*self.image_names, *self.drawn_names)

    @property
    def output_names(self) -> tuple[str, ...]:
        return ("background", *(f"mask {shown.name}" for shown in shown_classes(self.plan.dataset.labels)))

    def build_network(self) -> nn.Module:
        inputs = len(self.plan.channels) + self.drawn_channels
        return build_network(self.plan.network, inputs, 1 + len(self.codes.values), levels=False)

    def loss(self, network: nn.Module, image: Tensor, distances: Tensor, generator: torch.Generator) -> LossReport:
        labels = len(self.plan.dataset.labels)
        network, distances = with_drawings(network, distances, self.given_labels, self.plan.spacing_mm, generator, labels)
        bounds = Bounds.of(distances, labels)
        logits = network(image.contiguous(memory_format=torch.channels_last_3d)).float()
        loss = segmentation_loss(logits, bounds.high, self.codes, bounds.known)
        return LossReport(loss, {"loss_segmentation": float(loss.detach())})

    def segment(
        self,
        network: nn.Module,
        image: Tensor,
        stitch: Stitch,
        seed: int,
        progress: Progress | None = None,
        begin: Tensor | None = None,
    ) -> PlannedSegmentation:
        def logits(windows: Tensor) -> Tensor:
            return network(windows.contiguous(memory_format=torch.channels_last_3d)).to(windows.dtype)

        found = stitch.scratch.empty((len(self.plan.dataset.labels), *image.shape[1:]))
        for where, part in stitch.rows(logits, image):
            found[where] = margins(part.float().cpu(), self.codes)
        if progress is not None:
            progress(1, 1)
        return PlannedSegmentation(found)
