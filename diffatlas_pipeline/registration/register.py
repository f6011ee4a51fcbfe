"""Multi-atlas registration and segmentation: affine, then deformable, and a simpler map where one fails."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.registration.affine import RegistrationFailed, align, centre_matrix
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.registration.deformable import DeformableSettings, deform
from diffatlas_pipeline.registration.frame import by_way_of
from diffatlas_pipeline.registration.fusion import FUSIONS, weights_of
from diffatlas_pipeline.registration.selection import aligned_likeness, best, centred_likeness
from diffatlas_pipeline.registration.threads import side_by_side
from diffatlas_pipeline.registration.warp import affine_coordinates, outside, voxel_grid, warp_distances, warp_image
from diffatlas_pipeline.volumes.grids import Box

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]

MARGIN = 0.1  # of the atlases' extent: how far beyond it a deformation may have to reach
FEWEST_VOXELS = 4  # along each axis, of what is registered in space
LEADS = 4  # that many atlases are aligned on their own; the best of them leads the others
COMPARED_VOXELS = 2**21  # of a large target, about so many say how like an atlas is


@dataclass(frozen=True)
class AtlasSettings:
    """How a target is segmented by its atlases."""

    registration: str = "deformable"  # "affine" or "deformable"
    fusion: str = "votes"  # a name in FUSIONS
    atlases: int = 12  # that many are registered deformably
    aligned: int = 24  # that many are aligned affinely, to choose among them
    deformable: DeformableSettings = field(default_factory=DeformableSettings)
    overlapping: bool = False  # a voxel may have several labels: each is fused by itself


@dataclass(frozen=True)
class Registered:
    """N atlases on the grid of a target, or on that ``box`` of it which they reach, where the target is much larger.

    ``images`` (N, C, X, Y, Z) in [-1, 1], ``distances`` (N, K, X, Y, Z) in units of tau; ``weights`` (N, X, Y, Z) > 0,
    how far to trust each atlas at each voxel. ``used``: name of each atlas, and how it was registered. float32.
    """

    images: np.ndarray
    distances: np.ndarray
    weights: np.ndarray
    used: tuple[tuple[str, str], ...]
    box: Box | None = None
    target_shape: tuple[int, ...] = ()

    def on_target(self, array: np.ndarray, elsewhere: float) -> np.ndarray:
        """``array`` (n, X, Y, Z), which lies in the box, on the whole grid of the target."""
        if self.box is None:
            return array
        whole = np.full((len(array), *self.target_shape), elsewhere, array.dtype)
        whole[(slice(None), *self.box)] = array
        return whole


@dataclass(frozen=True)
class Fused:
    """``distances`` (K, X, Y, Z) float32 in units of tau; ``used``: each atlas that took part, and how."""

    distances: np.ndarray
    used: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Aligned:
    atlas: Atlas
    matrix: np.ndarray
    how: str  # "affine", or "centre" where the affine registration failed
    likeness: float


def segment_by_atlases(
    target: np.ndarray,
    atlases: Sequence[Atlas],
    spacing_mm: Sequence[float],
    tau_mm: float,
    settings: AtlasSettings,
    seed: int = 0,
    case: str = "",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Fused:
    """Segment ``target`` (C, X, Y, Z) float32 in [-1, 1] by registration of ``atlases`` and fusion of their distance
    maps.

    Atlases are registered side by side in ``workers`` threads (default: one per core; the registration holds no lock).
    The result does not depend on their number. Raises UserError naming ``case`` if no atlas can be aligned.
    """
    if settings.fusion not in FUSIONS:
        raise UserError(f"fusion '{settings.fusion}' is unknown; known: {', '.join(FUSIONS)}.")
    registered = register_atlases(target, atlases, spacing_mm, tau_mm, settings, seed, case, workers, progress)
    return fuse(registered, spacing_mm, tau_mm, settings.fusion, settings.overlapping)


def fuse(registered: Registered, spacing_mm: Sequence[float], tau_mm: float, fusion: str, overlapping: bool = False) -> Fused:
    """The labels of ``registered`` atlases fused by the rule called ``fusion``, each by itself if they may overlap."""
    rule, all_distances = FUSIONS[fusion], registered.distances
    parts = [all_distances[:, k : k + 1] for k in range(all_distances.shape[1])] if overlapping else [all_distances]
    fused = np.concatenate([rule(part, registered.weights, spacing_mm, tau_mm) for part in parts])
    fused = registered.on_target(np.clip(fused, -1, 1).astype(np.float32), 1)  # far from everything
    return Fused(fused, registered.used)


def register_atlases(
    target: np.ndarray,
    atlases: Sequence[Atlas],
    spacing_mm: Sequence[float],
    tau_mm: float,
    settings: AtlasSettings,
    seed: int = 0,
    case: str = "",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Registered:
    """Those of ``atlases`` that look most like ``target`` (C, X, Y, Z), carried to its grid; see
    :func:`segment_by_atlases`.
    """
    if settings.registration not in ("affine", "deformable"):
        raise UserError(f"registration '{settings.registration}' is unknown; known: affine, deformable.")
    full = target.shape[1:]
    count = min(settings.atlases, len(atlases))
    aligned_count = min(max(settings.aligned, count), len(atlases))
    steps = _Steps(progress, aligned_count + count)
    with side_by_side(len(atlases), workers) as threads:
        scores = list(threads.map(lambda one: centred_likeness(target, one.image.astype(np.float32), spacing_mm), atlases))
        chosen = best(scores, aligned_count)
        leads = best([scores[index] for index in chosen], LEADS)
        aligned = _all_aligned(target, [atlases[index] for index in chosen], leads, spacing_mm, seed, threads, steps)
        if all(one.how == "centre" for one in aligned):
            short = [f"{n} along {axis}" for n, axis in zip(full, "xyz", strict=True) if n < FEWEST_VOXELS and full[2] > 1]
            help_ = (
                f"It has too few voxels to be registered in space ({', '.join(short)}; {FEWEST_VOXELS} are needed): use a "
                "method that learns, such as diffatlas."
                if short
                else "Check that the scan is not empty and shows the same part of the body as the training cases."
            )
            raise UserError(f"{case + ': ' if case else ''}none of {len(aligned)} atlas(es) could be aligned to it. {help_}")
        likely = [aligned[index] for index in best([one.likeness for one in aligned], count)]
        box = _reached(full, likely)
        if box is not None:
            target = np.ascontiguousarray(target[(slice(None), *box)])
            likely = [replace(one, matrix=_from_within(one.matrix, box)) for one in likely]
        carried = list(threads.map(lambda one: steps.done(_carry(target, one, spacing_mm, tau_mm, settings)), likely))
    images, distances, weights = (np.stack([one[part] for one in carried]) for part in range(3))
    return Registered(
        images,
        distances,
        weights,
        tuple((one.atlas.name, how) for one, (*_, how) in zip(likely, carried, strict=True)),
        box,
        full,
    )


def _all_aligned(
    target: np.ndarray,
    atlases: Sequence[Atlas],
    leads: Sequence[int],
    spacing_mm: Sequence[float],
    seed: int,
    threads: Executor,
    steps: _Steps,
) -> list[_Aligned]:
    """Each of ``atlases``, those with the indices ``leads`` first; the others, and these again, by way of the best of
    them.

    On targets of another modality, many that are aligned on their own go astray (what-was-tried.md).
    """
    first = list(threads.map(lambda index: steps.done(_align(target, atlases[index], (), spacing_mm, seed)), leads))
    alone = dict(zip(leads, first, strict=True))
    lead = max(first, key=lambda one: one.likeness)

    def led(index: int) -> _Aligned:
        known = alone.get(index)
        start = by_way_of(lead.atlas, lead.matrix, atlases[index]) if lead.how == "affine" and known is not lead else None
        if known is not None and start is None:
            return known
        found = _align(target, atlases[index], () if start is None else (start,), spacing_mm, seed)
        return steps.done(found) if known is None else max([known, found], key=lambda one: one.likeness)

    return list(threads.map(led, range(len(atlases))))


def _align(target: np.ndarray, atlas: Atlas, starts: Sequence[np.ndarray], spacing_mm: Sequence[float], seed: int) -> _Aligned:
    """The affine map by the first channel; volume centre on volume centre where that fails."""
    image = atlas.image.astype(np.float32)
    try:
        matrix, how = align(target[0], image[0], spacing_mm, seed, starts), "affine"
    except RegistrationFailed:
        matrix, how = centre_matrix(target.shape[1:], image.shape[1:]), "centre"
    step = max(1, round((math.prod(target.shape[1:]) / COMPARED_VOXELS) ** (1 / 3)))
    seen = target[:, ::step, ::step, ::step]
    coordinates = affine_coordinates(matrix, voxel_grid(seen.shape[1:]) * step)
    warped = np.stack([warp_image(channel, coordinates) for channel in image])
    likeness = aligned_likeness(seen, warped) if how == "affine" else -1.0
    return _Aligned(atlas, matrix, how, likeness)


def _reached(shape: Sequence[int], aligned: Sequence[_Aligned]) -> Box | None:
    """The box of a target of ``shape`` that the aligned atlases reach, with a margin; None if it is half of the target
    or more.

    Scans of the whole body would otherwise cost memory and time for what no atlas knows.
    """
    corners = []
    for one in aligned:
        ends = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in one.atlas.image.shape[1:])))).T
        corners.append(np.linalg.solve(one.matrix[:, :3], ends - one.matrix[:, 3:]))
    low, high = (np.min(corners, axis=(0, 2)), np.max(corners, axis=(0, 2)))
    margin = MARGIN * (high - low)
    start = np.clip(np.floor(low - margin), 0, shape).astype(int)
    stop = np.clip(np.ceil(high + margin) + 1, 0, shape).astype(int)
    if (stop <= start).any() or 2 * math.prod(stop - start) > math.prod(shape):
        return None
    x, y, z = (slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    return x, y, z


def _from_within(matrix: np.ndarray, box: Box) -> np.ndarray:
    """``matrix`` (3, 4) for voxels that are counted from the corner of ``box``."""
    start = np.array([[one.start] for one in box], matrix.dtype)
    return np.concatenate([matrix[:, :3], matrix[:, :3] @ start + matrix[:, 3:]], axis=1)


def _carry(
    target: np.ndarray, aligned: _Aligned, spacing_mm: Sequence[float], tau_mm: float, settings: AtlasSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """The atlas' image and distance maps on the target's grid, its weight at each voxel, and how it was registered."""
    image = aligned.atlas.image.astype(np.float32)
    coordinates, how = affine_coordinates(aligned.matrix, voxel_grid(target.shape[1:])), aligned.how
    if settings.registration != "affine" and aligned.how == "affine":
        try:
            found = deform(target, image, aligned.matrix, spacing_mm, settings.deformable)
            if np.isfinite(found).all():
                coordinates, how = found, settings.registration
        except (RegistrationFailed, FloatingPointError, np.linalg.LinAlgError):
            pass  # the affine map stays
    known = (outside(coordinates, image.shape[1:]) == 0).all(axis=0)
    warped = np.stack([warp_image(channel, coordinates) for channel in image])
    distances = warp_distances(aligned.atlas.distances.astype(np.float32), coordinates, spacing_mm, tau_mm)
    return warped, distances, weights_of(target, warped, known, spacing_mm), how


class _Steps:
    """Counts what is done; results come back in order, from one thread or many."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._count = progress, total, 0

    def done(self, result: Result) -> Result:
        self._count += 1
        if self._progress is not None:
            self._progress(self._count, self._total)
        return result
