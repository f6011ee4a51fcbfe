"""Statistics of labelled images, and how much alike two are, on shapes that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.evaluation.likeness import likeness, nearest, probe_of
from diffatlas_pipeline.evaluation.metrics import surface_mm2
from diffatlas_pipeline.evaluation.populations import BINS, LabelledImage, Population, compared, wasserstein

SPACING = (1.0, 2.0, 0.5)


def box(shape: tuple[int, int, int], start: tuple[int, int, int], size: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))] = True
    return mask


def case(name: str, start: tuple[int, int, int] = (4, 5, 6), size: tuple[int, int, int] = (6, 4, 8)) -> LabelledImage:
    """A box of label 1 at intensity 0.5 in a textured background about -0.5; label 2 is its first slice."""
    labels = box((20, 18, 24), start, size).astype(np.int32)
    labels[start[0]][labels[start[0]] == 1] = 2
    texture = np.random.default_rng(0).normal(0, 0.1, labels.shape)
    texture = np.roll(texture, np.subtract(start, (4, 5, 6)), axis=(0, 1, 2))
    return LabelledImage(name, (np.where(labels > 0, 0.5, -0.5) + texture)[None].astype(np.float32), labels)


def population(*cases: LabelledImage) -> Population:
    made = Population((LabelClass("one", 4), LabelClass("two", 9)), ("CT",), SPACING)
    for one in cases:
        made.add(one)
    return made


def test_the_surface_of_a_box_has_bevelled_edges() -> None:
    """Marching cubes between voxel centres: faces, a bevel along each edge and a triangle at each corner."""
    a, b, c = 6, 4, 8
    faces = 2 * ((a - 1) * (b - 1) + (b - 1) * (c - 1) + (a - 1) * (c - 1))
    edges = 4 * ((a - 1) + (b - 1) + (c - 1)) * math.sqrt(0.5)
    corners = 8 * math.sqrt(3) / 8
    found = surface_mm2(box((10, 9, 12), (1, 2, 3), (a, b, c)), (1.0, 1.0, 1.0))
    assert found == pytest.approx(faces + edges + corners, rel=1e-6)
    assert surface_mm2(box((10, 9, 12), (4, 4, 4), (a, b, c)), (2.0, 2.0, 2.0)) == pytest.approx(4 * found, rel=1e-6)
    assert surface_mm2(np.zeros((4, 4, 4), dtype=bool), SPACING) == 0


def test_the_contour_of_a_rectangle_in_a_single_slice() -> None:
    found = surface_mm2(box((9, 9, 1), (2, 2, 0), (4, 3, 1)), (1.0, 1.0, 5.0))
    assert found == pytest.approx(2 * (3 + 2) + 4 * math.sqrt(0.5))


def test_flat_images_have_areas_and_contours() -> None:
    flat = LabelledImage("a", np.zeros((1, 9, 9, 1), dtype=np.float32), box((9, 9, 1), (2, 2, 0), (4, 3, 1)).astype(np.int32))
    made = Population((LabelClass("one", 4),), ("CT",), (2.0, 2.0, 1.0), 2)
    made.add(flat)
    found = compared(made, made)
    assert found["area_mm2"]["one"]["real"]["mean"] == pytest.approx(12 * 4)
    assert found["contour_mm"]["one"]["real"]["mean"] == pytest.approx(2 * (2 * (3 + 2) + 4 * math.sqrt(0.5)), abs=1e-4)
    assert "volume_ml" not in found


def test_volumes_intensities_and_missing_labels() -> None:
    one = case("a")
    without = LabelledImage("b", one.image, np.where(one.labels == 2, 0, one.labels))
    found = compared(population(one, without), population(one))
    voxels = 5 * 4 * 8
    assert found["volume_ml"]["one"]["generated"]["mean"] == pytest.approx(voxels * 1.0 / 1000, abs=1e-4)
    assert found["volume_ml"]["two"]["generated"]["missing"] == 1
    assert found["volume_ml"]["two"]["generated"]["mean"] == found["volume_ml"]["two"]["real"]["mean"]
    histogram = found["intensities"]["CT"]["one"]
    assert sum(histogram["real"]) == pytest.approx(1, abs=1e-4) and histogram["distance"] == 0
    middles = (np.asarray(histogram["edges"])[1:] + np.asarray(histogram["edges"])[:-1]) / 2
    assert np.dot(middles, histogram["real"]) == pytest.approx(0.5, abs=0.03)
    assert found["power"]["CT"]["generated"] == found["power"]["CT"]["real"]


def test_the_distance_of_histograms_is_how_far_one_was_shifted() -> None:
    counts = np.zeros(BINS)
    counts[5:10] = (1, 4, 9, 4, 1)
    assert wasserstein(counts, np.roll(counts, 8) * 3) == pytest.approx(8 * 2 / BINS)
    assert math.isnan(wasserstein(counts, np.zeros(BINS)))


def test_a_shifted_copy_is_found_among_others() -> None:
    copy, smaller = case("copy", start=(7, 6, 9)), case("smaller", size=(5, 4, 6))
    probes = [probe_of(one, 2) for one in (case("made"), copy, smaller)]
    assert likeness(probes[0], probes[1]) == (pytest.approx(1), pytest.approx(1, abs=0.01))
    (found,) = nearest(probes[:1], probes)
    assert (found.case, found.like, found.dice) == ("made", "copy", 1.0)
    assert found.most_correlated == "copy"
    both = np.minimum([4, 4, 6], [5, 4, 8]).prod(), 4 * 6  # centroids of the boxes lie on each other, by whole voxels
    dice, _ = likeness(probes[0], probes[2])
    assert dice == pytest.approx(np.mean([2 * both[0] / (5 * 32 + 4 * 24), 2 * both[1] / (32 + 24)]), abs=0.13)


def test_cases_without_any_structure_are_compared_too() -> None:
    empty = LabelledImage("empty", case("a").image, np.zeros((20, 18, 24), dtype=np.int32))
    assert likeness(probe_of(empty, 2), probe_of(case("a"), 2))[0] == 0
    assert nearest([probe_of(empty, 2)], []) == []
