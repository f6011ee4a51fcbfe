"""DiffAtlas: joint diffusion of image and segmentation (DA in the paper, section 2.2, Eq. 5 and 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from diffatlas_pipeline.diffusion.denoiser import Denoiser
from diffatlas_pipeline.diffusion.guidance import JointDenoise, guided, missing
from diffatlas_pipeline.diffusion.levels import add_noise, level_of_own
from diffatlas_pipeline.diffusion.solvers import Parts, Sampler
from diffatlas_pipeline.methods.base import (
    GeneratedPair,
    GeneratingMethod,
    LossReport,
    PlannedSegmentation,
    Progress,
    Recipe,
    Stitch,
    case_generator,
)
from diffatlas_pipeline.methods.begin import begun
from diffatlas_pipeline.methods.drawings import of_samples, with_drawings
from diffatlas_pipeline.methods.draws import averaged, divided
from diffatlas_pipeline.methods.field_of_view import around, within
from diffatlas_pipeline.methods.joint_recipe import DEFAULT, PAPER, PAPER_NOISE, JointRecipe
from diffatlas_pipeline.methods.partly_known import Bounds
from diffatlas_pipeline.methods.segmentation_loss import label_logits, segmentation_loss
from diffatlas_pipeline.networks.unet import build_network
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.volumes.grids import Triple

EXPLAINED_AT = 0.5  # the level of noise at which it is asked how well a pair is explained
SMALLEST_ERROR = 1e-6  # below it, errors are alike
BANDS = 3  # the log tells apart losses at low, middle and high noise of the mask


@dataclass(frozen=True)
class _Noised:
    """A batch made noisy: ``noisy`` (B, C + K, X, Y, Z) from ``clean`` data and ``eps`` at ``levels`` (B, C + K, 1, 1,
    1).

    ``labelled`` (B,) bool tells which samples have a mask to be learnt, ``hidden`` (B, C) bool which channels of the
    image are as noisy as the mask, since a scan may lack them. ``told_level`` (B,) is what the network hears of the
    mask's.
    """

    clean: Tensor
    eps: Tensor
    noisy: Tensor
    levels: Tensor
    image_level: Tensor
    mask_level: Tensor
    told_level: Tensor
    labelled: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class _Terms:
    """Mean squared errors of each sample's image and mask (B,), how much of them counts (B,) 0 to 1, and the error of
    labels.
    """

    image: Tensor  # mean over its noisy channels: of a clean one nothing is to be predicted
    mask: Tensor
    noisy: Tensor  # the share of channels that are
    known: Tensor  # the sample is labelled
    segmentation: Tensor | None


class DiffAtlas(GeneratingMethod):
    """The joint state is z0 = [image, s * S]; one network predicts both halves from their noisy versions."""

    name = "diffatlas"
    recipe_type = JointRecipe
    recipes: ClassVar = {"default": DEFAULT, "paper": PAPER, "paper-noise": PAPER_NOISE}
    recipe: JointRecipe

    def __init__(self, plan: Plan, recipe: Recipe) -> None:
        super().__init__(plan, recipe)
        self.denoiser = Denoiser(self.recipe.objective)
        self.scale = plan.distance.scale * self.recipe.levels.mask_scale

    @property
    def unlabelled_fraction(self) -> float:
        return self.recipe.unlabelled_fraction

    @property
    def input_names(self) -> tuple[str, ...]:
        return (*self.image_names, *self.mask_names, *self.drawn_names)

    @property
    def output_names(self) -> tuple[str, ...]:
        return (*self.image_names, *self.mask_names)

    def build_network(self) -> nn.Module:
        channels = len(self.plan.channels) + len(self.plan.dataset.labels)
        return build_network(self.plan.network, channels + self.drawn_channels, channels)

    def loss(self, network: nn.Module, image: Tensor, distances: Tensor, generator: torch.Generator) -> LossReport:
        """Eq. 6 and its improvements. A sample whose distances are NaN is unlabelled: its image alone is learnt
        from.
        """
        labels = len(self.plan.dataset.labels)
        network, distances = with_drawings(network, distances, self.given_labels, self.plan.spacing_mm, generator, labels)
        bounds = Bounds.of(distances, labels)
        noised = self._noised(network, image, bounds, generator)
        output = network(self._seen(noised.noisy, noised.levels), noised.image_level, noised.told_level).float()
        terms = self._terms(output, noised, bounds)
        return LossReport(self._total(terms, image.shape[1] / output.shape[1]), _parts(terms, noised.mask_level))

    def _noised(self, network: nn.Module, image: Tensor, bounds: Bounds, generator: torch.Generator) -> _Noised:
        """The batch at random levels; nothing is told of the mask of a sample that is unlabelled, or not known
        everywhere.
        """
        distances = bounds.one
        batch, channels = image.shape[:2]
        labelled = ~distances[:, 0, 0, 0, 0].isnan()
        drawn = self.recipe.levels.draw(self.plan.diffusion, batch, generator).to(image.device)
        hidden = self.recipe.levels.draw_hidden(batch, channels, generator).to(image.device)
        # An unlabelled sample's image is as noisy as its mask would have been.
        image_level = torch.where(labelled, drawn.image, drawn.mask)
        told = labelled & (~bounds.open | drawn.own)  # an own answer tells nothing that is not known
        mask_level = torch.where(told, drawn.mask, torch.ones_like(drawn.mask))
        clean = torch.cat([image, distances.nan_to_num(nan=1.0) * self.scale], dim=1)
        eps = torch.randn(clean.shape, generator=generator).to(clean)
        levels = self._per_channel(image_level, mask_level, hidden, clean.shape[1])
        noisy = add_noise(clean, eps, levels)
        told_level = mask_level
        if (own := drawn.own & labelled).any():
            if self.recipe.levels.tells_own:
                told_level = torch.where(own, level_of_own(mask_level), mask_level)
            noisy[own] = self._answered(of_samples(network, own), image[own], eps[own], levels[own], hidden[own])
        return _Noised(clean, eps, noisy, levels, image_level, mask_level, told_level, labelled, hidden)

    def _terms(self, output: Tensor, noised: _Noised, bounds: Bounds) -> _Terms:
        """How far the network's ``output`` is off, by the halves of the joint state and by its labels."""
        channels, labelled, scale = len(self.plan.channels), noised.labelled, self.scale
        predicted, clean = self.denoiser.clean(output, noised.noisy, noised.levels)[:, channels:] / scale, noised.clean
        if bounds.open.any():
            clean = torch.cat([clean[:, :channels], bounds.nearest(predicted).nan_to_num(nan=1.0) * scale], dim=1)
        error = self.denoiser.error(output, clean, noised.eps, noised.levels)
        segmentation = None
        if self.recipe.objective.segmentation_weight and labelled.any():
            logits, true = label_logits(predicted[labelled], self.codes), bounds.of_samples(labelled)
            segmentation = segmentation_loss(logits, true.high, self.codes, true.known)
        noisy = (noised.hidden | (noised.image_level > 0)[:, None]).to(error)
        of_image = (error[:, :channels] * noisy).sum(dim=1) / noisy.sum(dim=1).clamp_min(1)
        of_mask = error[:, channels:].mean(dim=1) / scale**2  # of the distances, whatever their scale
        return _Terms(of_image, of_mask, noisy.mean(dim=1), labelled.to(error), segmentation)

    def _total(self, terms: _Terms, image_share: float) -> Tensor:
        """The weighted sum. Eq. 6 averages over all channels of the joint state, ``image_share`` of which are the
        image's.
        """
        objective = self.recipe.objective
        of_mask = (terms.known * terms.mask).sum() / terms.known.sum().clamp_min(1)
        of_image = (terms.noisy * terms.image).mean()
        total = (1 - image_share) * of_mask + image_share * objective.image_weight * of_image
        return total if terms.segmentation is None else total + objective.segmentation_weight * terms.segmentation

    def segment(
        self,
        network: nn.Module,
        image: Tensor,
        stitch: Stitch,
        seed: int,
        progress: Progress | None = None,
        begin: Tensor | None = None,
    ) -> PlannedSegmentation:
        recipe, channels, scratch = self.recipe, image.shape[0], stitch.scratch
        shape = (channels + len(self.plan.dataset.labels), *image.shape[1:])
        lacks = missing(image)
        generated = int(lacks.sum())
        denoise = self._stitched(network, stitch, lacks, self._refines)

        def draw(generator: torch.Generator, report: Progress | None) -> Tensor:
            start = scratch.randn(shape, generator).to(image)
            level = 1.0 if begin is None else begun(start[channels:], begin, self.scale, scratch)
            told = guided(denoise, image, recipe.guidance, generator, scratch)
            clean = recipe.sampler.walk(told, start, self.plan.diffusion, generator, report, scratch, level)
            divided(clean[channels:], self.scale, scratch)
            places = enumerate(lacks.nonzero().flatten().tolist(), channels - generated)
            for place, channel in reversed([*places]):  # what was generated comes to lie beside the masks
                clean[place] = clean[channel]
            return clean[channels - generated :]

        found = averaged(draw, recipe.sampler.draws, seed, progress, self.sharpness, generated, self.codes, scratch)
        if not generated:
            return found
        return replace(found, distances=found.distances[generated:], generated=found.distances[:generated])

    @property
    def needs_all_channels(self) -> str:
        levels, guidance = self.recipe.levels, self.recipe.guidance
        if levels.missing_channel or (levels.equal_share and guidance.level == 1):  # at equal levels none is special
            return ""
        instead = " `guidance_level=1` with several `steps` would do, but much worse." if levels.equal_share else ""
        return f"The model has not learnt to generate it: train one with levels.missing_channel above 0 in its recipe.{instead}"

    @property
    def _refines(self) -> bool:
        """Whether each step of a segmentation is told that the mask is the network's own answer: it refines that. One
        of several draws is a sample: it goes on as from a true mask.
        """
        recipe = self.recipe
        return recipe.levels.tells_own and recipe.guidance.level == 0 and recipe.sampler.draws == 1

    def _stitched(self, network: nn.Module, stitch: Stitch, hidden: Tensor | None = None, own: bool = False) -> JointDenoise:
        """The denoiser of joint states of any size; channels that are ``hidden`` (C,) are at the mask's level, and
        ``own`` says that the mask is the network's own answer.
        """

        def denoise(state: Tensor, image_level: float, mask_level: float) -> Parts:
            def one(windows: Tensor) -> Tensor:
                return self.denoise_windows(network, windows, image_level, mask_level, hidden, own)

            return stitch.rows(one, state)

        return denoise

    def unexplained(
        self, network: nn.Module, image: Tensor, distances: Tensor, stitch: Stitch, seed: int
    ) -> dict[str, tuple[float, ...]]:
        """Logarithms of the mean squared errors of image and mask when both are made equally noisy and denoised
        together: a term of the variational bound of how likely the pair is (Ho et al. 2020, Eq. 5).
        """
        channels, squares = image.shape[0], [0.0, 0.0]
        for where, made in self._made_again(network, image, distances, stitch, seed):
            off = made.float()
            off[:channels] -= image[where]
            off[channels:] /= self.scale
            off[channels:] -= distances[where].to(off)
            for number, half in enumerate((off[:channels], off[channels:])):
                squares[number] += float(half.square().mean()) * half.numel()
        sizes = image.numel(), distances.numel()
        error = [math.log(total / size + SMALLEST_ERROR) for total, size in zip(squares, sizes, strict=True)]
        return {"image_error": (error[0],), "mask_error": (error[1],)}

    def reconstruct(self, network: nn.Module, image: Tensor, distances: Tensor, stitch: Stitch, seed: int) -> Tensor:
        """See :meth:`GeneratingMethod.reconstruct`. The mean square of what is left of the image is the "image_error"
        of :meth:`unexplained`.
        """
        found = torch.empty_like(image)
        for where, made in self._made_again(network, image, distances, stitch, seed):
            found[where] = made[: image.shape[0]]
        return found

    def _made_again(self, network: nn.Module, image: Tensor, distances: Tensor, stitch: Stitch, seed: int) -> Parts:
        """The joint state (C + K, X, Y, Z) of a pair, made noisy and denoised in one step, part by part."""
        channels, scratch, level = image.shape[0], stitch.scratch, image.new_tensor(EXPLAINED_AT)
        noisy = scratch.randn((channels + distances.shape[0], *image.shape[1:]), case_generator(seed, 0)).to(image)
        for where in scratch.slabs(noisy.shape):
            clean = torch.cat([image[where], distances[where].to(image) * self.scale])
            noisy[where] = add_noise(clean, noisy[where], level)
        return self._stitched(network, stitch)(noisy, EXPLAINED_AT, EXPLAINED_AT)

    @property
    def share_for_generation(self) -> float:
        return self.recipe.levels.equal_share

    def generate(
        self,
        network: nn.Module,
        shape: Triple,
        stitch: Stitch,
        sampler: Sampler,
        generator: torch.Generator,
        device: torch.device,
        progress: Progress | None = None,
    ) -> GeneratedPair:
        """Both halves start as noise and are denoised together at equal levels; nothing is given (Eq. 6 sampled)."""
        channels, labels, scale = len(self.plan.channels), len(self.plan.dataset.labels), self.scale
        denoise = within(self._stitched(network, stitch), shape, self.plan.patch_size, channels, scale)
        start = torch.randn((channels + labels, *around(shape, self.plan.patch_size)[0]), generator=generator).to(device)
        clean = sampler.walk(denoise, start, self.plan.diffusion, generator, progress)
        clean = clean[(slice(None), *around(shape, self.plan.patch_size)[1])].float().cpu()
        return GeneratedPair(clean[:channels], clean[channels:] / scale)

    def denoise_windows(
        self,
        network: nn.Module,
        windows: Tensor,
        image_level: float,
        mask_level: float,
        hidden: Tensor | None = None,
        own: bool = False,
    ) -> Tensor:
        """Noisy joint windows (B, C + K, X, Y, Z) -> clean ones. ``hidden`` (C,) or (B, C): channels of the image that
        are at the mask's level; None: none is. ``own``: the network is told that the mask is its own answer.
        """
        (batch, width), channels = windows.shape[:2], len(self.plan.channels)
        on_image, on_mask = windows.new_full((batch,), image_level), windows.new_full((batch,), mask_level)
        if hidden is None:
            hidden = torch.zeros(channels, dtype=torch.bool)
        levels = self._per_channel(on_image, on_mask, hidden.to(windows.device).expand(batch, channels), width)
        told = level_of_own(on_mask) if own else on_mask
        output = network(self._seen(windows, levels), on_image, told).to(windows.dtype)
        return self.denoiser.clean(output, windows, levels)

    def _seen(self, noisy: Tensor, levels: Tensor) -> Tensor:
        """What the network is shown of a noisy joint state."""
        return self.denoiser.seen(noisy, levels).contiguous(memory_format=torch.channels_last_3d)

    def _answered(self, network: nn.Module, image: Tensor, eps: Tensor, levels: Tensor, hidden: Tensor) -> Tensor:
        """What a sampler would have at ``levels``: the clean image, and the network's own first answer to it and for
        what is ``hidden`` (B, C) of it, made noisy.

        A network that has only seen the true mask made noisy takes noise for evidence (what-was-tried.md).
        """
        known = torch.zeros((len(eps), eps.shape[1]), dtype=torch.bool, device=eps.device)
        known[:, : image.shape[1]] = ~hidden
        known, whole = known[:, :, None, None, None], torch.cat([image, eps[:, image.shape[1] :]], dim=1)
        with torch.no_grad():
            first = self.denoise_windows(network, torch.where(known, whole, eps), 0.0, 1.0, hidden)
        return add_noise(torch.where(known, whole, first.to(image)), eps, levels)

    @staticmethod
    def _per_channel(image_level: Tensor, mask_level: Tensor, hidden: Tensor, width: int) -> Tensor:
        """Levels (B,), (B,) and channels of the image at the mask's (B, C) -> (B, C + K, 1, 1, 1)."""
        of_image = torch.where(hidden, mask_level[:, None], image_level[:, None])
        columns = [of_image, mask_level[:, None].expand(-1, width - hidden.shape[1])]
        return torch.cat(columns, dim=1)[:, :, None, None, None]


def _parts(terms: _Terms, mask_level: Tensor) -> dict[str, float]:
    """For the log: errors of mask, image and labels, and the first two by bands of the mask's noise level."""
    parts = {"loss_mask": _masked_mean(terms.mask, terms.known), "loss_image": _masked_mean(terms.image, terms.noisy)}
    if terms.segmentation is not None:
        parts["loss_segmentation"] = float(terms.segmentation.detach())
    for band in range(BANDS):
        within = ((mask_level * BANDS).floor().clamp(max=BANDS - 1) == band).to(terms.mask)
        parts[f"loss_mask_band{band}"] = _masked_mean(terms.mask, within * terms.known)
        parts[f"loss_image_band{band}"] = _masked_mean(terms.image, within * terms.noisy)
    return parts


def _masked_mean(values: Tensor, weight: Tensor) -> float:
    total = float(weight.sum())
    return float((values.detach() * weight).sum()) / total if total else math.nan
