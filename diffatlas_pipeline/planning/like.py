"""A plan of new data that keeps what another model's network was made for, so that a training may begin with its
weights.
"""

from __future__ import annotations

from dataclasses import replace

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.networks.memory import training_bytes
from diffatlas_pipeline.planning.fingerprint import Fingerprint
from diffatlas_pipeline.planning.plan import Budget, ChannelPlan, Plan, PlanRecipes
from diffatlas_pipeline.planning.planner import make_plan, plan_training, planned_spacing
from diffatlas_pipeline.planning.topology import SMALLEST_BATCH, TrainingBytes, allowed_bytes
from diffatlas_pipeline.volumes.grids import TripleMm

COARSEST = 3.0
"""How many times as coarse as planned the other plan's voxels may be along an axis."""
AS_LIKE = "as in the plan that this one is to be like"


def plan_like(
    other: Plan,
    fingerprint: Fingerprint,
    budget: Budget,
    recipes: PlanRecipes,
    training_bytes: TrainingBytes = training_bytes,
) -> Plan:
    """The plan of the data of ``fingerprint`` with spacing, patch, network, distance maps and diffusion of ``other``.

    Normalisation is that of ``other`` for channels of the same name. Labels, batch size, training, augmentation and
    recipes are planned from the data. UserError if the data has another number of dimensions, would lose most of its
    resolution, or a training step does not go into the ``budget``.
    """
    if other.dimensions != fingerprint.dimensions:
        raise UserError(
            f"`like`: that model is of {other.dimensions}-D scans, these are {fingerprint.dimensions}-D. Leave it out."
        )
    _check_resolution(other.spacing_mm, planned_spacing(fingerprint, budget)[0])
    kept = make_plan(fingerprint, budget, recipes, training_bytes, (other.spacing_mm, AS_LIKE))
    network, patch_size = other.network, other.patch_size
    needed = training_bytes(network, len(kept.channels) + len(kept.dataset.labels), patch_size, SMALLEST_BATCH)
    if needed > allowed_bytes(budget):
        raise UserError(
            f"`like`: a training step of that model's network needs {needed / 1e9:.1f} GB, of {budget.memory_gb:g} GB only "
            f"{allowed_bytes(budget) / 1e9:.1f} GB may be used. Give more with `memory_gb`, or leave `like` out."
        )
    training, reasons = plan_training(fingerprint, budget, network, patch_size, other.spacing_mm, training_bytes)
    same = dict.fromkeys(("patch_size", "network", "distance", "diffusion"), AS_LIKE)
    channels = _channels(kept.channels, other.channels)
    if channels != kept.channels:
        same["channels"] = f"{AS_LIKE}, for channels of the same name"
    return replace(
        kept,
        patch_size=patch_size,
        channels=channels,
        distance=other.distance,
        network=network,
        diffusion=other.diffusion,
        training=training,
        why={**kept.why, **reasons, **same},
    )


def _check_resolution(other_mm: TripleMm, own_mm: TripleMm) -> None:
    if any(there > COARSEST * here for there, here in zip(other_mm, own_mm, strict=True)):
        there, here = (" x ".join(f"{edge:g}" for edge in spacing) for spacing in (other_mm, own_mm))
        raise UserError(
            f"`like`: that model sees voxels of {there} mm, these scans need {here} mm: along an axis more than "
            f"{COARSEST:g} times finer. Leave it out, or take a model of scans like these, with slices along the same axis."
        )


def _channels(own: tuple[ChannelPlan, ...], other: tuple[ChannelPlan, ...]) -> tuple[ChannelPlan, ...]:
    named = {channel.name: channel for channel in other}
    return tuple(named.get(channel.name, channel) for channel in own)
