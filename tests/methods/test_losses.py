"""Losses in closed form: a network of known output, and the total worked out by hand from what it was shown."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.diffusion.denoiser import INPUT_SCALINGS, PREDICTIONS, JointObjective, Objective
from diffatlas_pipeline.diffusion.levels import MaskLevels, NoiseLevels
from diffatlas_pipeline.methods.base import LearnedMethod
from diffatlas_pipeline.methods.diffatlas import DiffAtlas
from diffatlas_pipeline.methods.icf import FeedForward, FeedForwardRecipe
from diffatlas_pipeline.methods.icmd import MaskDiffusion, MaskRecipe
from diffatlas_pipeline.methods.joint_recipe import PAPER, PAPER_NOISE, JointRecipe
from diffatlas_pipeline.methods.registry import METHODS
from diffatlas_pipeline.methods.segmentation_loss import label_logits, segmentation_loss
from diffatlas_pipeline.planning.plan import ChannelPlan, DistancePlan
from tests.factories import make_plan

SIDE, SCALE, BATCH, IMAGES, MASKS = 6, 0.5, 8, 2, 3
PLAN = replace(
    make_plan(channels=tuple(ChannelPlan(name, "percentile", 0.5, 99.5) for name in ("T1", "T2"))),
    distance=DistancePlan(tau_mm=3.0, scale=SCALE),
)
PLAN = replace(PLAN, dataset=replace(PLAN.dataset, labels=tuple(LabelClass(name, i + 1) for i, name in enumerate("abc"))))


class Fixed(torch.nn.Module):
    """Answers with ``output``, or as many samples of it as are shown; remembers what it was shown last, and at which
    levels of image and mask.
    """

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, seen: Tensor, image_level: Tensor, mask_level: Tensor) -> Tensor:
        self.seen, self.image_level, self.mask_level = seen.double(), image_level.double(), mask_level.double()
        return self.output[: len(seen)]


def batch(unlabelled: int = 0) -> tuple[Tensor, Tensor]:
    """Images (B, C, ...) and distances (B, K, ...); the first ``unlabelled`` samples have none."""
    generator = torch.Generator().manual_seed(1)
    image = torch.rand((BATCH, IMAGES, SIDE, SIDE, SIDE), generator=generator) * 2 - 1
    distances = torch.rand((BATCH, MASKS, SIDE, SIDE, SIDE), generator=generator) * 2 - 1
    distances[:unlabelled] = torch.nan
    return image, distances


def outputs(channels: int) -> Tensor:
    return torch.randn((BATCH, channels, SIDE, SIDE, SIDE), generator=torch.Generator().manual_seed(2))


def errors_and_predictions(
    objective: Objective, output: Tensor, clean: Tensor, seen: Tensor, levels: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean squared error (B, c) and predicted clean data (B, c, ...) for a network shown ``seen`` at ``levels`` (B, c).

    The noise is worked out from what the network was shown: z = cos(pi/2 u) z0 + sin(pi/2 u) eps, and z times cos(pi/2
    u) is shown where the input is scaled. Where there is no noise, its error is NaN.
    """
    a, b = (f(levels * math.pi / 2)[:, :, None, None, None] for f in (torch.cos, torch.sin))
    noisy = seen / a if objective.input_scaling == "signal" else seen
    eps = (noisy - a * clean) / b
    target, predicted = {
        "epsilon": (eps, (noisy - b * output) / a),
        "v": (a * eps - b * clean, a * noisy - b * output),
        "x0": (clean, output),
    }[objective.prediction]
    return (output - target).square().mean(dim=(2, 3, 4)), predicted


def labels_error(predicted: Tensor, distances: Tensor) -> float:
    return float(segmentation_loss(label_logits(predicted / SCALE), distances))


