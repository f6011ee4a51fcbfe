"""Sampling grids in space, the volumes on them, and what tells two grids apart, in millimetres.

Spatial axes are always (X, Y, Z) in the canonical orientation RAS+ unless a name says otherwise; lengths are in mm. A
two-dimensional image is a volume with Z = 1.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diffatlas_pipeline.errors import ImageError

Triple = tuple[int, int, int]
TripleMm = tuple[float, float, float]
Box = tuple[slice, slice, slice]  # part of a volume
_PERPENDICULAR = 1e-3  # cosine of the angle between two axes; headers in single precision are off by less
Affine = tuple[tuple[float, ...], ...]
SFORM = "sform"


@dataclass(frozen=True)
class Grid:
    """A sampling grid in space.

    ``shape`` is (X, Y, Z); ``affine`` the 4x4 voxel-to-world matrix in mm (RAS+ world, as NIfTI); ``dimensions`` is 2
    when the file held a two-dimensional image (then Z = 1), else 3. ``form`` names what a NIfTI header was read by, for
    messages.
    """

    shape: Triple
    affine: Affine
    dimensions: int = 3
    form: str = field(default="", compare=False)

    @property
    def matrix(self) -> np.ndarray:
        """The affine as a (4, 4) float64 array."""
        return np.asarray(self.affine, dtype=np.float64)

    @property
    def spacing_mm(self) -> TripleMm:
        """Voxel edge lengths in mm: the norms of the affine's columns."""
        columns = np.linalg.norm(self.matrix[:3, :3], axis=0)
        return float(columns[0]), float(columns[1]), float(columns[2])

    @property
    def voxel_mm3(self) -> float:
        """The volume of a voxel: the determinant, whatever the angles between its edges. A two-dimensional image is
        1 mm thick.
        """
        if self.dimensions == 2:
            return float(np.linalg.norm(np.cross(self.matrix[:3, 0], self.matrix[:3, 1])))
        return float(abs(np.linalg.det(self.matrix[:3, :3])))

    @property
    def is_sheared(self) -> bool:
        """Whether its axes are not perpendicular, as with a tilted gantry."""
        directions = self.matrix[:3, :3] / np.asarray(self.spacing_mm)
        return bool(np.abs(directions.T @ directions - np.eye(3)).max() > _PERPENDICULAR)

    @staticmethod
    def of(shape: tuple[int, ...], affine: np.ndarray, dimensions: int = 3, form: str = "") -> Grid:
        x, y, z = (int(n) for n in shape)
        return Grid((x, y, z), tuple(tuple(float(v) for v in row) for row in np.asarray(affine)), dimensions, form)

    def of_box(self, box: tuple[slice, slice, slice], shape: Triple) -> Grid:
        """The grid of ``shape`` voxels that fills the same space as the voxels in ``box``.

        Voxel i of it lies at ``start + (i + 1/2) step - 1/2`` of this one.
        """
        steps = [(part.stop - part.start) / n for part, n in zip(box, shape, strict=True)]
        to_full = np.diag([*steps, 1.0])
        to_full[:3, 3] = [part.start + (step - 1) / 2 for part, step in zip(box, steps, strict=True)]
        return Grid.of(shape, self.matrix @ to_full, self.dimensions)


def usable(grid: Grid, path: Path) -> Grid:
    """``grid`` itself, of the file ``path``; ImageError if its affine does not span space."""
    with np.errstate(over="ignore", invalid="ignore"):
        edge_mm, volume_mm3 = max(grid.spacing_mm), abs(np.linalg.det(grid.matrix[:3, :3]))
        spans = np.isfinite(grid.matrix).all() and volume_mm3 > 1e-12 * edge_mm**3
    if not spans:
        raise ImageError(
            f"{path}: its voxel-to-world matrix is not invertible ({grid.affine}). Repair the header or export it again."
        )
    return grid


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


def default_tolerance_mm(grid: Grid) -> float:
    """How far two grids may lie apart and still be called the same: a tenth of the shortest voxel edge, at most 0.1 mm.

    Wide enough for what single-precision headers lose (a quaternion close to a half turn costs hundredths of a
    millimetre at the far corner), far too narrow for a wrong slice or a flipped axis.
    """
    return min(0.1, 0.1 * min(grid.spacing_mm))


def grid_difference(a: Grid, b: Grid, tolerance_mm: float | None = None) -> str | None:
    """What tells grid ``b`` from grid ``a``, in words, or None if they are the same.

    Grids of equal shape are compared by the largest distance in mm between corresponding outer corners of the volume,
    which sums up origin, spacing and direction. ``tolerance_mm`` defaults to :func:`default_tolerance_mm` of ``a``.
    """
    if a.shape != b.shape:
        return f"shapes differ: {_shape(a)} and {_shape(b)} voxels"
    tolerance = default_tolerance_mm(a) if tolerance_mm is None else tolerance_mm
    displacement = np.linalg.norm(_corners_mm(a) - _corners_mm(b), axis=1)
    largest = float(displacement.max())
    if largest <= tolerance:  # a NaN in either affine is not within tolerance
        return None
    apart = f"corners lie up to {largest:.4g} mm apart (tolerance {tolerance:.4g} mm)"
    return f"{apart}: {_cause(a, b)}{_forms(a, b)}"


def _corners_mm(grid: Grid) -> np.ndarray:
    """World coordinates (8, 3) of the outer corners of the corner voxels."""
    corners = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in grid.shape))))
    return corners @ grid.matrix[:3, :3].T + grid.matrix[:3, 3]


def _forms(a: Grid, b: Grid) -> str:
    """What the headers were read by, if that may be the reason: programs differ in which of the two they write."""
    if not a.form or not b.form or a.form == b.form == SFORM:
        return ""
    return f"; the first was read by its {a.form}, the second by its {b.form}"


def _cause(a: Grid, b: Grid) -> str:
    """The parts of the geometry that differ, each with both values."""
    parts = []
    if not np.allclose(a.spacing_mm, b.spacing_mm, rtol=1e-4):
        parts.append(f"spacing {_numbers(a.spacing_mm)} and {_numbers(b.spacing_mm)} mm")
    if not np.allclose(_directions(a), _directions(b), atol=1e-4):
        parts.append(f"axis directions differ by up to {_angle_degrees(a, b):.3g} degrees")
    if not np.allclose(a.matrix[:3, 3], b.matrix[:3, 3], atol=1e-3):
        parts.append(f"origin {_numbers(a.matrix[:3, 3])} and {_numbers(b.matrix[:3, 3])} mm")
    return "; ".join(parts) or "small differences of spacing, direction and origin together"


def _directions(grid: Grid) -> np.ndarray:
    return grid.matrix[:3, :3] / np.asarray(grid.spacing_mm)


def _angle_degrees(a: Grid, b: Grid) -> float:
    cosines = np.clip((_directions(a) * _directions(b)).sum(axis=0), -1.0, 1.0)
    return float(np.degrees(np.arccos(cosines)).max())


def _shape(grid: Grid) -> str:
    return " x ".join(str(n) for n in grid.shape)


def _numbers(values: np.ndarray | tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
