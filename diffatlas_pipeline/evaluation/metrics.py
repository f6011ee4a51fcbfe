"""Overlap and surface agreement of two masks.

Surfaces follow the definition of DeepMind's ``surface-distance`` (Nikolov et al. 2021, "Clinically Applicable
Segmentation of Head and Neck Anatomy", section "Metrics"): surface elements lie between voxel centres, one for each
2x2x2 neighbourhood that holds both inside and outside voxels, and count with the area of the marching-cubes surface in
it. Masks with a single slice are treated in the plane: elements are 2x2 neighbourhoods and count with the length of
their contour.

Empty masks: both empty, nothing can be said, every metric is NaN and the case does not count; one empty, the structure
was missed or invented, Dice and NSD are 0 and HD95 is the length of the volume's diagonal. So a missed structure never
improves a score.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from diffatlas_pipeline.volumes.grids import Grid, TripleMm

EMPTY_RULE = (
    "Both masks empty: not counted. One mask empty: Dice 0, NSD 0, HD95 the diagonal of the volume. "
    "HD95: the larger of the two directed 95th percentiles, surface elements weighted with their area."
)


@dataclass(frozen=True)
class Scores:
    """Agreement of one label in one case; NaN where both masks are empty. Volumes in mm3."""

    dice: float
    nsd: float
    hd95_mm: float
    volume_prediction_mm3: float
    volume_reference_mm3: float


def score(
    prediction: np.ndarray, reference: np.ndarray, grid: Grid, tolerance_mm: float, unknown: np.ndarray | None = None
) -> Scores:
    """All metrics of two boolean masks (X, Y, Z) on ``grid``, the surfaces being found once.

    Voxels that are ``unknown`` (X, Y, Z) in the reference count in no metric, nor do surface elements next to them;
    distances to the reference's surface are measured as if it ran there as the prediction's does.
    """
    axes_mm = grid.matrix[:3, :3] if grid.is_sheared else None
    if unknown is not None and unknown.any():
        filled = np.where(unknown, prediction, reference)
        surfaces = surface_distances(prediction, filled, grid.spacing_mm, axes_mm, unknown)
        prediction, reference = prediction & ~unknown, reference & ~unknown
    else:
        surfaces = surface_distances(prediction, reference, grid.spacing_mm, axes_mm)
    volumes = (float(np.count_nonzero(mask) * grid.voxel_mm3) for mask in (prediction, reference))
    return Scores(dice(prediction, reference), nsd(surfaces, tolerance_mm), hd95_mm(surfaces), *volumes)


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two boolean masks; NaN if both are empty."""
    _same_shape(prediction, reference)
    total = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return float(2 * np.count_nonzero(prediction & reference) / total) if total else math.nan


def volume_mm3(mask: np.ndarray, spacing_mm: TripleMm) -> float:
    """Volume of a boolean mask (X, Y, Z) in mm3."""
    return float(np.count_nonzero(mask) * np.prod(spacing_mm))


def surface_mm2(mask: np.ndarray, spacing_mm: TripleMm) -> float:
    """Area in mm2 of the surface of a boolean mask (X, Y, Z); of a single slice, the length in mm of its contour."""
    flat = mask.shape[2] == 1
    inside, spacing = (mask[..., 0], spacing_mm[:2]) if flat else (mask, spacing_mm)
    return float(_element_sizes(spacing)[_neighbour_codes(inside[_box(inside)])].sum())


@dataclass(frozen=True)
class SurfaceDistances:
    """Of each surface element: the distance in mm to the other surface, and its own area in mm2 (length in mm if
    flat).
    """

    to_reference_mm: np.ndarray
    areas_prediction: np.ndarray
    to_prediction_mm: np.ndarray
    areas_reference: np.ndarray
    diagonal_mm: float


