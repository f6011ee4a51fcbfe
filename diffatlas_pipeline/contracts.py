"""The frozen dataclasses that cross rooms, and their versioned JSON.

Spatial axes are always (X, Y, Z) in the canonical orientation RAS+ unless a name says otherwise; lengths are in mm.
A two-dimensional image is a volume with Z = 1.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from diffatlas_pipeline.errors import UserError

PLAN_VERSION = 1
FINGERPRINT_VERSION = 1

Triple = tuple[int, int, int]
TripleMm = tuple[float, float, float]
Affine = tuple[tuple[float, ...], ...]
T = TypeVar("T")


# ---------------------------------------------------------------------------------------------------------- volumes
@dataclass(frozen=True)
class Grid:
    """A sampling grid in space.

    ``shape`` is (X, Y, Z); ``affine`` the 4x4 voxel-to-world matrix in mm (RAS+ world, as NIfTI); ``dimensions`` is 2 when
    the file held a two-dimensional image (then Z = 1), else 3.
    """

    shape: Triple
    affine: Affine
    dimensions: int = 3

    @property
    def matrix(self) -> np.ndarray:
        """The affine as a (4, 4) float64 array."""
        return np.asarray(self.affine, dtype=np.float64)

    @property
    def spacing_mm(self) -> TripleMm:
        """Voxel edge lengths in mm: the norms of the affine's columns."""
        columns = np.linalg.norm(self.matrix[:3, :3], axis=0)
        return float(columns[0]), float(columns[1]), float(columns[2])

    @staticmethod
    def of(shape: tuple[int, ...], affine: np.ndarray, dimensions: int = 3) -> Grid:
        x, y, z = (int(n) for n in shape)
        return Grid((x, y, z), tuple(tuple(float(v) for v in row) for row in np.asarray(affine)), dimensions)


@dataclass(frozen=True)
class Volume:
    """An image: ``array`` (C, X, Y, Z) float32 on ``grid``; ``source`` names the file(s) for messages."""

    array: np.ndarray
    grid: Grid
    source: str = ""


@dataclass(frozen=True)
class LabelVolume:
    """A segmentation: ``array`` (X, Y, Z) integers, in the data set's own label values, on ``grid``."""

    array: np.ndarray
    grid: Grid
    source: str = ""


@dataclass(frozen=True)
class SpatialRecord:
    """How a native volume became the network's volume; enough to invert each step exactly.

    native grid --orient--> canonical --crop--> ``crop`` box of the canonical grid --resample--> ``planned_shape``.
    """

    native: Grid
    canonical: Grid
    crop_start: Triple
    crop_shape: Triple
    planned_shape: Triple
    planned_spacing_mm: TripleMm


# --------------------------------------------------------------------------------------------------- raw data set
MODALITIES = ("CT", "MRI")
"""What a scan can be said to be: intensities in Hounsfield units, or without a unit."""


@dataclass(frozen=True)
class LabelClass:
    """One foreground label: its name and the integer that stands for it in the files."""

    name: str
    value: int


