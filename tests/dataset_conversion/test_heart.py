"""Choice of test and few-shot cases, and the files of one case, for the heart data sets."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_conversion.heart import (
    HeartCase,
    HeartOptions,
    choose_test,
    few_shot_splits,
    heart_box,
    write_case,
    write_few_shot_splits,
)
from diffatlas_pipeline.errors import DatasetError
from diffatlas_pipeline.volumes.grids import Grid
from tests.dataset_conversion.heart_sources import load, save

NAMES = [f"case_{number:03d}" for number in range(20)]


@given(st.integers(2, 60), st.floats(0, 0.99), st.integers(0, 9))
def test_test_cases_are_the_share_asked_for_and_leave_one_to_train(count: int, fraction: float, seed: int) -> None:
    cases = [f"c{number}" for number in range(count)]
    test = choose_test(cases, HeartOptions(test_fraction=fraction, seed=seed), Path("source"))
    assert len(test) == min(round(fraction * count), count - 1)
    assert set(test) < set(cases)
    assert test == choose_test(cases[::-1], HeartOptions(test_fraction=fraction, seed=seed), Path("source"))


def test_mmwhs_has_the_papers_numbers_and_the_seed_matters() -> None:
    draws = [choose_test(NAMES, HeartOptions(seed=seed), Path("source")) for seed in range(5)]
    assert {len(test) for test in draws} == {4}
    assert len({tuple(test) for test in draws}) > 1


def test_one_more_case_moves_at_most_one_other() -> None:
    before = set(choose_test(NAMES, HeartOptions(), Path("source")))
    after = set(choose_test([*NAMES, "case_new"], HeartOptions(), Path("source")))
    assert len(before - after) <= 1


def test_few_shot_splits_grow_and_hold_out_the_same_cases() -> None:
    training = NAMES[:16]
    splits = few_shot_splits(training, 0)
    assert list(splits)[:3] == ["2-shot", "4-shot", "8-shot"]
    assert "16-shot" not in splits and {"2-shot-seed1", "8-shot-seed2"} <= set(splits)
    for name, split in splits.items():
        shots = int(name.split("-")[0])
        assert len(split["train"]) == shots and len(split["validation"]) == 3
        assert not set(split["train"]) & set(split["validation"])
        assert {*split["train"], *split["validation"]} <= set(training)
    assert set(splits["2-shot"]["train"]) < set(splits["4-shot"]["train"]) < set(splits["8-shot"]["train"])
    assert splits["2-shot"]["validation"] == splits["8-shot"]["validation"]
    assert splits["2-shot"] != splits["2-shot-seed1"]
    assert few_shot_splits(NAMES[:2], 0) == {}
    assert len(few_shot_splits([f"c{n}" for n in range(600)], 0)["16-shot"]["validation"]) == 8


def test_own_splits_in_the_raw_folder_are_kept_and_outdated_ones_replaced(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"by-hospital": {"train": ["a"]}, "16-shot": {"train": ["gone"]}}))
    write_few_shot_splits(path, few_shot_splits(NAMES, 0))
    found = json.loads(path.read_text())
    assert found["by-hospital"] == {"train": ["a"]}
    assert found["16-shot"]["train"] != ["gone"]
    before = path.stat().st_mtime_ns
    write_few_shot_splits(path, few_shot_splits(NAMES, 0))
    assert path.stat().st_mtime_ns == before
    path.write_text("{")
    with pytest.raises(DatasetError, match=r"splits\.json: cannot be read"):
        write_few_shot_splits(path, {})


def _one(case: HeartCase, grid: Grid) -> np.ndarray:
    return load(case.labels[0]).astype(np.uint8)


@given(st.lists(st.tuples(*(st.integers(0, 9),) * 3), min_size=1, max_size=5), st.floats(0, 12))
def test_the_box_holds_every_labelled_voxel_and_its_margin(points: list[tuple[int, int, int]], margin_mm: float) -> None:
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[tuple(np.array(points).T)] = 1
    grid = Grid.of(labels.shape, np.diag([1.0, 1.5, 2.0, 1.0]))
    box = heart_box(labels, grid, margin_mm)
    assert labels[box].sum() == labels.sum()
    for axis, part in enumerate(box):
        found = np.array(points)[:, axis]
        for gap, room in ((found.min() - part.start, found.min()), (part.stop - 1 - found.max(), 9 - found.max())):
            wanted_mm = min(margin_mm, room * grid.spacing_mm[axis])
            assert gap * grid.spacing_mm[axis] >= wanted_mm - 1e-9
            assert (gap - 1) * grid.spacing_mm[axis] < margin_mm


@pytest.mark.parametrize("scale", [None, 0.5])
def test_a_cropped_case_keeps_its_values_and_its_place_in_space(tmp_path: Path, scale: float | None) -> None:
    rng = np.random.default_rng(0)
    turn = np.array([[0, -1.5, 0, 10], [1.0, 0, 0, -20], [0, 0, 2.0, 30], [0, 0, 0, 1]])
    values, labels = rng.integers(-1000, 1000, (12, 11, 10)).astype(np.int16), np.zeros((12, 11, 10), np.uint8)
    labels[4:7, 5:8, 3:6] = 2
    save(tmp_path / "scan.nii.gz", values, turn)
    if scale:
        image = nib.Nifti1Image(values, turn)
        image.header.set_slope_inter(scale, 3)
        image.to_filename(tmp_path / "scan.nii.gz")
        assert nib.load(tmp_path / "scan.nii.gz").get_fdata()[0, 0, 0] == values[0, 0, 0] * scale + 3
    save(tmp_path / "mask.nii.gz", labels, turn)
    case = HeartCase(tmp_path / "scan.nii.gz", (tmp_path / "mask.nii.gz",))
    write_case("a", case, tmp_path / "out", "Tr", _one, HeartOptions(crop_margin_mm=2.0))
    image, mask = nib.load(tmp_path / "out/imagesTr/a_0000.nii.gz"), nib.load(tmp_path / "out/labelsTr/a.nii.gz")
    assert image.shape == mask.shape == (7, 7, 5)  # 2 mm are two voxels of 1 mm, two of 1.5 mm, one of 2 mm
    np.testing.assert_array_equal(image.affine, mask.affine)
    np.testing.assert_allclose(image.affine @ [0, 0, 0, 1], turn @ [2, 3, 2, 1], atol=1e-5)
    np.testing.assert_allclose(image.affine[:3, :3], turn[:3, :3], atol=1e-6)
    np.testing.assert_array_equal(image.get_fdata(), nib.load(tmp_path / "scan.nii.gz").get_fdata()[2:9, 3:10, 2:7])
    assert image.get_data_dtype() == (np.float32 if scale else np.int16)
    assert np.asanyarray(mask.dataobj).sum() == labels.sum()


def test_cases_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "mask.nii.gz", np.zeros((4, 4, 4), np.uint8), np.eye(4))
    save(tmp_path / "scan.nii.gz", np.full((4, 4, 4), np.nan, np.float32), np.eye(4))
    case = HeartCase(tmp_path / "scan.nii.gz", (tmp_path / "mask.nii.gz",))
    with pytest.raises(DatasetError, match=r"scan\.nii\.gz: holds voxels that are NaN"):
        write_case("a", case, tmp_path / "out", "Tr", _one, HeartOptions())
    save(tmp_path / "scan.nii.gz", np.ones((4, 4, 4), np.float32), np.eye(4))
    with pytest.raises(DatasetError, match=r"mask\.nii\.gz: holds none of the structures Myo, LV"):
        write_case("a", case, tmp_path / "out", "Tr", _one, HeartOptions(crop_margin_mm=1))
    assert not (tmp_path / "out").exists()
