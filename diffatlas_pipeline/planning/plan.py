"""The plan: everything that training and prediction need, and nothing of the machine they run on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from diffatlas_pipeline.datasets.description import DatasetDescription
from diffatlas_pipeline.diffusion.plan import DiffusionPlan
from diffatlas_pipeline.fields import above, at_least, fraction, one_of, within
from diffatlas_pipeline.files import from_json, to_json
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.planning.migration import PLAN_VERSION, migrated_plan
from diffatlas_pipeline.volumes.grids import Triple, TripleMm

STORED_LIMIT = 1.5
"""Stored distance maps are cut off at so many tau; training cuts them off at 1. Zooms may shrink an anatomy that much.
"""

PlanRecipes = dict[str, dict[str, dict[str, Any]]]
"""Method -> name -> recipe as plain data; each method knows what may be in it."""


@dataclass(frozen=True)
class Budget:
    """What a plan may use: training memory in GB on a device of kind ``cpu``, ``cuda`` or ``mps``, and the preset's
    name.
    """

    memory_gb: float = field(metadata=above(0))
    device: str = field(metadata=one_of("cpu", "cuda", "mps"))
    preset: str


@dataclass(frozen=True)
class ChannelPlan:
    """Normalisation of one channel onto [-1, 1].

    ``ct``: clip to [lower, upper] (Hounsfield units, from the data set). ``fixed``: the same, of any other unit.
    ``percentile``: clip to the image's own percentiles ``lower`` and ``upper``.
    """

    name: str
    scheme: str = field(metadata=one_of("ct", "fixed", "percentile"))
    lower: float
    upper: float

    def problems(self) -> Iterator[str]:
        """What does not go together."""
        if not self.lower < self.upper:
            yield f"lower {self.lower:g}, upper {self.upper:g}; the upper one must be larger"
        elif self.scheme == "percentile" and not 0 <= self.lower < self.upper <= 100:
            yield f"lower {self.lower:g}, upper {self.upper:g}; percentiles are 0 to 100"


@dataclass(frozen=True)
class DistancePlan:
    """Signed distance maps: S = clip(d / tau_mm, -1, 1), times ``scale`` in the joint state (d < 0 inside)."""

    tau_mm: float = field(metadata=above(0))
    scale: float = field(metadata=above(0))


MOST_PATCH_VOXELS = 1 << 30
OPTIMISERS = ("adamw", "muon")


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to learn."""

    iterations: int = field(metadata=at_least(1))
    batch_size: int = field(metadata=at_least(1))
    learning_rate: float = field(metadata=above(0))
    warmup_fraction: float = field(metadata=fraction())
    weight_decay: float = field(metadata=at_least(0))
    gradient_clip: float = field(metadata=above(0))
    ema_fraction: float = field(metadata=fraction())  # EMA horizon as a fraction of the iterations done so far
    optimiser: str = field(default="adamw", metadata=one_of(*OPTIMISERS))  # adamw: plans of earlier releases


@dataclass(frozen=True)
class AugmentationPlan:
    """Ranges from which random changes are drawn; image and distance maps share the spatial ones."""

    rotation_degrees: TripleMm = field(metadata=within(0, 180))
    zoom: tuple[float, float]
    mirror_axes: tuple[int, ...] = field(metadata=within(0, 2))
    intensity: bool
    elastic: float = field(default=0.0, metadata=fraction())  # share of patches that are deformed smoothly

    def problems(self) -> Iterator[str]:
        """What does not go together."""
        low, high = self.zoom
        if not low <= high or low * STORED_LIMIT < 1 - 1e-6:
            yield f"zoom {low:g} to {high:g}; {1 / STORED_LIMIT:.3f} <= smallest <= largest is needed"


@dataclass(frozen=True)
class Plan:
    """``plans.json``: everything training and prediction need, and nothing of the machine they run on."""

    dataset: DatasetDescription
    budget: Budget
    dimensions: int = field(metadata=within(2, 3))
    spacing_mm: TripleMm = field(metadata=above(0))
    patch_size: Triple
    channels: tuple[ChannelPlan, ...]
    distance: DistancePlan
    network: NetworkPlan
    diffusion: DiffusionPlan
    training: TrainingPlan
    augmentation: AugmentationPlan
    recipes: PlanRecipes
    why: dict[str, str] = field(default_factory=dict)
    version: int = PLAN_VERSION

    @staticmethod
    def migrated(raw: dict[str, Any], source: str) -> dict[str, Any]:
        """The data of a plan of any version that this release reads, as this version has it; see :mod:`migration`."""
        return migrated_plan(raw, source)

    def digest(self) -> str:
        """Twelve hexadecimal digits that tell plans apart, by all but their recipes and reasons."""
        read = from_json(Plan, to_json(self))  # 1 and 1.0 are one number
        plain = _without_defaults(dataclasses.replace(read, recipes={}, why={}))
        return digest_of(plain | {"recipes": (), "why": {}})  # as release 0.1 wrote them: its plans keep their digests

    def stored_digest(self) -> str:
        """Twelve hexadecimal digits that tell plans apart by what stored cases depend on."""
        read = from_json(Plan, to_json(self))
        made_with = (STORED_LIMIT, read.dimensions, read.spacing_mm, read.channels, read.distance.tau_mm, read.dataset.labels)
        return digest_of(made_with if read.dataset.ignore is None else (*made_with, read.dataset.ignore))

    def problems(self) -> Iterator[str]:
        """What does not go together."""
        for axis in self.augmentation.mirror_axes:
            if axis >= self.dimensions:
                yield f"augmentation.mirror_axes {axis}; 0 to {self.dimensions - 1} is allowed"
        if math.prod(self.patch_size) > MOST_PATCH_VOXELS:
            yield f"patch_size {' x '.join(map(str, self.patch_size))}; at most {MOST_PATCH_VOXELS} voxels are allowed"
        if len(self.channels) != len(self.dataset.channels):
            yield f"channels {len(self.channels)}; the data set has {len(self.dataset.channels)}"
        total = self.network.total_stride
        if min(total) > 0 and any(size < 1 or size % stride for size, stride in zip(self.patch_size, total, strict=True)):
            needed, found = (" x ".join(map(str, triple)) for triple in (total, self.patch_size))
            yield f"patch_size {found}; must be multiples of the network's total stride, {needed}"


def digest_of(value: Any) -> str:
    """Twelve hexadecimal digits of dataclasses and plain data; fields at their defaults do not count."""
    return hashlib.sha256(json.dumps(_without_defaults(value), sort_keys=True).encode()).hexdigest()[:12]


def _without_defaults(value: Any) -> Any:
    """``value`` as plain data; fields at their defaults are left out, so that a field added later changes no digest."""
    if dataclasses.is_dataclass(value):
        fields = {one.name: (getattr(value, one.name), _default(one)) for one in dataclasses.fields(value)}
        return {name: _without_defaults(found) for name, (found, default) in fields.items() if found != default}
    if isinstance(value, (tuple, list)):
        return [_without_defaults(one) for one in value]
    return value


def _default(one: dataclasses.Field[Any]) -> Any:
    return one.default if one.default_factory is dataclasses.MISSING else one.default_factory()
