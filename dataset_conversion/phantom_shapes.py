"""Implicit surfaces: approximate signed distances in mm (negative inside) from points given as a (3, N) array."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

Points = np.ndarray  # (3, N) float32, mm
Distances = np.ndarray  # (N,) float32, mm
Vector = Sequence[float] | np.ndarray  # three numbers


def ellipsoid(points: Points, centre: Vector, semi_axes_mm: Vector, frame: np.ndarray | None = None) -> Distances:
    """Ellipsoid whose axes are the rows of ``frame`` (3, 3), or x, y, z.

    First-order distance k0 (k0 - 1) / k1 with k0 = |p / r| and k1 = |p / r^2|: exact on a sphere, right to first order
    at any ellipsoid's surface.
    """
    local = points - np.asarray(centre, np.float32)[:, None]
    if frame is not None:
        local = frame.astype(np.float32) @ local
    semi = np.asarray(semi_axes_mm, np.float32)[:, None]
    scaled = local / semi
    radius = np.sqrt(np.einsum("in,in->n", scaled, scaled))
    scaled /= semi
    gradient = np.sqrt(np.einsum("in,in->n", scaled, scaled))
    return np.where(gradient > 1e-9, radius * (radius - 1) / np.maximum(gradient, 1e-9), -semi.min())


def tube(points: Points, course: Sequence[Vector], radii_mm: Sequence[float] | np.ndarray) -> Distances:
    """Round tube along the polyline ``course``, with a radius at each of its points."""
    distance = np.full(points.shape[1], np.inf, np.float32)
    for (start, end), (first, last) in zip(pairwise(course), pairwise(radii_mm), strict=True):
        origin = np.asarray(start, np.float32)
        direction = np.asarray(end, np.float32) - origin
        local = points - origin[:, None]
        along = np.clip(direction @ local / np.float32(direction @ direction), 0, 1)
        local -= direction[:, None] * along
        distance = np.minimum(distance, np.sqrt(np.einsum("in,in->n", local, local)) - (first + along * (last - first)))
    return distance


def half_space(points: Points, origin: Vector, outward: Vector) -> Distances:
    """Everything on the far side of a plane from ``outward`` (a unit vector)."""
    normal = np.asarray(outward, np.float32)
    return normal @ points - np.float32(normal @ np.asarray(origin, np.float32))


def elliptic_cylinder(points: Points, centre_xy: Vector, semi_axes_mm: Vector) -> Distances:
    """Infinite cylinder along z with an elliptic section."""
    flat = points.copy()
    flat[2] = 0
    return ellipsoid(flat, (*centre_xy, 0.0), (*semi_axes_mm, 1e3))


def join(first: Distances, second: Distances, blend_mm: float) -> Distances:
    """Union of two bodies with a fillet about ``blend_mm`` wide."""
    overlap = np.maximum(blend_mm - np.abs(first - second), 0) / np.float32(blend_mm)
    return np.minimum(first, second) - overlap * overlap * np.float32(blend_mm / 4)


def without(body: Distances, *removed: Distances) -> Distances:
    """``body`` less every one of ``removed``."""
    for other in removed:
        body = np.maximum(body, -other)
    return body
