"""Parametric anatomy of the whole-heart phantom: random parameters of one person, and the tissues they put in space.

Coordinates are RAS+ in mm (x to the person's right, y forward, z up) about the centre of the heart. All names and sizes
follow an adult heart; the left ventricle's wall is somewhat thick so that it spans about three voxels of a coarse grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dataset_conversion.phantom_shapes import (
    Distances,
    Points,
    ellipsoid,
    elliptic_cylinder,
    half_space,
    join,
    tube,
    without,
)

LABELS = {"Myo": 1, "LV": 2, "LA": 3, "RA": 4, "RV": 5}
ROTATION_DEGREES = 20.0
SHIFT_MM = 13.0  # along each axis
SCALE = 0.15
DEFORMATION_MM = 2.2  # root mean square along each axis
DEFORMATION_WAVES = 12


@dataclass(frozen=True)
class Layer:
    """One body of one tissue. Layers are painted in order, each over those before it; ``label`` 0 is unlabelled."""

    tissue: str
    distance_mm: Distances
    label: int = 0
    opacity: float = 1.0


@dataclass(frozen=True)
class Pose:
    """A similarity: world = scale * rotation @ own + shift_mm."""

    rotation: np.ndarray
    shift_mm: np.ndarray
    scale: float

    def to_own(self, world: Points) -> Points:
        """World points (3, N) in this body's own coordinates, mm."""
        centred = world - self.shift_mm.astype(np.float32)[:, None]
        return (self.rotation.T.astype(np.float32) @ centred) / np.float32(self.scale)


@dataclass(frozen=True)
class Waves:
    """A smooth random displacement: a sum of sine waves, so that it is the same function on every grid."""

    wave_vectors: np.ndarray  # (W, 3), radian per mm
    amplitudes_mm: np.ndarray  # (W, 3)
    phases: np.ndarray  # (W,)

    def move(self, points: Points) -> Points:
        moved = points.copy()
        for vector, amplitude, phase in zip(self.wave_vectors, self.amplitudes_mm, self.phases, strict=True):
            wave = np.sin(vector.astype(np.float32) @ points + np.float32(phase))
            moved += amplitude.astype(np.float32)[:, None] * wave
        return moved


@dataclass(frozen=True)
class Anatomy:
    """All that is random about one person. Sizes in ``size`` are factors about 1, offsets in ``offset`` are (3,) mm."""

    heart: Pose
    thorax: Pose
    deformation: Waves
    axes: np.ndarray  # (3, 3): rows are base-to-apex, left-ventricle-to-right-ventricle, and their cross product
    wall_mm: float
    fat_mm: float
    epicardial_fat_mm: float
    size: dict[str, np.ndarray]
    offset: dict[str, np.ndarray]
    rib_phase: float


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """One person's parameters."""
    rotation = rotation_matrix(random_direction(rng), np.deg2rad(rng.uniform(0, ROTATION_DEGREES)))
    shift = rng.uniform(-1, 1, 3) * SHIFT_MM
    thorax_turn = rotation_matrix(random_direction(rng), np.deg2rad(rng.uniform(0, 7)))
    scale = float(rng.uniform(1 - SCALE, 1 + SCALE))
    # The chest lies around the heart, but not in lock-step with it.
    thorax = Pose(thorax_turn, shift + rng.uniform(-5, 5, 3), float(np.sqrt(scale) * rng.uniform(0.97, 1.04)))
    base = np.array([[-0.62, 0.56, -0.55], [0.742, 0.662, -0.163]])
    first = _unit(base[0] + rng.normal(0, 0.07, 3))
    second = base[1] + rng.normal(0, 0.09, 3)
    second = _unit(second - first * (first @ second))
    return Anatomy(
        heart=Pose(rotation, shift, scale),
        thorax=thorax,
        deformation=_draw_waves(rng),
        axes=np.stack([first, second, np.cross(first, second)]),
        wall_mm=float(rng.uniform(10.0, 13.0)),
        fat_mm=float(rng.uniform(6, 20)),
        epicardial_fat_mm=float(rng.uniform(3, 8)),
        size={name: rng.uniform(0.86, 1.14, 3) for name in ("LV", "RV", "LA", "RA", "vessel", "liver", "lung")},
        offset={name: rng.normal(0, 2.5, 3) for name in ("RV", "LA", "RA", "aorta", "pulmonary", "liver", "spine")},
        rib_phase=float(rng.uniform(0, 2 * np.pi)),
    )


