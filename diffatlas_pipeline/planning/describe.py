"""The plan as a table for people: what was chosen, and why."""

from __future__ import annotations

import textwrap

from diffatlas_pipeline.planning.plan import Plan

WIDTH = 120
BUDGET = "device as asked for, or found; memory as asked for (default 8 GB)"


def plan_table(plan: Plan, beside: Plan | None = None) -> str:
    """A readable table of ``plan`` with its reasons, at most 120 characters wide; without what is the same in the plan
    ``beside`` it.
    """
    rows = [row for row in _rows(plan) if beside is None or row not in _rows(beside)]
    first = max(len(name) for name, _, _ in rows)
    second = min(40, max(len(value) for _, value, _ in rows))
    third = WIDTH - first - second - 4
    lines = [f"{'choice':<{first}}  {'value':<{second}}  why", f"{'-' * first}  {'-' * second}  {'-' * third}"]
    for name, value, why in rows:
        values = textwrap.wrap(value, second) or [""]
        reasons = textwrap.wrap(why, third) or [""]
        for index in range(max(len(values), len(reasons))):
            cells = (name if index == 0 else "", values[index : index + 1], reasons[index : index + 1])
            lines.append(f"{cells[0]:<{first}}  {''.join(cells[1]):<{second}}  {''.join(cells[2])}".rstrip())
    return "\n".join(lines)


def _rows(plan: Plan) -> list[tuple[str, str, str]]:
    why = plan.why
    network, training, augmentation = plan.network, plan.training, plan.augmentation
    cases = {
        "ct": "{0.name}: clip to {0.lower:g} .. {0.upper:g}",
        "fixed": "{0.name}: {0.lower:g} .. {0.upper:g}",
        "percentile": "{0.name}: percentiles {0.lower:g} to {0.upper:g}",
    }
    rotations = ", ".join(f"{degrees:g}" for degrees in augmentation.rotation_degrees)
    mirrors = ", ".join("XYZ"[axis] for axis in augmentation.mirror_axes) or "no axis"
    recipes = ", ".join(
        f"{method} {name} ({sampler['solver']}, steps: {sampler['steps'] or plan.diffusion.training_steps})"
        for method, known in plan.recipes.items()
        for name, recipe in known.items()
        if (sampler := recipe.get("sampler"))
    )
    budget = plan.budget
    return [
        ("budget", f"{budget.memory_gb:g} GB, {budget.device}, preset {budget.preset}", BUDGET),
        ("dimensions", str(plan.dimensions), "as the images are"),
        ("spacing", " x ".join(f"{value:g}" for value in plan.spacing_mm) + " mm", why["spacing_mm"]),
        ("patch size", _shape(plan.patch_size), why["patch_size"]),
        ("network", f"widths {', '.join(map(str, network.widths))}", why["network"]),
        ("strides", " | ".join(_shape(stride) for stride in network.strides), "per stage, the first one is the stem's"),
        ("kernels", " | ".join(_shape(kernel) for kernel in network.kernels), "per stage"),
        ("batch size", str(training.batch_size), why["batch_size"]),
        ("normalisation", "; ".join(cases[channel.scheme].format(channel) for channel in plan.channels), why["channels"]),
        ("tau", f"{plan.distance.tau_mm:g} mm, scale {plan.distance.scale:g}", why["distance"]),
        ("diffusion steps T", f"{plan.diffusion.training_steps} ({plan.diffusion.schedule})", why["diffusion"]),
        (
            "iterations",
            f"{training.iterations}, {training.optimiser}, learning rate {training.learning_rate:g}",
            why["training"],
        ),
        ("rotation", f"{rotations} degrees about X, Y, Z", why["augmentation"]),
        ("mirroring", mirrors, why["mirroring"]),
        ("elastic", f"{augmentation.elastic:.0%} of the patches", "smooth deformation: as if there were more anatomies"),
        (
            "contrast",
            "as scanned",
            "`any_contrast` of training paints a third of the samples anew, for scans of other modalities",
        ),
        ("folds", "", why["folds"]),
        (
            "recipes",
            recipes,
            "training chooses one, by method and name; one step gives the mean of all that fits; a second one, told that the "
            "mask is its own answer, changes Dice by 0.0004 at most, and adds 0.03 on hearts of a modality not learnt",
        ),
    ]


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)