def surface_distances(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: TripleMm,
    axes_mm: np.ndarray | None = None,
    left_out: np.ndarray | None = None,
) -> SurfaceDistances:
    """Distances between the surfaces of two boolean masks (X, Y, Z); infinite where the other mask is empty.

    ``axes_mm`` (3, 3) are the edges of a voxel as columns where they are not perpendicular. Elements next to voxels
    that are ``left_out`` (X, Y, Z) are not listed, but distances are measured to them, too.
    """
    _same_shape(prediction, reference)
    diagonal_mm = math.hypot(*(n * s for n, s in zip(prediction.shape, spacing_mm, strict=True)))
    spacing: tuple[float, ...] = spacing_mm
    if prediction.shape[2] == 1:
        prediction, reference, spacing = prediction[..., 0], reference[..., 0], spacing_mm[:2]
        axes_mm = None if axes_mm is None else axes_mm[:, :2]
        left_out = None if left_out is None else left_out[..., 0]
    box = _box(prediction | reference)
    prediction, reference = prediction[box], reference[box]
    table = _element_sizes(spacing) if axes_mm is None else _sheared_element_sizes(_as_key(axes_mm))
    codes_prediction, codes_reference = _neighbour_codes(prediction), _neighbour_codes(reference)
    border_prediction, border_reference = _is_border(codes_prediction), _is_border(codes_reference)
    counted = np.ones_like(border_prediction)
    if left_out is not None:  # also by what is left out just beyond the box
        counted = _neighbour_codes(left_out)[tuple(slice(part.start, part.stop + 1) for part in box)] == 0
    listed_prediction, listed_reference = border_prediction & counted, border_reference & counted
    return SurfaceDistances(
        _from_to(listed_prediction, border_reference, spacing, axes_mm),
        table[codes_prediction[listed_prediction]],
        _from_to(listed_reference, border_prediction, spacing, axes_mm),
        table[codes_reference[listed_reference]],
        diagonal_mm,
    )


def nsd(surfaces: SurfaceDistances, tolerance_mm: float) -> float:
    """Normalised surface distance: the share of both surfaces' area within ``tolerance_mm`` of the other surface."""
    total = surfaces.areas_prediction.sum() + surfaces.areas_reference.sum()
    if not total:
        return math.nan
    near = surfaces.areas_prediction[surfaces.to_reference_mm <= tolerance_mm].sum()
    near += surfaces.areas_reference[surfaces.to_prediction_mm <= tolerance_mm].sum()
    return float(near / total)


def hd95_mm(surfaces: SurfaceDistances) -> float:
    """The larger of the two directed 95th percentiles of the area-weighted surface distances, in mm."""
    if not len(surfaces.areas_prediction) and not len(surfaces.areas_reference):
        return math.nan
    if not len(surfaces.areas_prediction) or not len(surfaces.areas_reference):
        return surfaces.diagonal_mm
    return max(
        _weighted_percentile(surfaces.to_reference_mm, surfaces.areas_prediction, 0.95),
        _weighted_percentile(surfaces.to_prediction_mm, surfaces.areas_reference, 0.95),
    )


def _weighted_percentile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """The smallest value at or below which at least ``share`` of the weight lies."""
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weights[order])
    index = int(np.searchsorted(cumulative / cumulative[-1], share))
    return float(values[order][min(index, len(values) - 1)])


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around a mask (its whole array if it is empty): distances and borders need nothing beyond it."""
    box = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else slice(0, 1))
    return tuple(box)


def _neighbour_codes(mask: np.ndarray) -> np.ndarray:
    """Which corners of each 2x2(x2) neighbourhood are inside, as bits; one longer than ``mask`` on each axis."""
    padded = np.pad(mask, 1).astype(np.uint8)
    corners = list(np.ndindex((2,) * mask.ndim))
    codes = np.zeros([n + 1 for n in mask.shape], dtype=np.uint8)
    for bit, corner in enumerate(reversed(corners)):
        view = padded[tuple(slice(first, first + n + 1) for first, n in zip(corner, mask.shape, strict=True))]
        codes |= view << bit
    return codes


def _is_border(codes: np.ndarray) -> np.ndarray:
    full = 255 if codes.ndim == 3 else 15
    return (codes != 0) & (codes != full)


def _from_to(border: np.ndarray, other: np.ndarray, spacing_mm: tuple[float, ...], axes_mm: np.ndarray | None) -> np.ndarray:
    """The distance in mm from each element of ``border`` to the nearest of the ``other`` one."""
    if not other.any():
        return np.full(np.count_nonzero(border), math.inf)
    if axes_mm is None:
        return distance_transform_edt(~other, sampling=spacing_mm)[border]
    here, there = (np.argwhere(mask) @ axes_mm.T for mask in (border, other))
    return np.asarray(cKDTree(there).query(here)[0])


@functools.lru_cache(maxsize=64)
def _element_sizes(spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Area in mm2 (length in mm in two dimensions) of the surface element of every neighbour code."""
    if len(spacing_mm) == 2:
        return np.array([_contour_length(code, spacing_mm) for code in range(16)])
    return np.array([_surface_area(code, spacing_mm) for code in range(256)])


