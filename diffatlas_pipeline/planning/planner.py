"""The planner: fingerprint + budget -> plan. A pure function; each choice leaves its reason in ``Plan.why``."""

from __future__ import annotations

import math

import numpy as np

from diffatlas_pipeline.datasets.splits import FOLDS
from diffatlas_pipeline.diffusion.levels import cosine_alpha_bar
from diffatlas_pipeline.diffusion.plan import DiffusionPlan
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.networks.memory import training_bytes
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.planning.coarser import coarser_spacing
from diffatlas_pipeline.planning.diffusion_steps import (
    ALLOWED_LOSS,
    MOST_STEPS,
    choose_diffusion_steps,
    variance_loss,
)
from diffatlas_pipeline.planning.fingerprint import Fingerprint
from diffatlas_pipeline.planning.plan import AugmentationPlan, Budget, Plan, PlanRecipes, TrainingPlan
from diffatlas_pipeline.planning.rules import (
    in_plane_axes,
    median_shape,
    plan_channels,
    plan_distance,
    plan_spacing,
    planned_shape,
)
from diffatlas_pipeline.planning.symmetry import X_AXIS, names_a_side, twins_by_name
from diffatlas_pipeline.planning.topology import TrainingBytes, plan_batch_size, plan_topology, preset_named
from diffatlas_pipeline.volumes.grids import Triple, TripleMm

ROTATION_DEGREES = 15.0
ZOOM = (0.85, 1.18)
ELASTIC = 0.3  # better with few cases than none (what-was-tried.md)
REFERENCE_PATCHES = 160  # data-set size, in patches, for which a preset's middle number of iterations is meant
EMA_FRACTION = 0.05


def make_plan(
    fingerprint: Fingerprint,
    budget: Budget,
    recipes: PlanRecipes,
    training_bytes: TrainingBytes = training_bytes,
    spacing: tuple[TripleMm, str] | None = None,
) -> Plan:
    """Plan everything from the fingerprint and the budget alone; ``recipes`` are those that the plan holds, by method.

    ``training_bytes(network, channels, patch, batch)`` tells the memory of a training step. ``spacing`` in mm, and why,
    takes the place of the planned one. Equal arguments give equal plans. Raises UserError for an unknown preset or a
    budget too small.
    """
    if not fingerprint.cases:
        raise UserError("The fingerprint holds no case: nothing can be planned from it. Measure one with training cases.")
    dimensions, description = fingerprint.dimensions, fingerprint.description
    why: dict[str, str] = {}
    spacing_mm, why["spacing_mm"] = spacing or planned_spacing(fingerprint, budget)
    median = median_shape(fingerprint.cases, spacing_mm)
    joint_channels = len(description.channels) + len(description.labels)
    network, patch_size, reasons = plan_topology(budget, median, spacing_mm, joint_channels, training_bytes, dimensions)
    why.update(reasons)
    channels, why["channels"] = plan_channels(description.channels, fingerprint.intensities)
    distance, why["distance"] = plan_distance(fingerprint.labels, spacing_mm, dimensions)
    diffusion, why["diffusion"] = _plan_diffusion(fingerprint)
    training, reasons = plan_training(fingerprint, budget, network, patch_size, spacing_mm, training_bytes)
    why.update(reasons)
    augmentation, reasons = _plan_augmentation(fingerprint, spacing_mm)
    why.update(reasons)
    why["folds"] = _folds_reason(len(fingerprint.cases))
    return Plan(
        dataset=description,
        budget=budget,
        dimensions=dimensions,
        spacing_mm=spacing_mm,
        patch_size=patch_size,
        channels=channels,
        distance=distance,
        network=network,
        diffusion=diffusion,
        training=training,
        augmentation=augmentation,
        recipes=recipes,
        why=why,
    )


def planned_spacing(fingerprint: Fingerprint, budget: Budget) -> tuple[TripleMm, str]:
    """Spacing in mm, and why."""
    dimensions, preset = fingerprint.dimensions, preset_named(budget.preset)
    finest_mm, reason = plan_spacing(fingerprint.cases, dimensions)
    spacing_mm, coarser = coarser_spacing(preset, fingerprint.cases, fingerprint.labels, finest_mm, dimensions)
    return spacing_mm, reason + coarser


def _plan_diffusion(fingerprint: Fingerprint) -> tuple[DiffusionPlan, str]:
    spectra = {"image": fingerprint.image_spectrum, "distance maps": fingerprint.distance_spectrum}
    steps = choose_diffusion_steps(list(spectra.values()), cosine_alpha_bar)
    schedule = cosine_alpha_bar(steps)
    losses = ", ".join(f"{name} {variance_loss(spectrum, schedule):.1%}" for name, spectrum in spectra.items())
    lost = f"variance lost by ancestral sampling: {losses} (closed form for Gaussian data of the same spectra)"
    if any(variance_loss(spectrum, schedule) > ALLOWED_LOSS for spectrum in spectra.values()):
        return DiffusionPlan("cosine", steps), f"{MOST_STEPS} at most, though more than {ALLOWED_LOSS:.0%} is lost; {lost}"
    return DiffusionPlan("cosine", steps), f"the fewest that lose at most {ALLOWED_LOSS:.0%}; {lost}"


