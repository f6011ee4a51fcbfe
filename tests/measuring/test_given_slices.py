"""Given slices: the closed form of interpolation, and the row of a real run of a few seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks import given_slices, tables
from benchmarks.given_slices import drawn, interpolated, undrawn_dice
from benchmarks.raw_data import TASK
from benchmarks.record import read_rows
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.preprocessing.drawing import UNKNOWN
from diffatlas_pipeline.volumes.grids import Grid, LabelVolume
from tests.measuring.small_task import TEST, run_here, use_lists, write_task

VALUES = (3, 7)


def discs(radii: dict[int, list[float]]) -> np.ndarray:
    """Labels (48, n, 48): discs side by side, one label each, of the radius that each of n slices has."""
    x, z = np.indices((48, 48))
    array = np.zeros((48, len(next(iter(radii.values()))), 48), dtype=int)
    for centre, (value, sizes) in zip((12, 36), radii.items(), strict=True):
        for index, radius in enumerate(sizes):
            array[:, index][(x - centre) ** 2 + (z - 24) ** 2 < radius**2] = value
    return array


def scan_of(array: np.ndarray) -> LabelVolume:
    return LabelVolume(array, Grid.of(array.shape, np.eye(4)))


def test_slices_are_spread_evenly_over_the_structures() -> None:
    truth = discs({3: [0, 0, *[6.0] * 9, 0], 7: [0, 0, *[4.0] * 6, 0, 0, 0, 0]})
    for count, wanted in ((0, []), (1, [6]), (2, [4, 8]), (3, [3, 6, 9]), (9, list(range(2, 11)))):
        drawing = drawn(truth, 1, count)
        assert np.flatnonzero((drawing != UNKNOWN).all(axis=(0, 2))).tolist() == wanted
        np.testing.assert_array_equal(drawing[drawing != UNKNOWN], truth[drawing != UNKNOWN])
    assert (drawn(np.zeros((4, 4, 4), int), 0, 3) == UNKNOWN).all()


def test_cylinders_are_interpolated_exactly_and_cones_within_a_voxel() -> None:
    cylinders = discs({3: [8.0] * 15, 7: [5.0] * 15})
    np.testing.assert_array_equal(interpolated(drawn(cylinders, 1, 2), scan_of(cylinders), 1, VALUES), cylinders)
    cones = discs({3: list(np.linspace(4, 10, 15)), 7: list(np.linspace(10, 4, 15))})
    found = interpolated(drawn(cones, 1, 2), scan_of(cones), 1, VALUES)
    for index, radii in ((5, (6.14, 7.86)), (9, (7.86, 6.14))):
        for value, radius in zip(VALUES, radii, strict=True):
            assert (found[:, index] == value).sum() == pytest.approx(np.pi * radius**2, rel=0.12)


def test_a_label_that_ends_between_two_slices_vanishes_half_way() -> None:
    truth = discs({3: [8.0] * 16, 7: [6.0] * 8 + [0.0] * 8})
    found = interpolated(drawn(truth, 1, 2), scan_of(truth), 1, VALUES)
    where = np.flatnonzero((found == 7).any(axis=(0, 2)))
    assert where[0] == 0 and where[-1] in (7, 8)
    assert (interpolated(drawn(truth, 1, 0), scan_of(truth), 1, VALUES) == 0).all()


def test_drawn_voxels_do_not_count() -> None:
    truth = discs({3: [8.0] * 5, 7: [0.0] * 5})
    drawing = drawn(truth, 1, 1)
    found = np.where(drawing == UNKNOWN, 0, drawing)
    large, small = undrawn_dice(found, truth, drawing, VALUES)
    assert large == 0 and np.isnan(small)


@pytest.mark.slow
def test_a_tiny_run_makes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(given_slices, "COUNTS", (0, 3, 9))
    run_here(monkeypatch, given_slices)
    use_lists(monkeypatch, write_task(tmp_path / TASK) / "protocol.json")
    places = ["--workspace", str(tmp_path / "w"), "--data", str(tmp_path), "--results", str(tmp_path / "given_slices.csv")]
    picture = tmp_path / "picture.png"
    given_slices.main(["hippocampus", "--setting", "2-shot", "--max-time", "3s", "--picture", str(picture), *places])
    assert imread(picture).std() > 0
    (row,) = read_rows(tmp_path / "given_slices.csv").to_dict("records")
    assert [row[name] for name in ("protocol", "setting", "training_cases", "test_cases")] == ["hippocampus", "2-shot", 2, TEST]
    assert row["dice_completed_0"] == row["dice_alone_0"] and "dice_interpolated_0" not in row
    for count in (3, 9):
        assert all(0 <= row[f"dice_{way}_{count}"] <= 1 for way in ("completed", "alone", "interpolated"))
    assert row["dice_interpolated_9"] > 0.8  # of balls
    assert f"| {row['dice_completed_3']:.3f} |" in tables.table_of("given_slices", tmp_path)
    monkeypatch.setattr(given_slices, "COUNTS", (0,))
    given_slices.main(["hippocampus", "--setting", "2-shot", "--max-time", "3s", "--on", "validation", *places])
    assert row["recipe"] == "given-labels" and "`diffatlas:given-labels`" in tables.table_of("given_slices", tmp_path)
    assert len(read_rows(tmp_path / "given_slices.csv")) == 1, "scores to choose by are not kept"
    (out,) = (tmp_path / "w" / "benchmarks").glob("given_slices_*")
    trained = ModelFolder(tmp_path / "w" / "results" / "Dataset004_Hippocampus" / "diffatlas__given-labels")
    validated = trained.metadata("2-shot")["validation_cases"]
    assert {path.name for path in (out / "completed_0").glob("*.nii.gz")} == {f"{case}.nii.gz" for case in validated}
