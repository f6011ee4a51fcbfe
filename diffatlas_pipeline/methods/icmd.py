"""Image-conditional mask diffusion (ICMD in the paper, Fig. 1c, Eq. 1 and 2): the clean image leads a diffusion of the mask."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffatlas_pipeline.diffusion.levels import add_noise, mask_levels, sampling_levels, scaled_input
from diffatlas_pipeline.diffusion.parametrisation import clean_of, target_of
from diffatlas_pipeline.diffusion.solvers import SOLVERS, sample
from diffatlas_pipeline.methods.base import LearnedMethod, LossReport, Progress, Segmentation, Stitch
from diffatlas_pipeline.methods.draws import averaged
from diffatlas_pipeline.methods.segmentation_loss import label_logits, segmentation_loss
from diffatlas_pipeline.networks.unet import build_network


class MaskDiffusion(LearnedMethod):
    """The state is s * S alone; the network sees it beside the clean image, which is never diffused.

    Segmentations are means of several draws, as in MedSegDiff (Wu et al. 2023).
    """

    name = "icmd"
    options = frozenset({"steps", "solver", "draws"})

    def build_network(self) -> nn.Module:
        labels = len(self.plan.dataset.labels)
        return build_network(self.plan.network, len(self.plan.channels) + labels, labels)

    def loss(self, network: nn.Module, image: Tensor, distances: Tensor, generator: torch.Generator) -> LossReport:
        image = self.training_image(image, generator)
        clean = distances * self.plan.distance.scale
        level = mask_levels(self.recipe.mask_levels, self.plan.diffusion, clean.shape[0], generator)
        if self.recipe.start_fraction:
            at_start = torch.rand(len(level), generator=generator) < self.recipe.start_fraction
            level = torch.where(at_start, torch.ones(()), level)
        level = level.to(clean)
        eps = torch.randn(clean.shape, generator=generator).to(clean)
        each = level[:, None, None, None, None]
        noisy = add_noise(clean, eps, each)
        output = self._run(network, image, noisy, level).float()
        loss = (output - target_of(self.recipe.prediction, clean, eps, each)).square().mean()
        parts = {"loss_mask": float(loss.detach())}
        if self.recipe.segmentation_loss:
            predicted = clean_of(self.recipe.prediction, output, noisy, each) / self.plan.distance.scale
            seg = segmentation_loss(label_logits(predicted), distances)
            parts["loss_segmentation"] = float(seg.detach())
            loss = loss + self.recipe.segmentation_loss * seg
        return LossReport(loss, parts)

    def segment(
        self, network: nn.Module, image: Tensor, stitch: Stitch, seed: int, progress: Progress | None = None
    ) -> Segmentation:
        recipe, channels, diffusion = self.recipe, image.shape[0], self.plan.diffusion
        levels = sampling_levels(diffusion.schedule, diffusion.training_steps, recipe.steps)

        def denoise_windows(windows: Tensor, level: float) -> Tensor:
            given, noisy = windows[:, :channels], windows[:, channels:]
            each = windows.new_full((len(windows), 1, 1, 1, 1), level)
            output = self._run(network, given, noisy, each.flatten()).to(windows.dtype)
            return clean_of(self.recipe.prediction, output, noisy, each)

        def denoise(state: Tensor, level: float) -> Tensor:
            return stitch(lambda windows: denoise_windows(windows, level), torch.cat([image, state]))

        def draw(generator: torch.Generator, report: Progress | None) -> Tensor:
            start = torch.randn((len(self.plan.dataset.labels), *image.shape[1:]), generator=generator).to(image)
            solver = SOLVERS[recipe.solver]
            clean = sample(denoise, start, levels, solver, recipe.eta, generator, recipe.resampling, report)
            return clean / self.plan.distance.scale

        return averaged(draw, recipe.draws, seed, progress)

    def _run(self, network: nn.Module, image: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        """The network on image (B, C, X, Y, Z) at level 0 and mask (B, K, X, Y, Z) at ``level`` (B,)."""
        seen = scaled_input(self.recipe.input_scaling, noisy, level[:, None, None, None, None])
        joint = torch.cat([image, seen], dim=1).contiguous(memory_format=torch.channels_last_3d)
        return network(joint, torch.zeros_like(level), level)
