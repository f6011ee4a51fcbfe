"""DiffAtlas: joint diffusion of image and segmentation (DA in the paper, section 2.2, Eq. 5 and 6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diffatlas_pipeline.diffusion.guidance import guided
from diffatlas_pipeline.diffusion.levels import add_noise, mask_levels, sampling_levels, scaled_input
from diffatlas_pipeline.diffusion.parametrisation import clean_of, target_of
from diffatlas_pipeline.diffusion.solvers import SOLVERS, sample
from diffatlas_pipeline.methods.base import LearnedMethod, LossReport, Progress, Segmentation, Stitch
from diffatlas_pipeline.methods.draws import averaged
from diffatlas_pipeline.methods.segmentation_loss import label_logits, segmentation_loss
from diffatlas_pipeline.networks.unet import build_network

IMAGE_LEVELS = ("equal", "mixed")
BANDS = 3  # the log tells apart losses at low, middle and high noise of the mask


class DiffAtlas(LearnedMethod):
    """The joint state is z0 = [image, s * S]; one network predicts both halves from their noisy versions."""

    name = "diffatlas"
    options = frozenset({"steps", "solver", "draws", "guidance_level"})
    learns_images = True

    def build_network(self) -> nn.Module:
        channels = len(self.plan.channels) + len(self.plan.dataset.labels)
        return build_network(self.plan.network, channels, channels)

    def loss(self, network: nn.Module, image: Tensor, distances: Tensor, generator: torch.Generator) -> LossReport:
        """Eq. 6 and its improvements. A sample whose distances are NaN is unlabelled: its image alone is learnt from."""
        batch, channels = image.shape[:2]
        image = self.training_image(image, generator)
        labelled = ~distances[:, 0, 0, 0, 0].isnan()
        distances = distances.nan_to_num(nan=1.0)
        mask_level, image_level, own = (drawn.to(image.device) for drawn in self._training_levels(batch, generator))
        # Nothing is told of an unlabelled sample's mask; its image is as noisy as the mask would have been.
        image_level = torch.where(labelled, image_level, mask_level)
        mask_level = torch.where(labelled, mask_level, torch.ones_like(mask_level))
        clean = torch.cat([image, distances * self.plan.distance.scale], dim=1)
        eps = torch.randn(clean.shape, generator=generator).to(clean)
        levels = self._per_channel(image_level, mask_level, channels, clean.shape[1])
        noisy = add_noise(clean, eps, levels)
        if (own := own & labelled).any():
            noisy[own] = self._answered(network, image[own], eps[own], levels[own])
        output = network(self._seen(noisy, levels), image_level, mask_level).float()
        error = (output - target_of(self.recipe.prediction, clean, eps, levels)).square().mean(dim=(2, 3, 4))
        given = (image_level > 0).to(error)  # a clean image has nothing to be predicted
        known = labelled.to(error)
        image_error = error[:, :channels].mean(dim=1)
        mask_error = error[:, channels:].mean(dim=1)
        # Eq. 6 averages over all channels of the joint state
        share = channels / clean.shape[1]
        of_mask = (known * mask_error).sum() / known.sum().clamp_min(1)
        total = (1 - share) * of_mask + share * self.recipe.image_loss * (given * image_error).mean()
        parts = {"loss_mask": _masked_mean(mask_error, known), "loss_image": _masked_mean(image_error, given)}
        if self.recipe.segmentation_loss and labelled.any():
            predicted = clean_of(self.recipe.prediction, output, noisy, levels)[:, channels:] / self.plan.distance.scale
            seg = segmentation_loss(label_logits(predicted[labelled]), distances[labelled])
            total = total + self.recipe.segmentation_loss * seg
            parts["loss_segmentation"] = float(seg.detach())
        for band in range(BANDS):
            within = ((mask_level * BANDS).floor().clamp(max=BANDS - 1) == band).to(error)
            parts[f"loss_mask_band{band}"] = _masked_mean(mask_error, within * known)
            parts[f"loss_image_band{band}"] = _masked_mean(image_error, within * given)
        return LossReport(total, parts)

    def segment(
        self, network: nn.Module, image: Tensor, stitch: Stitch, seed: int, progress: Progress | None = None
    ) -> Segmentation:
        recipe, scale = self.recipe, self.plan.distance.scale
        channels = image.shape[0]
        shape = (channels + len(self.plan.dataset.labels), *image.shape[1:])
        diffusion = self.plan.diffusion
        levels = sampling_levels(diffusion.schedule, diffusion.training_steps, recipe.steps)

        def denoise(state: Tensor, image_level: float, mask_level: float) -> Tensor:
            return stitch(lambda windows: self.denoise_windows(network, windows, image_level, mask_level), state)

        def draw(generator: torch.Generator, report: Progress | None) -> Tensor:
            start = torch.randn(shape, generator=generator).to(image)
            denoiser = guided(denoise, image, recipe.guidance_level, recipe.guidance_noise, recipe.guidance_interval, generator)
            solver = SOLVERS[recipe.solver]
            clean = sample(denoiser, start, levels, solver, recipe.eta, generator, recipe.resampling, report)
            return clean[channels:] / scale

        return averaged(draw, recipe.draws, seed, progress)

    def denoise_windows(self, network: nn.Module, windows: Tensor, image_level: float, mask_level: float) -> Tensor:
        """Noisy joint windows (B, C + K, X, Y, Z) -> clean ones."""
        batch, width = windows.shape[:2]
        on_image, on_mask = windows.new_full((batch,), image_level), windows.new_full((batch,), mask_level)
        levels = self._per_channel(on_image, on_mask, len(self.plan.channels), width)
        output = network(self._seen(windows, levels), on_image, on_mask).to(windows.dtype)
        return clean_of(self.recipe.prediction, output, windows, levels)

    def _seen(self, noisy: Tensor, levels: Tensor) -> Tensor:
        """What the network is shown of a noisy joint state."""
        return scaled_input(self.recipe.input_scaling, noisy, levels).contiguous(memory_format=torch.channels_last_3d)

    def _answered(self, network: nn.Module, image: Tensor, eps: Tensor, levels: Tensor) -> Tensor:
        """What a sampler would have at ``levels``: the clean image, and the network's own first answer, made noisy.

        A network that has only seen the true mask made noisy takes noise for evidence (what-was-tried.md).
        """
        if self.recipe.prediction != "x0":
            raise ValueError(f"own_answer_fraction needs prediction 'x0', not '{self.recipe.prediction}'")
        channels = image.shape[1]
        with torch.no_grad():
            first = self.denoise_windows(network, torch.cat([image, eps[:, channels:]], dim=1), 0.0, 1.0)
        return add_noise(torch.cat([image, first[:, channels:].to(image)], dim=1), eps, levels)

    def _training_levels(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Noise levels (B,) of mask and image, and whether the mask is the network's own (B,), as the recipe says."""
        recipe = self.recipe
        mask = mask_levels(recipe.mask_levels, self.plan.diffusion, batch, generator)
        own = torch.zeros(batch, dtype=torch.bool)
        if recipe.image_levels == "equal":
            return mask, mask, own
        if recipe.image_levels not in IMAGE_LEVELS:
            raise ValueError(f"image_levels '{recipe.image_levels}' is unknown; known: {', '.join(IMAGE_LEVELS)}")
        kind, below = torch.rand(batch, generator=generator), torch.rand(batch, generator=generator)
        if recipe.start_fraction or recipe.own_answer_fraction:
            step = torch.rand(batch, generator=generator)
            at_start = step < recipe.start_fraction
            own = ~at_start & (step < recipe.start_fraction + recipe.own_answer_fraction)
            mask = torch.where(at_start, torch.ones(()), torch.where(own, below, mask))
            kind = torch.where(at_start | own, torch.zeros(()) - 1, kind)
        image = torch.where(kind < recipe.clean_image_fraction + recipe.equal_level_fraction, mask, mask * below)
        return mask, torch.where(kind < recipe.clean_image_fraction, torch.zeros(()), image), own

    @staticmethod
    def _per_channel(image_level: Tensor, mask_level: Tensor, channels: int, width: int) -> Tensor:
        """Levels (B,), (B,) -> (B, C + K, 1, 1, 1)."""
        columns = [image_level[:, None].expand(-1, channels), mask_level[:, None].expand(-1, width - channels)]
        return torch.cat(columns, dim=1)[:, :, None, None, None]


def _masked_mean(values: Tensor, weight: Tensor) -> float:
    total = float(weight.sum())
    return float((values.detach() * weight).sum()) / total if total else math.nan
