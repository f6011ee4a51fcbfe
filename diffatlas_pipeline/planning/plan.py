"""The plan: everything that training and prediction need, and nothing of the machine they run on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from diffatlas_pipeline.datasets.description import DatasetDescription
from diffatlas_pipeline.diffusion.plan import DiffusionPlan
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import from_json, to_json
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.volumes.grids import Triple, TripleMm

PLAN_VERSION = 1


@dataclass(frozen=True)
class Budget:
    """What a plan may use: training memory in GB on a device of kind ``cpu``, ``cuda`` or ``mps``, and the preset's name."""

    memory_gb: float
    device: str
    preset: str


@dataclass(frozen=True)
class ChannelPlan:
    """Normalisation of one channel onto [-1, 1].

    ``ct``: clip to [lower, upper] (intensity units, from the data set). ``percentile``: clip to the image's own percentiles
    ``lower`` and ``upper``.
    """

    name: str
    scheme: str
    lower: float
    upper: float


@dataclass(frozen=True)
class DistancePlan:
    """Signed distance maps: S = clip(d / tau_mm, -1, 1), times ``scale`` in the joint state (d < 0 inside)."""

    tau_mm: float
    scale: float


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to learn."""

    iterations: int
    batch_size: int
    learning_rate: float
    warmup_fraction: float
    weight_decay: float
    gradient_clip: float
    ema_fraction: float  # EMA horizon as a fraction of the iterations done so far


@dataclass(frozen=True)
class AugmentationPlan:
    """Ranges from which random changes are drawn; image and distance maps share the spatial ones."""

    rotation_degrees: TripleMm
    zoom: tuple[float, float]
    mirror_axes: tuple[int, ...]
    intensity: bool
    elastic: float = 0.0  # share of patches that are deformed smoothly


@dataclass(frozen=True)
class Recipe:
    """How a diffusion model is trained and sampled; each field is one named option.

    Noise levels run from 0 (clean) to 1 (pure noise): a state at level u is cos(pi/2 u) z0 + sin(pi/2 u) noise.
    """

    name: str
    prediction: str = "x0"  # or "epsilon", "v"
    mask_levels: str = "high"  # training: 1 - u^2; or "schedule": uniform over the T steps
    image_levels: str = "equal"  # training: the mask's; or "mixed": clean, equal, or uniformly below
    clean_image_fraction: float = 0.0  # share of "mixed" samples whose image is clean
    equal_level_fraction: float = 0.0  # share of "mixed" samples whose image is as noisy as the mask
    start_fraction: float = 0.0  # share of samples at the first sampling step: clean image, mask of pure noise
    own_answer_fraction: float = 0.0  # share of samples at a later step: clean image, mask the network's first answer, noisy
    input_scaling: str = "none"  # "signal": what the network sees is scaled by cos(pi/2 u), so pure noise becomes silence
    unlabelled_fraction: float = 0.0  # share of training samples drawn from unlabelled scans, where there are any
    random_contrast: float = 0.0  # share of training samples whose intensities go through a random curve
    segmentation_loss: float = 0.0  # weight of cross-entropy + soft Dice of the labels decoded from predicted distances
    image_loss: float = 1.0  # weight of the image's squared error
    solver: str = "ddim"  # or "ddpm", "dpmpp_2m"
    steps: int = 1  # sampling steps; 0 = all T
    eta: float = 0.0  # stochasticity of ddim
    guidance_level: float = 0.0  # the image is given at min(mask level, guidance_level): 1 = as noisy as the mask, 0 = clean
    guidance_noise: str = "fixed"  # noise on the image; or "fresh" at each step
    guidance_interval: tuple[float, float] = (0.0, 1.0)  # mask levels within which the image is given, else it is generated
    resampling: int = 1  # RePaint repeats of each step; 1 = none
    draws: int = 1
    method: str = "diffatlas"  # whose recipe it is


DIFFUSING = ("diffatlas", "icmd")  # the methods whose recipes are always those of the plan


@dataclass(frozen=True)
class Plan:
    """``plans.json``: everything training and prediction need, and nothing of the machine they run on."""

    dataset: DatasetDescription
    budget: Budget
    dimensions: int
    spacing_mm: TripleMm
    patch_size: Triple
    channels: tuple[ChannelPlan, ...]
    distance: DistancePlan
    network: NetworkPlan
    diffusion: DiffusionPlan
    training: TrainingPlan
    augmentation: AugmentationPlan
    recipes: tuple[Recipe, ...]
    why: dict[str, str] = field(default_factory=dict)
    version: int = PLAN_VERSION

    def recipe(self, name: str, method: str = "diffatlas") -> Recipe:
        """The recipe of ``method`` called ``name``; UserError lists the known ones.

        A method that does not diffuse has nothing to choose: it has an empty one called "default" beside those of the plan.
        """
        fitting = {} if method in DIFFUSING else {"default": Recipe("default", method=method)}
        fitting |= {recipe.name: recipe for recipe in self.recipes if recipe.method == method}
        if name not in fitting:
            raise UserError(
                f"Unknown recipe '{name}' of {method}: this plan has {', '.join(fitting) or 'none'}. Choose one with `recipe`."
            )
        return fitting[name]

    def digest(self, method: str | None = None, recipe: str = "default") -> str:
        """Twelve hexadecimal digits that tell plans apart by what a training of ``method`` with ``recipe`` depends on.

        Other recipes do not count; without a method, no recipe does.
        """
        read = from_json(Plan, to_json(self))  # 1 and 1.0 are one number
        used = () if method is None else (read.recipe(recipe, method),)
        told = json.dumps(_without_defaults(dataclasses.replace(read, recipes=used, why={})), sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:12]


def _without_defaults(value: Any) -> Any:
    """``value`` as plain data; fields at their defaults are left out, so that a field added later changes no digest."""
    if dataclasses.is_dataclass(value):
        fields = {one.name: (getattr(value, one.name), one.default) for one in dataclasses.fields(value)}
        return {name: _without_defaults(found) for name, (found, default) in fields.items() if found != default}
    if isinstance(value, (tuple, list)):
        return [_without_defaults(one) for one in value]
    return value
