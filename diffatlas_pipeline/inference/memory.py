"""How much memory the segmentation of a scan takes, told before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.machine import available_bytes
from diffatlas_pipeline.methods.base import DiffusionRecipe, Recipe
from diffatlas_pipeline.methods.joint_recipe import JointRecipe
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.scratch import Scratch, free_on_disk
from diffatlas_pipeline.volumes.grids import Grid, Triple
from diffatlas_pipeline.volumes.resample import resampled_shape

_FLOAT = 4
_COPIES_OF_A_ROW = 4  # sums of this row and of the last, its clean data, and what a step makes of it
_RESTORED = 24  # bytes per voxel of the scan: one label's distances and what resampling makes of it, the nearest so far
_PREPARED = 24  # bytes per voxel and channel of the scan: as it was read, upright, cropped, normalised, resampled


@dataclass(frozen=True)
class Need:
    """Bytes that a segmentation takes beside the network: ``in_memory`` with all in memory; ``in_files`` with what has
    many channels and is as large as the scan in files of ``disk`` bytes.
    """

    in_memory: int
    in_files: int
    disk: int


def need_of(plan: Plan, recipe: Recipe, planned: Triple, native: Triple) -> Need:
    """Of a scan that is prepared: ``planned`` and ``native`` are its shapes."""
    images, masks = len(plan.channels), len(plan.dataset.labels)
    joint = isinstance(recipe, JointRecipe)
    state = (images if joint else 0) + masks
    x, y, z = (max(size, window) for size, window in zip(planned, plan.patch_size, strict=True))
    volume = _FLOAT * x * y * z
    row = _COPIES_OF_A_ROW * (images + masks) * _FLOAT * min(x, plan.patch_size[0]) * y * z
    arrays, draws = 1.0 * state, 1
    if isinstance(recipe, DiffusionRecipe):
        sampler, draws = recipe.sampler, recipe.sampler.draws
        arrays += state * (sampler.answer == "mean")
        arrays += state * (sampler.solver == "ddpm" or (sampler.solver == "ddim" and sampler.eta > 0))
        arrays += state * (sampler.solver == "dpmpp_2m")
        arrays += 2 * masks * (draws > 1)
    if isinstance(recipe, JointRecipe):
        arrays += images * (recipe.guidance.level > 0)
        arrays = max(arrays, masks + state)  # compared with what the model has learnt
    whole, restored = round(arrays * volume), _RESTORED * math.prod(native)
    return Need(max(whole + row, masks * volume + restored), max(row, restored), whole)


def need_of_scan(plan: Plan, recipe: Recipe, grid: Grid) -> Need:
    """Of a scan that is not prepared yet, by its ``grid``: as much at most, since it may be cropped."""
    planned = resampled_shape(grid.shape, grid.spacing_mm, plan.spacing_mm)
    found = need_of(plan, recipe, planned, grid.shape)
    images = len(plan.channels)
    read, image = _PREPARED * images * math.prod(grid.shape), _FLOAT * images * math.prod(planned)
    return Need(max(read, image + found.in_memory), max(read, image + found.in_files), found.disk)


def scratch_for(need: Need, source: str) -> Scratch:
    """Where arrays as large as a scan are made. ImageError if there is not enough memory either way."""
    free = available_bytes()
    if free is None or need.in_memory <= free:
        return Scratch()
    if need.in_files > free:
        raise ImageError(
            f"{source}: to segment it takes {need.in_files / 1e9:.1f} GB, though what is largest is kept in files; "
            f"{free / 1e9:.1f} GB of memory are free. Crop it, or use a computer with more memory."
        )
    return Scratch(on_disk=True)


def told(name: str, grid: Grid, need: Need) -> str:
    """A sentence for the user, before anything is done."""
    free, shape = available_bytes(), " x ".join(str(n) for n in grid.shape)
    begin = f"Largest scan: {name}, {shape} voxels. "
    if free is None or need.in_memory <= free:
        of = "" if free is None else f" of {free / 1e9:.1f} GB that are free"
        return f"{begin}It takes up to {need.in_memory / 1e9:.1f} GB of memory{of}."
    return (
        f"{begin}It would take up to {need.in_memory / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free: with up to "
        f"{need.disk / 1e9:.1f} GB of it in files of the temporary folder ({free_on_disk() / 1e9:.1f} GB are free) it takes "
        f"{need.in_files / 1e9:.1f} GB."
    )