@pytest.mark.parametrize("unlabelled", [0, 3, BATCH - 1])
@pytest.mark.parametrize("scaling", INPUT_SCALINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_joint_loss(prediction: str, scaling: str, unlabelled: int) -> None:
    """The mask's error over labelled samples, the image's over all (a clean image has none), each by its share of the
    channels and the image's by its weight, and the weighted error of labels.
    """
    objective = JointObjective(prediction, scaling, segmentation_weight=0.7, image_weight=0.3)
    recipe = JointRecipe(NoiseLevels("schedule", image="mixed", clean_image=0.4, equal_level=0.3), objective)
    (image, distances), output = batch(unlabelled), outputs(IMAGES + MASKS)
    network = Fixed(output)
    report = DiffAtlas(PLAN, recipe).loss(network, image, distances, torch.Generator().manual_seed(0))
    levels = torch.cat([network.image_level[:, None].repeat(1, IMAGES), network.mask_level[:, None].repeat(1, MASKS)], dim=1)
    noisy = network.image_level > 0
    labelled = torch.arange(BATCH) >= unlabelled
    assert 0 < int(noisy.sum()) < BATCH + (unlabelled > 3), "some images of the batch are noisy; some labelled ones are clean"
    assert torch.all(network.mask_level[~labelled] == 1), "the network is told nothing of a mask that is not known"
    clean = torch.cat([image, distances * SCALE], dim=1).double()
    error, predicted = errors_and_predictions(objective, output.double(), clean, network.seen, levels)
    of_image = error[noisy, :IMAGES].mean(dim=1).sum() / BATCH
    of_mask = error[labelled, IMAGES:].mean() / SCALE**2
    of_labels = labels_error(predicted[labelled, IMAGES:].float(), distances[labelled])
    expected = 3 / 5 * float(of_mask) + 2 / 5 * 0.3 * float(of_image) + 0.7 * of_labels
    assert float(report.total) == pytest.approx(expected, rel=1e-4)
    assert report.parts["loss_mask"] == pytest.approx(float(of_mask), rel=1e-4)
    assert report.parts["loss_image"] == pytest.approx(float(error[noisy, :IMAGES].mean()), rel=1e-4)
    assert report.parts["loss_segmentation"] == pytest.approx(of_labels, rel=1e-4)


def test_the_log_tells_apart_low_middle_and_high_noise() -> None:
    recipe = JointRecipe(NoiseLevels("schedule"), JointObjective("x0"))
    (image, distances), output = batch(), outputs(IMAGES + MASKS)
    network = Fixed(output)
    parts = DiffAtlas(PLAN, recipe).loss(network, image, distances, torch.Generator().manual_seed(0)).parts
    error = (output - torch.cat([image, distances * SCALE], dim=1)).square().mean(dim=(2, 3, 4))
    for band, (low, high) in enumerate([(0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.1)]):
        within = (network.mask_level >= low) & (network.mask_level < high)
        assert within.any()
        assert parts[f"loss_mask_band{band}"] == pytest.approx(float(error[within, IMAGES:].mean()) / SCALE**2, rel=1e-4)
        assert parts[f"loss_image_band{band}"] == pytest.approx(float(error[within, :IMAGES].mean()), rel=1e-4)


def test_pure_noise_belongs_to_the_highest_band() -> None:
    recipe = JointRecipe(NoiseLevels("schedule", start=1.0, image="mixed"), JointObjective("x0"))
    (image, distances), output = batch(), outputs(IMAGES + MASKS)
    parts = DiffAtlas(PLAN, recipe).loss(Fixed(output), image, distances, torch.Generator().manual_seed(0)).parts
    assert parts["loss_mask_band2"] == parts["loss_mask"]
    empty = {"loss_image", *(f"loss_image_band{band}" for band in range(3)), "loss_mask_band0", "loss_mask_band1"}
    assert {name for name, value in parts.items() if math.isnan(value)} == empty, "clean images have no error"


@pytest.mark.parametrize(("name", "channels"), [("diffatlas", IMAGES + MASKS), ("icmd", MASKS)])
def test_noise_and_levels_come_from_the_generator_alone(name: str, channels: int) -> None:
    (image, distances), network = batch(), Fixed(outputs(channels))
    method = METHODS[name](PLAN, METHODS[name].recipes["default"])
    assert isinstance(method, LearnedMethod)
    seen = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(seen))
        method.loss(network, image, distances, torch.Generator().manual_seed(seed))
        seen.append(network.seen)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize(("recipe", "error"), [(PAPER_NOISE, "epsilon"), (PAPER, "v")])