def layers(anatomy: Anatomy, world: Points) -> Iterator[Layer]:
    """Tissues at the ``world`` points (3, N), from the outside in. Distances are approximate, in mm of the world."""
    yield from _thorax(anatomy, anatomy.thorax.to_own(world))
    yield from _heart(anatomy, anatomy.deformation.move(anatomy.heart.to_own(world)))


def _thorax(anatomy: Anatomy, points: Points) -> Iterator[Layer]:
    cage_centre, cage_axes = (0.0, -13.0), (124.0, 78.0)
    cage = elliptic_cylinder(points, cage_centre, cage_axes)
    yield Layer("fat", cage - 14 - np.float32(anatomy.fat_mm))
    yield Layer("muscle", cage - 14)
    # Ribs slope downwards to the front and are sparser than the gaps between them.
    stripe = np.cos((points[2] + 0.45 * points[1]) * np.float32(2 * np.pi / 27) + np.float32(anatomy.rib_phase))
    rib = np.maximum(np.abs(cage - 4.5) - 4.5, (0.35 - stripe) * 5)
    yield Layer("bone", rib)
    yield Layer("marrow", rib + 2.5)
    sternum = ellipsoid(points, (0, cage_centre[1] + cage_axes[1] + 2, 10), (19, 6.5, 95))
    yield Layer("fat", cage)
    yield Layer("bone", sternum)
    yield Layer("marrow", sternum + 2)
    lungs = np.minimum(
        ellipsoid(points, (74, -14, 15), np.array([60, 70, 112]) * anatomy.size["lung"]),
        ellipsoid(points, (-74, -16, 15), np.array([60, 68, 112]) * anatomy.size["lung"]),
    )
    yield Layer("lung", np.maximum(lungs, cage + 2))
    sway = anatomy.offset["liver"]
    liver = join(
        ellipsoid(points, np.array([58, -6, -102]) + sway, np.array([84, 76, 60]) * anatomy.size["liver"]),
        ellipsoid(points, np.array([-8, 18, -104]) + sway, np.array([80, 52, 44]) * anatomy.size["liver"]),
        8,
    )
    spleen = ellipsoid(points, np.array([-72, -22, -108]) - sway, np.array([62, 66, 52]))
    abdomen = np.maximum(np.minimum(liver, spleen), cage + 2)
    yield Layer("muscle", abdomen - 2.5)
    yield Layer("stomach", np.maximum(spleen, cage + 2))
    yield Layer("liver", np.maximum(liver, cage + 2))
    yield from _spine(points, anatomy.offset["spine"])


def _spine(points: Points, sway: np.ndarray) -> Iterator[Layer]:
    centre = np.array([0.0, -84.0]) + sway[:2]
    body = elliptic_cylinder(points, centre, (19, 15.5))
    disc = np.cos((points[2] + sway[2]) * np.float32(2 * np.pi / 30)) > 0.82
    back = elliptic_cylinder(points, centre - [0, 34], (42, 20))
    yield Layer("muscle", back)
    arch = np.minimum(
        elliptic_cylinder(points, centre - [0, 20], (27, 8)), elliptic_cylinder(points, centre - [0, 32], (5, 20))
    )
    yield Layer("bone", np.where(disc, 5, arch))
    yield Layer("muscle", elliptic_cylinder(points, centre - [0, 21], (8, 6)))
    yield Layer("muscle", body)
    yield Layer("bone", np.where(disc, 5, body))
    yield Layer("marrow", np.where(disc, 5, body + 2.5))


@dataclass(frozen=True)
class _Ventricles:
    """Distances and landmarks shared by the parts of the heart."""

    base: np.ndarray
    depth: Distances  # mm from the mitral plane towards the apex
    cavity: Distances
    epicardium: Distances
    right: Distances
    right_depth: Distances
    outflow: np.ndarray
    outflow_direction: np.ndarray