@dataclass(frozen=True)
class DatasetDescription:
    """What ``dataset.json`` says: channels in file order (suffix _0000, _0001, ...), foreground labels, file ending."""

    name: str
    channels: tuple[str, ...]
    labels: tuple[LabelClass, ...]
    file_ending: str


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case: one image per channel, and its label file if it has one.

    ``modality`` is one of ``MODALITIES`` for an unlabelled scan that is said to be of another modality than the others.
    """

    case: str
    images: tuple[Path, ...]
    label: Path | None
    modality: str | None = None


@dataclass(frozen=True)
class RawDataset:
    """A raw data set found on disk and listed, not yet opened."""

    folder: Path
    description: DatasetDescription
    training: tuple[CaseFiles, ...]
    test: tuple[CaseFiles, ...] = ()
    unlabelled: tuple[CaseFiles, ...] = ()


# ---------------------------------------------------------------------------------------------------- fingerprint
@dataclass(frozen=True)
class IntensityStatistics:
    """Intensities of one channel over the labelled foreground of the whole data set."""

    mean: float
    std: float
    median: float
    minimum: float
    maximum: float
    percentile_00_5: float
    percentile_99_5: float


@dataclass(frozen=True)
class PowerSpectrum:
    """Radially averaged power per wave number.

    ``frequency`` in cycles/voxel at the median spacing (bin centres), ``power`` the mean power of one coefficient of the
    normalised quantity, scaled so that sum(power * weight) is its variance; ``weight`` the share of coefficients in the bin
    (sums to 1).
    """

    frequency: tuple[float, ...]
    power: tuple[float, ...]
    weight: tuple[float, ...]


@dataclass(frozen=True)
class LabelStatistics:
    """One foreground label over the data set."""

    name: str
    value: int
    cases: int
    median_volume_mm3: float
    inscribed_radius_mm: float  # median over cases of the largest inside distance
    mirror_twin_axis: dict[str, str]  # axis "0"/"1"/"2" -> the label that is its mirror image across it (own name: symmetric)


@dataclass(frozen=True)
class CaseShape:
    """Geometry of one training case after orientation and crop to content."""

    case: str
    shape: Triple
    spacing_mm: TripleMm
    cropped_shape: Triple


@dataclass(frozen=True)
class Fingerprint:
    """Everything the planner may know of a data set."""

    description: DatasetDescription
    cases: tuple[CaseShape, ...]
    intensities: tuple[IntensityStatistics, ...]  # per channel
    labels: tuple[LabelStatistics, ...]
    image_spectrum: PowerSpectrum
    distance_spectrum: PowerSpectrum
    dimensions: int = 3
    version: int = FINGERPRINT_VERSION


# ----------------------------------------------------------------------------------------------------------- plan
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
class NetworkPlan:
    """Topology of the U-Net.

    Stage i works at the input grid divided by the product of ``strides[0..i]``; ``strides[0]`` is the stem's own (all ones, or
    a patch embedding). ``kernels``, ``widths``, ``blocks`` and ``attention`` have one entry per stage.
    """

    widths: tuple[int, ...]
    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]
    blocks: tuple[int, ...]
    attention: tuple[bool, ...]
    embedding: int

    @property
    def total_stride(self) -> Triple:
        """Product of all strides per axis: patch sizes are multiples of it."""
        x, y, z = (math.prod(stride[axis] for stride in self.strides) for axis in range(3))
        return x, y, z


@dataclass(frozen=True)
class DiffusionPlan:
    """Noise schedule: its name, and the number T of training steps it is cut into."""

    schedule: str
    training_steps: int


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
                f"Unknown recipe '{name}' of {method}: this plan has {', '.join(fitting) or 'none'}. Choose one with --recipe."
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


# ----------------------------------------------------------------------------------------------------------- JSON
def to_json(value: Any) -> str:
    """A dataclass (or nest of them) as indented JSON; equal values give equal bytes."""
    return json.dumps(dataclasses.asdict(value), indent=2, sort_keys=False, ensure_ascii=False, default=str) + "\n"


def from_json(kind: type[T], text: str, source: str = "") -> T:
    """The inverse of :func:`to_json`. Raises UserError naming ``source`` for damaged text or another version."""
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{source or kind.__name__}: not valid JSON ({error}). Make it again or restore it.") from error
    expected = {f.name: f.default for f in dataclasses.fields(kind)}.get("version")  # type: ignore[arg-type]
    found = raw.get("version") if isinstance(raw, Mapping) else None
    if expected is not None and found != expected:
        raise UserError(
            f"{source or kind.__name__}: format version {found}, but this release reads version {expected}. "
            "Make it again with DiffAtlas_plan_and_preprocess."
        )
    try:
        return typing.cast(T, _build(kind, raw))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source or kind.__name__}: does not hold a valid {kind.__name__} ({error}).") from error


def _build(kind: Any, raw: Any) -> Any:
    """Rebuild a value of annotated type ``kind`` from plain JSON data."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        unknown = set(raw) - set(hints)
        if unknown:
            raise ValueError(f"unknown fields {sorted(unknown)}")
        return kind(**{name: _build(hints[name], raw[name]) for name in raw})  # type: ignore[operator]
    if origin is tuple:
        arguments = typing.get_args(kind)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_build(arguments[0], item) for item in raw)
        if len(arguments) != len(raw):
            raise ValueError(f"expected {len(arguments)} values, found {len(raw)}")
        return tuple(_build(argument, item) for argument, item in zip(arguments, raw, strict=True))
    if origin is dict:
        return {key: _build(typing.get_args(kind)[1], item) for key, item in raw.items()}
    if origin in (typing.Union, types.UnionType):
        choices = [argument for argument in typing.get_args(kind) if argument is not type(None)]
        return None if raw is None else _build(choices[0], raw)
    if kind is Path:
        return Path(raw)
    if kind is float:
        return float(raw)
    if kind in (int, str, bool) and not isinstance(raw, kind):
        raise ValueError(f"expected {kind.__name__}, found {raw!r}")
    return raw


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` so that a reader, or a crash, never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