def plan_training(
    fingerprint: Fingerprint,
    budget: Budget,
    network: NetworkPlan,
    patch_size: Triple,
    spacing_mm: TripleMm,
    training_bytes: TrainingBytes = training_bytes,
) -> tuple[TrainingPlan, dict[str, str]]:
    """The training of ``network`` in patches of ``patch_size`` voxels of ``spacing_mm``, and why it is so.

    Iterations grow with the square root of the data set's size in patches, within the preset's range.
    """
    preset, description = preset_named(budget.preset), fingerprint.description
    shapes = np.array([planned_shape(case, spacing_mm) for case in fingerprint.cases])
    voxels, channels = int(np.prod(shapes, axis=1).sum()), len(description.channels) + len(description.labels)
    batch_size, why_batch = plan_batch_size(budget, network, patch_size, channels, voxels, training_bytes)
    patches = voxels / math.prod(patch_size)
    fewest, usual, most = preset.iterations
    iterations = int(np.clip(round(usual * math.sqrt(patches / REFERENCE_PATCHES) / 500) * 500, fewest, most))
    plan = TrainingPlan(
        iterations=iterations,
        batch_size=batch_size,
        learning_rate=preset.learning_rate,
        warmup_fraction=0.05,
        weight_decay=1e-4,
        gradient_clip=1.0,
        ema_fraction=EMA_FRACTION,
        optimiser="muon",
    )
    why = (
        f"iterations grow with the square root of the data set's size ({patches:.0f} patches; {usual} for "
        f"{REFERENCE_PATCHES}), within {fewest} to {most}; learning rate of preset {budget.preset}"
    )
    return plan, {"batch_size": why_batch, "training": why}


def _plan_augmentation(fingerprint: Fingerprint, spacing_mm: TripleMm) -> tuple[AugmentationPlan, dict[str, str]]:
    dimensions = fingerprint.dimensions
    coarse = [axis for axis in range(dimensions) if axis not in in_plane_axes(spacing_mm, dimensions)]
    if dimensions == 2:
        rotation, reason = (0.0, 0.0, ROTATION_DEGREES), "two-dimensional: rotations about Z only"
    elif coarse:
        x, y, z = (ROTATION_DEGREES if [axis] == coarse else 0.0 for axis in range(3))
        rotation = (x, y, z)
        reason = f"rotations within the plane only: {' and '.join('XYZ'[axis] for axis in coarse)} is much coarser"
    else:
        rotation, reason = (
            (ROTATION_DEGREES, ROTATION_DEGREES, ROTATION_DEGREES),
            "rotations about all axes: the spacing is nearly isotropic",
        )
    mirror_axes, mirror_reason = _mirror_axes(fingerprint)
    plan = AugmentationPlan(rotation, ZOOM, mirror_axes, True, ELASTIC)
    return plan, {"augmentation": reason, "mirroring": mirror_reason}


def _mirror_axes(fingerprint: Fingerprint) -> tuple[tuple[int, ...], str]:
    """Axes across which a mirrored case could be one of the data set's own: a generative atlas would learn the others'
    as real.

    An axis is allowed only if every label, and the image around it, is symmetric across it by the fingerprint's
    evidence, no label has another one as its mirror image, and, for X, no label's name says left or right.
    """
    allowed, reasons = [], []
    labels = [label for label in fingerprint.labels if label.cases]
    for axis in range(fingerprint.dimensions):
        key, name = str(axis), "XYZ"[axis]
        twins = [
            (label.name, label.mirror_twin_axis[key])
            for label in labels
            if label.mirror_twin_axis.get(key, label.name) != label.name
        ]
        sided = [label.name for label in labels if names_a_side(label.name)] if key == X_AXIS else []
        lopsided = [label.name for label in labels if key not in label.mirror_twin_axis]
        if twins:
            first, second = twins[0]
            by_name = key == X_AXIS and twins_by_name([first, second])  # what is left and right need not look alike: ventricles
            are = "are left and right" if by_name else "are mirror images of each other"
            reasons.append(f"{name}: never, {first} and {second} {are}")
        elif sided:
            reasons.append(f"{name}: never, {sided[0]} names a side")
        elif lopsided:
            reasons.append(f"{name}: no, the data set is not seen to be symmetric ({lopsided[0]})")
        else:
            allowed.append(axis)
            reasons.append(f"{name}: yes, labels and images are symmetric")
    return tuple(allowed), "; ".join(reasons)


def _folds_reason(cases: int) -> str:
    if cases == 1:
        return "a single case: it trains, and nothing is left to validate on (fold0 and all are the same)"
    if cases < FOLDS:
        return f"{cases} cases: {cases} folds, each validating on one case; split all trains on everything without validation"
    return f"{FOLDS} folds; split all trains on everything without validation"