def _ventricles(anatomy: Anatomy, points: Points) -> _Ventricles:
    frame = anatomy.axes
    base = np.array([0.0, -6.0, 6.0])
    depth = (frame[0].astype(np.float32) @ points) - np.float32(frame[0] @ base)
    long_mm, *short = np.array([42.0, 24.0, 24.0]) * anatomy.size["LV"]
    centre = base + frame.T @ [0.5 * long_mm, 0, 0]
    cavity = ellipsoid(points, centre, (long_mm, *short), frame)
    outer = np.array([long_mm - 1, *short]) + anatomy.wall_mm
    epicardium = ellipsoid(points, centre, outer, frame)
    sizes = anatomy.size["RV"]
    right_centre = base + frame.T @ [18.0, short[0] + 6, 3.0] + anatomy.offset["RV"]
    right = ellipsoid(points, right_centre, np.array([41.0, 28.0, 36.0]) * sizes, frame)
    outflow = base + frame.T @ np.array([14.0, 19.0, -0.5 * (outer[2] + outer[1]) - 9]) + anatomy.offset["pulmonary"] * 0.5
    infundibulum = base + frame.T @ [20.0, short[0] + 12, -20.0]
    conus = tube(points, [infundibulum, outflow], [16 * sizes[1], 11.5])
    direction = _unit(np.array([-0.15, -0.35, 1.0]))
    right = np.maximum(join(right, conus, 10), half_space(points, outflow, direction))
    return _Ventricles(base, depth, cavity, epicardium, right, depth - 2, outflow, direction)


def _heart(anatomy: Anatomy, points: Points) -> Iterator[Layer]:
    scale = np.float32(anatomy.heart.scale)
    parts = _ventricles(anatomy, points)
    frame, base = anatomy.axes, parts.base
    myocardium_outer = np.maximum(parts.epicardium, -parts.depth)
    left_ventricle = np.maximum(parts.cavity, -parts.depth)
    right_ventricle = without(np.maximum(parts.right, -parts.right_depth), myocardium_outer)

    mitral = base + frame.T @ [-3.0, -7.0, 6.0]
    tricuspid = base + frame.T @ [-2.0, 30.0, 9.0] + 0.5 * anatomy.offset["RV"]
    left_centre = np.array([8.0, -33.0, 17.0]) + anatomy.offset["LA"]
    right_centre = np.array([43.0, -6.0, 0.0]) + anatomy.offset["RA"]
    left_atrium = join(
        ellipsoid(points, left_centre, np.array([27, 18.5, 22]) * anatomy.size["LA"]),
        tube(points, [left_centre, mitral], [13, 15]),
        8,
    )
    right_atrium = join(
        ellipsoid(points, right_centre, np.array([20, 23, 27]) * anatomy.size["RA"]),
        tube(points, [right_centre, tricuspid], [15, 17]),
        8,
    )
    aorta, others = _vessels(anatomy, points, parts, left_centre, right_centre)
    ventricles = np.minimum(myocardium_outer, np.maximum(parts.right - 3.5, -parts.right_depth))
    left_atrium = without(left_atrium, ventricles, aorta - 2)
    right_atrium = without(right_atrium, ventricles, aorta - 2, left_atrium - 3)
    right_ventricle = without(right_ventricle, aorta - 2)

    sac = join(np.minimum(ventricles, right_atrium), np.minimum(left_atrium, np.minimum(aorta, others)), 14)
    yield Layer("fat", (sac - np.float32(anatomy.epicardial_fat_mm)) * scale)
    oesophagus = tube(points, [(2, -60, 100), (0, -60, 0), (-8, -58, -100)], [7, 8, 7])
    yield Layer("muscle", oesophagus * scale)
    yield Layer("blood", others * scale)
    yield Layer("wall", (np.minimum(left_atrium, right_atrium) - 2) * scale)
    yield Layer("wall", (np.maximum(parts.right, -parts.right_depth) - 3.5) * scale)
    yield Layer("wall", (aorta - 1.5) * scale)
    yield Layer("blood", aorta * scale)
    yield Layer("blood", left_atrium * scale, LABELS["LA"])
    yield Layer("blood", right_atrium * scale, LABELS["RA"])
    yield Layer("blood", right_ventricle * scale, LABELS["RV"])
    yield Layer("myocardium", without(myocardium_outer, left_ventricle) * scale, LABELS["Myo"])
    yield Layer("blood", left_ventricle * scale, LABELS["LV"])
    # Papillary muscles and valve leaflets look like muscle but belong to the cavities, as in manual contours.
    for side in (-1, 1):
        foot, tip = base + frame.T @ [34.0, side * 11.0, 10.0], base + frame.T @ [18.0, side * 7.0, 8.0]
        yield Layer("myocardium", np.maximum(tube(points, [foot, tip], [4.5, 3.0]), left_ventricle) * scale)
    leaflet = np.maximum(np.abs(parts.depth) - 1.2, tube(points, [mitral, mitral + 0.1], [17, 17]))
    yield Layer("wall", leaflet * scale, opacity=0.8)
    leaflet = np.maximum(np.abs(parts.right_depth) - 1.2, without(parts.right, parts.epicardium))
    yield Layer("wall", leaflet * scale, opacity=0.8)


