"""The recipes of the joint diffusion: the default, and those of the paper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from diffatlas_pipeline.diffusion.denoiser import PREDICTIONS, JointObjective
from diffatlas_pipeline.diffusion.guidance import Guidance
from diffatlas_pipeline.diffusion.levels import IMAGE_LEVELS, NoiseLevels
from diffatlas_pipeline.diffusion.solvers import Sampler
from diffatlas_pipeline.fields import fraction
from diffatlas_pipeline.methods.base import DiffusionRecipe


@dataclass(frozen=True)
class JointRecipe(DiffusionRecipe):
    """How a joint diffusion is trained and sampled.

    A share ``unlabelled_fraction`` of the training samples is drawn from scans without labels, where there are any: of
    these only the image is learnt.
    """

    levels: NoiseLevels = field(default_factory=NoiseLevels)
    objective: JointObjective = field(default_factory=JointObjective)
    guidance: Guidance = field(default_factory=Guidance)
    unlabelled_fraction: float = field(default=0.0, metadata=fraction())

    def problems(self) -> Iterator[str]:
        """What does not go together."""
        chosen = self.objective.prediction, self.levels.image
        known = chosen[0] in PREDICTIONS and chosen[1] in IMAGE_LEVELS  # what is unknown is told by itself
        if self.levels.self_conditioning > 0 and known and chosen != ("x0", "mixed"):
            yield "levels.self_conditioning needs objective.prediction 'x0' and levels.image 'mixed'"


# Better than the paper's by measurement (documentation/explanation/what-was-tried.md): separate noise levels, most
# samples where sampling begins, clean predictions. Of the rest two thirds show the network its own answer, and tell it
# so: else it would trust its earlier errors, and lose with each step. The second step refines the first one's answer.
DEFAULT = JointRecipe(
    NoiseLevels(
        "high",
        start=0.55,
        image="mixed",
        clean_image=0.5,
        equal_level=0.4,
        self_conditioning=0.3,
        own_levels="beyond",
    ),
    JointObjective("x0", "signal", segmentation_weight=1.0, image_weight=0.5),
    Sampler("ddim", steps=2, answer="mean"),
    Guidance(0.0, "fixed"),
)

# The paper's method: equal levels of image and mask, all T ancestral steps, the image given as noisy as the mask. Its
# network puts out noise; one that sees blocks of voxels cannot, but can put out clean data (Li & He 2025). A distance
# map is smooth, so it shines through noise in which nothing of an image is left: it is scaled down, to be decided where
# the image can be seen. Where the network puts out noise all is as published.
PAPER = JointRecipe(
    NoiseLevels("schedule", image="equal", mask_scale=0.1),
    JointObjective("x0", "none", segmentation_weight=0.0, image_weight=1.0, error="v"),
    Sampler("ddpm", steps=0, eta=1.0),
    Guidance(1.0, "fresh"),
)
PAPER_NOISE = replace(
    PAPER,
    levels=NoiseLevels("schedule", image="equal"),
    objective=JointObjective("epsilon", "none", segmentation_weight=0.0, image_weight=1.0),
)
