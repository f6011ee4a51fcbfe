"""How much memory the segmentation of a scan takes, told before it starts."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.errors import ImageError, UserError
from diffatlas_pipeline.machine import available_bytes, resident_bytes
from diffatlas_pipeline.methods.base import DiffusionRecipe, Recipe
from diffatlas_pipeline.methods.joint_recipe import JointRecipe
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.scratch import Scratch, free_on_disk
from diffatlas_pipeline.volumes.grids import Grid, Triple
from diffatlas_pipeline.volumes.io import read_grid
from diffatlas_pipeline.volumes.orientation import canonical_grid
from diffatlas_pipeline.volumes.resample import resampled_shape

_FLOAT = 4
_HEADERS = 5  # of the largest files are read to tell which scan is the largest
_COPIES_OF_A_ROW = 7  # sums of this row and of the last, its clean data, what a step makes of it, and that of the files
_BESIDE = 50_000_000  # bytes of what is loaded only then, and of what a network makes of a window, about
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
    arrays, remembered = state, 0
    if isinstance(recipe, DiffusionRecipe):
        sampler = recipe.sampler
        arrays += state * (sampler.answer == "mean")
        arrays += state * (sampler.solver == "ddpm" or (sampler.solver == "ddim" and sampler.eta > 0))
        arrays += 2 * masks * (sampler.draws > 1)
        remembered = state * (sampler.solver == "dpmpp_2m")  # the predictions of the step before, never in a file
    if isinstance(recipe, JointRecipe):
        arrays += images * (recipe.guidance.level > 0)
        arrays = max(arrays, masks + state)  # compared with what the model has learnt
    in_files, restored = row + remembered * volume, _RESTORED * math.prod(native)
    return Need(max(arrays * volume + in_files, masks * volume + restored), max(in_files, restored), arrays * volume)


def need_of_scan(plan: Plan, recipe: Recipe, grid: Grid) -> Need:
    """Of a scan that is not prepared yet, by its ``grid``: as much at most, since it may be cropped."""
    upright = canonical_grid(grid)
    spacing_mm = plan.spacing_mm if plan.dimensions == 3 else (*plan.spacing_mm[:2], upright.spacing_mm[2])
    planned = resampled_shape(upright.shape, upright.spacing_mm, spacing_mm)
    found = need_of(plan, recipe, planned, upright.shape)
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


def largest_scan(cases: Sequence[CaseFiles]) -> tuple[CaseFiles, Grid] | None:
    """That of most voxels among those whose files are the largest; None if there is none that can be read."""
    found: list[tuple[CaseFiles, Grid]] = []
    for files in sorted(cases, key=_bytes_of, reverse=True)[:_HEADERS]:
        with contextlib.suppress(UserError):  # which is said when it is to be segmented
            found.append((files, read_grid(files.images[0])))
    return max(found, key=lambda one: math.prod(one[1].shape)) if found else None


def in_words(name: str, grid: Grid, need: Need) -> str:
    """What a scan takes, with what this process has taken already, for the user, before anything is done."""
    free, now = available_bytes(), resident_bytes()
    memory, files = ((now + _BESIDE + most) / 1e9 for most in (need.in_memory, need.in_files))
    begin = f"Largest scan: {name}, {' x '.join(str(n) for n in grid.shape)} voxels. To segment it "
    if free is None:
        return f"{begin}takes up to {memory:.1f} GB of memory."
    of = f"of {(now + free) / 1e9:.1f} GB"
    if need.in_memory <= free:
        return f"{begin}takes up to {memory:.1f} GB {of}."
    return (
        f"{begin}would take up to {memory:.1f} GB {of}. With {need.disk / 1e9:.1f} GB in files of the temporary folder "
        f"({free_on_disk() / 1e9:.1f} GB are free there) it takes up to {files:.1f} GB."
    )


def _bytes_of(files: CaseFiles) -> int:
    try:
        return sum(part.stat().st_size for image in files.images for part in ([image] if image.is_file() else image.iterdir()))
    except OSError:
        return 0
