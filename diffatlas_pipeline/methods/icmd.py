"""Image-conditional mask diffusion (ICMD in the paper, Fig. 1c, Eq. 1 and 2): the clean image leads a diffusion of the
mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from diffatlas_pipeline.diffusion.denoiser import Denoiser, Objective
from diffatlas_pipeline.diffusion.levels import MaskLevels, add_noise
from diffatlas_pipeline.diffusion.solvers import Parts, Sampler
from diffatlas_pipeline.methods.base import (
    DiffusionRecipe,
    LearnedMethod,
    LossReport,
    PlannedSegmentation,
    Progress,
    Recipe,
    Stitch,
)
from diffatlas_pipeline.methods.begin import begun
from diffatlas_pipeline.methods.drawings import with_drawings
from diffatlas_pipeline.methods.draws import averaged, divided
from diffatlas_pipeline.methods.partly_known import Bounds
from diffatlas_pipeline.methods.segmentation_loss import label_logits, segmentation_loss
from diffatlas_pipeline.networks.unet import build_network
from diffatlas_pipeline.planning.plan import Plan

_ALL_STEPS = Sampler("ddpm", steps=0, eta=1.0, draws=5)


@dataclass(frozen=True)
class MaskRecipe(DiffusionRecipe):
    """How a diffusion of the mask is trained and sampled."""


class MaskDiffusion(LearnedMethod):
    """The state is s * S alone; the network sees it beside the clean image, which is never diffused.

    Segmentations are means of several draws, as in MedSegDiff (Wu et al. 2023).
    """

    name = "icmd"
    recipe_type = MaskRecipe
    recipes: ClassVar = {
        # The improvements of diffatlas; with a single step, all draws would be the same.
        "default": MaskRecipe(
            MaskLevels(start=0.75), Objective("x0", "signal", segmentation_weight=1.0), Sampler(steps=2, draws=5)
        ),
        # The mean of several draws by Eq. 1 and 2; the output is clean data, as in diffatlas, or noise, as published.
        "paper": MaskRecipe(MaskLevels("schedule"), Objective("x0", error="v"), _ALL_STEPS),
        "paper-noise": MaskRecipe(MaskLevels("schedule"), Objective("epsilon"), _ALL_STEPS),
    }
    recipe: MaskRecipe

    def __init__(self, plan: Plan, recipe: Recipe) -> None:
        super().__init__(plan, recipe)
        self.denoiser = Denoiser(self.recipe.objective)

    @property
    def input_names(self) -> tuple[str, ...]:
        return (*self.image_names, *self.mask_names, *self.drawn_names)

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.mask_names

    def build_network(self) -> nn.Module:
        labels = len(self.plan.dataset.labels)
        return build_network(self.plan.network, len(self.plan.channels) + labels + self.drawn_channels, labels)

    def loss(self, network: nn.Module, image: Tensor, distances: Tensor, generator: torch.Generator) -> LossReport:
        """Mean squared error over the channels of the mask, and the recipe's share of the error of its labels."""
        labels, scale = len(self.plan.dataset.labels), self.plan.distance.scale
        network, distances = with_drawings(network, distances, self.given_labels, self.plan.spacing_mm, generator, labels)
        bounds = Bounds.of(distances, labels)
        clean = bounds.one * scale
        level = self.recipe.levels.draw_mask(self.plan.diffusion, clean.shape[0], generator).to(clean)
        level = torch.where(bounds.open, torch.ones_like(level), level)  # nothing is told of what is not known
        eps = torch.randn(clean.shape, generator=generator).to(clean)
        each = level[:, None, None, None, None]
        noisy = add_noise(clean, eps, each)
        output = self._run(network, image, noisy, level).float()
        predicted = self.denoiser.clean(output, noisy, each) / scale
        error = self.denoiser.error(output, bounds.nearest(predicted) * scale, eps, each)
        loss = error.mean() / scale**2  # of the distances, whatever their scale
        parts = {"loss_mask": float(loss.detach())}
        weight = self.recipe.objective.segmentation_weight
        if weight:
            seg = segmentation_loss(label_logits(predicted, self.codes), bounds.high, self.codes, bounds.known)
            parts["loss_segmentation"] = float(seg.detach())
            loss = loss + weight * seg
        return LossReport(loss, parts)

    def segment(
        self,
        network: nn.Module,
        image: Tensor,
        stitch: Stitch,
        seed: int,
        progress: Progress | None = None,
        begin: Tensor | None = None,
    ) -> PlannedSegmentation:
        channels, sampler, scratch = image.shape[0], self.recipe.sampler, stitch.scratch

        def denoise_windows(windows: Tensor, level: float) -> Tensor:
            given, noisy = windows[:, :channels], windows[:, channels:]
            each = windows.new_full((len(windows), 1, 1, 1, 1), level)
            output = self._run(network, given, noisy, each.flatten()).to(windows.dtype)
            return self.denoiser.clean(output, noisy, each)

        def denoise(state: Tensor, level: float) -> Parts:
            return stitch.rows(lambda windows: denoise_windows(windows, level), (image, state))

        def draw(generator: torch.Generator, report: Progress | None) -> Tensor:
            start = scratch.randn((len(self.plan.dataset.labels), *image.shape[1:]), generator).to(image)
            level = 1.0 if begin is None else begun(start, begin, self.plan.distance.scale, scratch)
            clean = sampler.walk(denoise, start, self.plan.diffusion, generator, report, scratch, level)
            return divided(clean, self.plan.distance.scale, scratch)

        return averaged(draw, sampler.draws, seed, progress, self.sharpness, codes=self.codes, scratch=scratch)

    def _run(self, network: nn.Module, image: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        """The network on image (B, C, X, Y, Z) at level 0 and mask (B, K, X, Y, Z) at ``level`` (B,)."""
        seen = self.denoiser.seen(noisy, level[:, None, None, None, None])
        joint = torch.cat([image, seen], dim=1).contiguous(memory_format=torch.channels_last_3d)
        return network(joint, torch.zeros_like(level), level)
