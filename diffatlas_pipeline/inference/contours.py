"""The outlines of a mask in a plane as closed polygons, holes joined to the outline around them."""

from __future__ import annotations

import numpy as np

_PADDING = 1  # of background, so that outlines close at the border of the plane


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Polygons (points, 2) in pixels, closed without repeating the first point, of a ``mask`` (X, Y) of booleans.

    Points lie halfway between neighbouring pixels of which one is inside; the centres of exactly the pixels of the mask
    are within a polygon. There is one per part of the mask (pixels that share an edge). A hole is joined to its outline
    by a channel of no width, to and fro along the same line (the key-hole technique of DICOM PS3.3, C.8.8.6.3), so
    polygons do not overlap, and mean the same whether a program takes the union of them or every other one.
    """
    from scipy.ndimage import find_objects, label
    from skimage.measure import find_contours

    parts, _ = label(mask)
    found = []
    for number, box in enumerate(find_objects(parts), start=1):
        part = np.pad(parts[box] == number, _PADDING)
        corner = np.array([axis.start for axis in box]) - _PADDING
        rings = [_corners(ring[:-1]) for ring in find_contours(part.astype(np.float32), 0.5, fully_connected="low")]
        rings.sort(key=lambda ring: -abs(_signed_area(ring)))  # the outline is larger than all holes in it
        found.append(_joined(rings) + corner)
    return found


def _corners(ring: np.ndarray) -> np.ndarray:
    """A closed ring without the points that lie on a straight line between their neighbours."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return ring[turns != 0]


def _signed_area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)


def _joined(rings: list[np.ndarray]) -> np.ndarray:
    """The first ring with all others, which lie in it, joined to it one after the other, the nearest first."""
    from scipy.spatial import cKDTree

    whole, holes = rings[0], list(rings[1:])
    while holes:
        tree = cKDTree(whole)
        nearest = [tree.query(hole) for hole in holes]
        chosen = int(np.argmin([distances.min() for distances, _ in nearest]))
        distances, indices = nearest[chosen]
        at = int(np.argmin(distances))
        hole, there = np.roll(holes.pop(chosen), -at, axis=0), int(indices[at])
        whole = np.concatenate([whole[: there + 1], hole, hole[:1], whole[there:]])
    return whole
