"""Network topology and patch size: presets by budget, strides and kernels from the geometry, size from the memory.

A U-Net stage halves an axis while the axis is not much coarser than the finest one and enough voxels are left; kernels
are 1 along an axis that is still much coarser. The patch is the largest that fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.planning.plan import Budget
from diffatlas_pipeline.volumes.grids import Triple, TripleMm

TrainingBytes = Callable[[NetworkPlan, int, Triple, int], int]

FEWEST_VOXELS = 4  # left along an axis at the coarsest stage
COARSER = 2.0  # an axis this much coarser than the finest is neither halved nor convolved along
FEWEST_STEM_VOXELS = 16  # a shorter axis is not halved by the stem
MOST_ATTENTION_VOXELS = 4096
SMALLEST_BATCH = 2
MOST_SHARE = 0.05  # of the data set's voxels in one batch


@dataclass(frozen=True)
class Preset:
    """What a budget allows; ``widths`` has one entry per stage at most, ``share`` is the part of the memory for one
    step.
    """

    stem_stride: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    attention: bool  # at the coarsest stage
    embedding: int
    share: float
    most_patch_voxels: int
    most_batch_voxels: int
    largest_batch: int
    learning_rate: float
    iterations: tuple[int, int, int]  # fewest, for a data set of 160 patches, most
    fewest_in_radius: float = 0.0  # voxels in the thinnest label's inscribed radius where voxels are made coarser; 0: never


PRESETS: dict[str, Preset] = {
    "cpu": Preset(2, (32, 64, 128), (1, 1, 2), False, 128, 0.5, 64**3, 64**3, 4, 1e-3, (2000, 3000, 6000), 3.0),
    "gpu8": Preset(
        1, (32, 64, 128, 256, 320), (2, 2, 2, 2, 2), True, 256, 0.8, 128**3, 2 * 128**3, 16, 3e-4, (20000, 50000, 150000)
    ),
    "gpu24": Preset(
        1, (48, 96, 192, 320, 384), (2, 2, 2, 2, 2), True, 256, 0.85, 160**3, 2 * 160**3, 24, 3e-4, (20000, 60000, 200000)
    ),
    "gpu80": Preset(
        1, (64, 128, 256, 384, 512), (2, 2, 3, 3, 3), True, 512, 0.9, 224**3, 2 * 224**3, 32, 3e-4, (20000, 80000, 250000)
    ),
}


def preset_named(name: str) -> Preset:
    """The preset; UserError lists the known ones."""
    if name not in PRESETS:
        raise UserError(f"Unknown preset '{name}': there are {', '.join(PRESETS)}. Choose one with `preset`.")
    return PRESETS[name]


def preset_for(device: str, memory_gb: float) -> str:
    """The preset that suits a device of kind cpu, cuda or mps with so much memory."""
    if device == "cpu":
        return "cpu"
    return "gpu8" if memory_gb < 20 else "gpu24" if memory_gb < 64 else "gpu80"


def network_for(preset: Preset, patch: Triple, spacing_mm: TripleMm, dimensions: int = 3) -> NetworkPlan:
    """The network for patches of about ``patch`` voxels of ``spacing_mm``; Z of two-dimensional data is left alone."""
    axes = range(dimensions)
    total, strides, kernels = [1, 1, 1], [], []

    def spacing(axis: int) -> float:
        return spacing_mm[axis] * total[axis]

    def near_finest(axis: int) -> bool:
        return spacing(axis) <= COARSER * min(spacing(other) for other in axes)

    for stage in range(len(preset.widths)):
        factor = preset.stem_stride if stage == 0 else 2
        least = FEWEST_STEM_VOXELS if stage == 0 else 2 * FEWEST_VOXELS
        stride = [
            factor if axis in axes and near_finest(axis) and patch[axis] >= least * total[axis] else 1 for axis in range(3)
        ]
        if stage > 0 and max(stride) == 1:
            break
        total = [t * s for t, s in zip(total, stride, strict=True)]
        strides.append(_triple(stride))
        kernels.append(_triple([3 if axis in axes and near_finest(axis) else 1 for axis in range(3)]))
    stages = len(strides)
    coarsest = math.prod(math.ceil(n / t) for n, t in zip(patch, total, strict=True))
    attention = [False] * (stages - 1) + [preset.attention and coarsest <= MOST_ATTENTION_VOXELS]
    return NetworkPlan(
        preset.widths[:stages],
        tuple(strides),
        tuple(kernels),
        preset.blocks[:stages],
        tuple(attention),
        preset.embedding,
        smooth_output=max(strides[0]) > 1,
    )


def plan_topology(
    budget: Budget,
    median_shape: Triple,
    spacing_mm: TripleMm,
    channels: int,
    training_bytes: TrainingBytes,
    dimensions: int = 3,
) -> tuple[NetworkPlan, Triple, dict[str, str]]:
    """The network, the patch size (multiples of the total stride) and the reasons for ``patch_size`` and ``network``.

    Starts from ``median_shape`` (cropped cases at ``spacing_mm``) rounded up and shortens the axis that is longest in
    proportion to it, first to the preset's patch volume, then until ``training_bytes(network, channels, patch, 2)``
    fits the budget. ``channels`` are those of the joint state. Raises UserError when not even the smallest patch fits.
    """
    preset, allowed = preset_named(budget.preset), allowed_bytes(budget)
    wanted, needed = list(median_shape), 0
    limits: dict[str, None] = {}  # what has shortened the patch, in order
    while True:
        network = network_for(preset, _triple(wanted), spacing_mm, dimensions)
        multiple = network.total_stride
        patch = _triple([math.ceil(n / m) * m for n, m in zip(wanted, multiple, strict=True)])
        if math.prod(patch) > preset.most_patch_voxels:
            limits[f"at most {preset.most_patch_voxels} voxels, for speed"] = None
        else:
            needed = training_bytes(network, channels, patch, SMALLEST_BATCH)
            if needed <= allowed:
                break
            limits["the memory budget"] = None
        longest = _longest_axis(patch, median_shape, multiple, dimensions)
        if longest is None:
            raise UserError(
                f"The smallest patch {_text(patch)} needs {needed / 1e9:.1f} GB to train, of {budget.memory_gb:g} GB only "
                f"{allowed / 1e9:.1f} GB may be used. Give more with `memory_gb` or a smaller `preset`."
            )
        wanted[longest] = patch[longest] - multiple[longest]
    fitted = f"cut to {' and '.join(limits)}" if limits else "rounded up"
    why = (
        f"median cropped case {_text(median_shape)}, {fitted}, in multiples of the total stride {_text(multiple)}; "
        f"a step of batch {SMALLEST_BATCH} needs {needed / 1e9:.2f} GB of the {allowed / 1e9:.2f} GB allowed"
    )
    reasons = {"patch_size": why, "network": _network_reason(budget, network, patch, dimensions)}
    return network, patch, reasons


def plan_batch_size(
    budget: Budget, network: NetworkPlan, patch: Triple, channels: int, dataset_voxels: int, training_bytes: TrainingBytes
) -> tuple[int, str]:
    """The largest batch that fits the budget and the preset and holds at most 5 % of the data set's voxels; at least
    2.
    """
    preset = preset_named(budget.preset)
    voxels = math.prod(patch)
    by_share = int(MOST_SHARE * dataset_voxels / voxels)
    by_speed = min(preset.largest_batch, preset.most_batch_voxels // voxels)
    most = max(SMALLEST_BATCH, min(by_share, by_speed))
    batch = most
    while batch > SMALLEST_BATCH and training_bytes(network, channels, patch, batch) > allowed_bytes(budget):
        batch -= 1
    if batch < most:
        return batch, "fills the memory budget"
    if by_share >= by_speed:
        rule = f"preset {budget.preset}: at most {preset.largest_batch} patches and about {preset.most_batch_voxels} voxels"
    elif by_share >= SMALLEST_BATCH:
        rule = "5 % of the data set at most"
    else:
        rule = "at least two, though 5 % of so small a data set is less"
    return batch, f"{rule}; it fits the memory budget"


def allowed_bytes(budget: Budget) -> float:
    """Bytes one training step may hold: the preset's share of the budget (the rest is for data loading, libraries,
    peaks).
    """
    return budget.memory_gb * 1e9 * preset_named(budget.preset).share


def _longest_axis(patch: Triple, median_shape: Triple, multiple: Triple, dimensions: int) -> int | None:
    """The axis longest in proportion to the data (ties: in voxels) that can still be shortened."""
    axes = [axis for axis in range(dimensions) if patch[axis] - multiple[axis] >= FEWEST_VOXELS]
    return max(axes, key=lambda axis: (patch[axis] / median_shape[axis], patch[axis], -axis), default=None)


def _network_reason(budget: Budget, network: NetworkPlan, patch: Triple, dimensions: int) -> str:
    coarsest = _triple([n // t for n, t in zip(patch, network.total_stride, strict=True)])
    halving = f"axes are halved while {FEWEST_VOXELS} voxels are left: {_text(coarsest)}"
    reasons = [f"preset {budget.preset}: {len(network.widths)} stages; {halving}"]
    if max(network.strides[0]) > 1:
        reasons.append(f"stem embeds blocks of {_text(network.strides[0])} voxels, for speed")
    flat = ["XYZ"[axis] for axis in range(dimensions) if any(kernel[axis] == 1 for kernel in network.kernels)]
    if flat:
        reasons.append(f"kernel 1 along {', '.join(flat)} while it is over {COARSER:g} times coarser than the finest axis")
    if dimensions == 2:
        reasons.append("two-dimensional: kernel, stride and patch are 1 along Z")
    return "; ".join(reasons)


def _triple(values: list[int]) -> Triple:
    x, y, z = values
    return x, y, z


def _text(shape: Triple) -> str:
    return " x ".join(str(n) for n in shape)