def _vessels(
    anatomy: Anatomy, points: Points, parts: _Ventricles, left_atrium: np.ndarray, right_atrium: np.ndarray
) -> tuple[Distances, Distances]:
    """The aorta, and all other great vessels."""
    sway, wide = anatomy.offset["aorta"], anatomy.size["vessel"]
    root = parts.base + anatomy.axes.T @ [-2.0, 12.0, -11.0]
    ascending = [root, np.array([14, 8, 36]) + sway, np.array([17, 1, 60]) + sway]
    arch = [np.array([8, -18, 78]) + sway, np.array([-10, -42, 80]) + sway, np.array([-22, -60, 62])]
    descending = [np.array([-23, -63, 0]), np.array([-20, -64, -110])]
    aorta = tube(points, [*ascending, *arch, *descending], np.array([13, 14, 13.5, 12.5, 12, 11, 11, 10.5]) * wide[0])
    aorta = np.maximum(aorta, parts.depth)  # the aortic valve lies in the base of the left ventricle

    trunk = parts.outflow
    bend, fork = trunk + np.array([-5, -14, 17]), np.array([-9.0, -7.0, 57.0]) + 0.5 * anatomy.offset["pulmonary"]
    pulmonary = np.minimum.reduce(
        [
            tube(points, [trunk, bend, fork], np.array([11.5, 12.5, 11]) * wide[1]),
            tube(points, [fork, (12, -25, 53), (50, -23, 50)], np.array([10, 9, 8]) * wide[1]),
            tube(points, [fork, (-30, -30, 62), (-60, -36, 56)], np.array([10, 9, 8]) * wide[1]),
        ]
    )
    pulmonary = np.maximum(pulmonary, -half_space(points, trunk, parts.outflow_direction))
    pulmonary = without(pulmonary, aorta - 2)
    cavae = np.minimum(
        tube(points, [(34, -3, 110), (36, -4, 45), right_atrium + np.array([-4, 0, 18])], np.array([9, 9, 10]) * wide[2]),
        tube(
            points, [right_atrium + np.array([-3, -8, -18]), (35, -22, -60), (30, -30, -110)], np.array([11, 11, 11]) * wide[2]
        ),
    )
    veins = np.full(points.shape[1], np.inf, np.float32)
    for side, length, turn in ((-1, 36, 8), (1, 30, 6)):
        for height, rise in ((7, 10), (-8, -8)):
            start = left_atrium + np.array([side * 16, -5, height])
            end = left_atrium + np.array([side * (20 + length), -10 - turn, height + rise])
            veins = np.minimum(veins, tube(points, [start, end], [7 * wide[2], 5.5 * wide[2]]))
    return aorta, np.minimum.reduce([pulmonary, cavae, veins])


def rotation_matrix(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation by ``angle`` radian about the unit vector ``axis`` (Rodrigues' formula)."""
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def random_direction(rng: np.random.Generator) -> np.ndarray:
    """A unit vector, uniform on the sphere."""
    return _unit(rng.normal(size=3))


def _draw_waves(rng: np.random.Generator) -> Waves:
    lengths_mm = rng.uniform(60, 140, DEFORMATION_WAVES)
    directions = np.stack([random_direction(rng) for _ in range(DEFORMATION_WAVES)])
    amplitudes = rng.normal(0, DEFORMATION_MM * np.sqrt(2 / DEFORMATION_WAVES), (DEFORMATION_WAVES, 3))
    return Waves(directions * (2 * np.pi / lengths_mm)[:, None], amplitudes, rng.uniform(0, 2 * np.pi, DEFORMATION_WAVES))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