@functools.lru_cache(maxsize=64)
def _sheared_element_sizes(axes_mm: tuple[tuple[float, ...], ...]) -> np.ndarray:
    """:func:`_element_sizes` where the edges of a voxel, the columns of ``axes_mm``, are not perpendicular."""
    axes = np.asarray(axes_mm)
    if axes.shape[1] == 2:
        return np.array([_sheared_contour_length(code, axes) for code in range(16)])
    return np.array([_surface_area(code, (1.0, 1.0, 1.0), axes) for code in range(256)])


def _as_key(axes_mm: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in axes_mm)


def _surface_area(code: int, spacing_mm: tuple[float, ...], axes_mm: np.ndarray | None = None) -> float:
    """Area of the classic marching-cubes surface; a code and its complement have the same one, that of fewer inside
    corners.
    """
    if code.bit_count() > 4:
        code = 255 - code
    if code == 0:
        return 0.0
    corners = np.array([code >> (7 - index) & 1 for index in range(8)], dtype=float).reshape(2, 2, 2)
    vertices, faces, _, _ = marching_cubes(corners, 0.5, spacing=spacing_mm, method="lorensen")
    triangles = vertices[faces].astype(float)
    if axes_mm is not None:
        triangles = triangles @ axes_mm.T
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    return float(np.linalg.norm(normals, axis=1).sum() / 2)


def _contour_length(code: int, spacing_mm: tuple[float, ...]) -> float:
    """Length of the contour through the edge midpoints of a 2x2 neighbourhood."""
    corners = np.array([code >> (3 - index) & 1 for index in range(4)]).reshape(2, 2)
    diagonal = 0.5 * math.hypot(*spacing_mm)
    if corners.sum() in (1, 3):
        return diagonal
    if corners.sum() != 2:
        return 0.0
    if corners[0, 0] == corners[1, 1]:
        return 2 * diagonal
    return spacing_mm[0] if corners[0, 0] == corners[1, 0] else spacing_mm[1]


def _sheared_contour_length(code: int, axes_mm: np.ndarray) -> float:
    """:func:`_contour_length` for edges (3, 2) that are not perpendicular."""
    corners = np.array([code >> (3 - index) & 1 for index in range(4)]).reshape(2, 2)
    first, second = axes_mm.T
    # Off the corners (0, 0) and (1, 1) the contour runs along first - second, off the others along their sum.
    off_main, off_other = (0.5 * float(np.linalg.norm(first + sign * second)) for sign in (-1, 1))
    if corners.sum() in (1, 3):
        lone = np.argwhere(corners == (1 if corners.sum() == 1 else 0))[0]
        return off_main if lone[0] == lone[1] else off_other
    if corners.sum() != 2:
        return 0.0
    if corners[0, 0] == corners[1, 1]:
        return 2 * (off_main if corners[0, 0] else off_other)
    return float(np.linalg.norm(first if corners[0, 0] == corners[1, 0] else second))


def _same_shape(prediction: np.ndarray, reference: np.ndarray) -> None:
    if prediction.shape != reference.shape or prediction.dtype != bool or reference.dtype != bool:
        raise ValueError(
            f"prediction {prediction.dtype} {prediction.shape} and reference {reference.dtype} {reference.shape}: "
            "two boolean masks of one shape are needed"
        )