def test_the_paper_s_loss_is_the_error_of_noise_or_velocity_over_all_channels(recipe: JointRecipe, error: str) -> None:
    """Eq. 6, also where the network puts out clean data; there an error counts at most five times. The error of the
    distances is that of the distances, however small they are beside the image.
    """
    (image, distances), output = batch(), outputs(IMAGES + MASKS)
    network = Fixed(output)
    report = DiffAtlas(PLAN, recipe).loss(network, image, distances, torch.Generator().manual_seed(0))
    assert torch.equal(network.image_level, network.mask_level)
    levels, scale = network.mask_level[:, None].repeat(1, IMAGES + MASKS), SCALE * recipe.levels.mask_scale
    clean = torch.cat([image, distances * scale], dim=1).double()
    off, _ = errors_and_predictions(recipe.objective, output.double(), clean, network.seen, levels)
    if error == "v":  # v = (a z - z0) / b
        off = off * (1 / torch.sin(levels * math.pi / 2).square()).clamp(max=5)
    off[:, IMAGES:] /= scale**2
    assert float(report.total) == pytest.approx(float(off.mean()), rel=1e-4)
    assert "loss_segmentation" not in report.parts


@pytest.mark.parametrize("scaling", INPUT_SCALINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_mask_diffusion_s_loss(prediction: str, scaling: str) -> None:
    """The error of the mask alone, given the clean image, and the weighted error of labels."""
    objective = Objective(prediction, scaling, segmentation_weight=0.7)
    (image, distances), output = batch(), outputs(MASKS)
    network = Fixed(output)
    method = MaskDiffusion(PLAN, MaskRecipe(MaskLevels("schedule"), objective))
    report = method.loss(network, image, distances, torch.Generator().manual_seed(0))
    assert torch.equal(network.seen[:, :IMAGES].float(), image) and not network.image_level.any()
    levels = network.mask_level[:, None].repeat(1, MASKS)
    clean = (distances * SCALE).double()
    error, predicted = errors_and_predictions(objective, output.double(), clean, network.seen[:, IMAGES:], levels)
    of_labels = labels_error(predicted.float(), distances)
    of_mask = float(error.mean()) / SCALE**2
    assert float(report.total) == pytest.approx(of_mask + 0.7 * of_labels, rel=1e-4)
    assert report.parts["loss_mask"] == pytest.approx(of_mask, rel=1e-4)


def test_feed_forward_s_loss_is_that_of_labels() -> None:
    (image, distances), logits = batch(), outputs(1 + MASKS)

    class Logits(torch.nn.Module):
        def forward(self, seen: Tensor) -> Tensor:
            assert torch.equal(seen, image)
            return logits

    report = FeedForward(PLAN, FeedForwardRecipe()).loss(Logits(), image, distances, torch.Generator())
    assert float(report.total) == pytest.approx(float(segmentation_loss(logits, distances)))


def test_the_loss_of_labels_is_cross_entropy_and_soft_dice() -> None:
    """An undecided network, a third for each class: two labels, on a quarter and on half of the voxels."""
    truth = torch.ones((1, 2, 4, 4, 4))
    truth[0, 0, :1], truth[0, 1, 2:] = -1, -1
    undecided = torch.zeros((1, 3, 4, 4, 4))
    dice = [2 * (share / 3) / (1 / 3 + share) for share in (1 / 4, 1 / 2)]
    expected = math.log(3) + 1 - sum(dice) / 2
    assert float(segmentation_loss(undecided, truth)) == pytest.approx(expected, rel=1e-4)
