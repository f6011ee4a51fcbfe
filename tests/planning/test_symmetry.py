from __future__ import annotations

import numpy as np
import pytest

from diffatlas_pipeline.planning.symmetry import (
    GRID,
    CoarseCase,
    mirror_axes_of_labels,
    names_a_side,
    sample_coarsely,
    twins_by_name,
)

POINTS = np.stack(np.meshgrid(*[np.arange(GRID) - (GRID - 1) / 2] * 3, indexing="ij"))


def ball(centre: tuple[float, float, float], radius: float) -> np.ndarray:
    return sum((p - c) ** 2 for p, c in zip(POINTS, centre, strict=True)) < radius**2


def case(*masks: np.ndarray, image: np.ndarray | None = None) -> CoarseCase:
    labels = np.zeros((GRID,) * 3, np.uint16)
    for index, mask in enumerate(masks):
        labels[mask] = index + 1
    return CoarseCase(labels, labels.astype(np.float32) if image is None else image)


def test_concentric_balls_are_symmetric_across_every_axis() -> None:
    shells = case(ball((0, 0, 0), 9), ball((0, 0, 0), 4))
    assert mirror_axes_of_labels([shells], ["outer", "inner"]) == tuple(
        {"0": name, "1": name, "2": name} for name in ("outer", "inner")
    )


def test_an_asymmetric_image_forbids_what_the_labels_would_allow() -> None:
    ramp = case(ball((0, 0, 0), 9), image=POINTS[0].astype(np.float32))
    assert mirror_axes_of_labels([ramp], ["outer"]) == ({"1": "outer", "2": "outer"},)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_two_balls_side_by_side_are_twins_across_their_axis(axis: int) -> None:
    rng = np.random.default_rng(axis)
    cases = []
    for _ in range(8):
        shift = rng.normal(0, 0.7, 3)
        centre = np.zeros(3)
        centre[axis] = 6
        cases.append(case(ball(tuple(shift - centre), 4), ball(tuple(shift + centre), 4)))
    found = mirror_axes_of_labels(cases, ["one", "other"])
    assert found[0][str(axis)] == "other" and found[1][str(axis)] == "one"


def test_balls_of_different_size_are_no_twins() -> None:
    found = mirror_axes_of_labels([case(ball((0, -5, 0), 6), ball((0, 7, 0), 3))], ["large", "small"])
    assert all("1" not in axes for axes in found)
    assert found[0]["0"] == "large" and found[0]["2"] == "large"


def test_labels_of_one_size_but_other_shapes_are_no_twins() -> None:
    """Half of one covers half of the other."""
    wide = (abs(POINTS[0]) < 6) & (abs(POINTS[1] - 6) < 2) & (abs(POINTS[2]) < 4)
    deep = (abs(POINTS[0]) < 3) & (abs(POINTS[1] + 6) < 4) & (abs(POINTS[2]) < 4)
    assert wide.sum() == deep.sum()
    found = mirror_axes_of_labels([case(wide, deep)], ["wide", "deep"])
    assert all("1" not in axes for axes in found)


def asymmetric_population(flip: bool) -> list[CoarseCase]:
    rng = np.random.default_rng(0)
    cases = []
    for index in range(40):
        offset = rng.normal(0, 1, 3)
        side = -1 if flip and index % 2 else 1
        cases.append(case(ball((side * 2, 0, 0), 8), ball(tuple(np.array([side * 6, 0, 0]) + offset), 3)))
    return cases


def test_a_population_of_both_sides_is_symmetric_though_no_case_is() -> None:
    assert mirror_axes_of_labels(asymmetric_population(flip=True), ["body", "lump"])[1].get("0") == "lump"


def test_a_population_of_one_side_is_not_symmetric() -> None:
    assert "0" not in mirror_axes_of_labels(asymmetric_population(flip=False), ["body", "lump"])[1]


def test_few_asymmetric_cases_are_no_evidence_of_symmetry() -> None:
    assert "0" not in mirror_axes_of_labels(asymmetric_population(flip=True)[:4], ["body", "lump"])[1]


def test_two_dimensional_data_say_nothing_of_z() -> None:
    found = mirror_axes_of_labels([case(ball((0, 0, 0), 9))], ["disc"], dimensions=2)
    assert found == ({"0": "disc", "1": "disc"},)


@pytest.mark.parametrize(
    ("name", "sided"),
    [
        ("left kidney", True),
        ("kidney_L", True),
        ("KidneyRight", True),
        ("r-lung", True),
        ("liver", False),
        ("colon", False),
        ("brightness", False),
        ("Anterior", False),
    ],
)
def test_names_of_sides(name: str, sided: bool) -> None:
    assert names_a_side(name) is sided


def test_twins_are_found_by_name() -> None:
    names = ["kidney_left", "kidney_right", "Lung L", "Lung R", "LV", "RV", "LA", "Myo", "liver"]
    assert twins_by_name(names) == {
        "kidney_left": "kidney_right",
        "kidney_right": "kidney_left",
        "Lung L": "Lung R",
        "Lung R": "Lung L",
        "LV": "RV",
        "RV": "LV",
    }


def test_names_override_geometry() -> None:
    shells = case(ball((0, 0, 0), 9), ball((0, 0, 0), 4))
    assert mirror_axes_of_labels([shells], ["LV", "RV"])[0]["0"] == "RV"


def test_sampled_labels_are_labels_and_grey_values_are_interpolated() -> None:
    labels = np.random.default_rng(0).choice([0, 2, 7], (9, 8, 7)).astype(np.uint16)
    ramp = np.broadcast_to(np.arange(9.0)[:, None, None], (9, 8, 7))
    coarse = sample_coarsely(labels, ramp, np.array([4.0, 3.5, 3.0]), (4.0, 3.5, 3.0), (1.0, 1.0, 1.0))
    assert set(np.unique(coarse.labels)) == {0, 2, 7}
    np.testing.assert_allclose(coarse.image[:, 5, 5], 4 + 4 * ((np.arange(GRID) + 0.5) / GRID * 2 - 1), atol=1e-5)


def test_beyond_the_scan_there_is_no_label() -> None:
    labels = np.ones((6, 6, 6), np.uint16)
    coarse = sample_coarsely(labels, labels.astype(float), np.array([2.5] * 3), (12.0, 2.5, 2.5), (2.0, 1.0, 1.0))
    reach = np.abs((np.arange(GRID) + 0.5) / GRID * 2 - 1) * 6  # 12 mm are six voxels
    np.testing.assert_array_equal(coarse.labels[:, 12, 12], reach < 2.5)
    assert (coarse.image == 1).all()


def test_sampling_keeps_position_and_scale() -> None:
    labels = np.zeros((40, 30, 20), np.uint16)
    labels[10:30, 10:20, 5:15] = 2
    coarse = sample_coarsely(
        labels, labels.astype(np.float32), np.array([19.5, 14.5, 9.5]), (20.0, 10.0, 10.0), (1.0, 1.0, 1.0)
    )
    filled = [np.flatnonzero(coarse.labels.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    for line in filled:  # the box takes the middle half of every axis
        assert line[0] == GRID // 4 and line[-1] == 3 * GRID // 4 - 1
