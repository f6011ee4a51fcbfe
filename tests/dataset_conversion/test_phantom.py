"""The heart phantom: repeatable, plausible, not solved by contrast or by the average heart."""

from __future__ import annotations

import json
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import center_of_mass
from scipy.ndimage import label as connected_components

from dataset_conversion.phantom import FIELD_OF_VIEW_MM, TEST_INDEX, generate_case, write_phantom_dataset
from dataset_conversion.phantom_anatomy import LABELS, ROTATION_DEGREES, SCALE, SHIFT_MM, draw_anatomy
from diffatlas_pipeline.errors import DatasetError
from diffatlas_pipeline.volumes.distance import signed_distance_mm

SIZE = (48, 48, 48)  # the quickstart's
SPACING_MM = FIELD_OF_VIEW_MM / 48


@pytest.fixture(scope="module")
def cases() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return [generate_case(0, index, SIZE, "CT") for index in range(12)]


@settings(max_examples=6)
@given(st.integers(0, 2**31), st.integers(0, 10**7), st.sampled_from(["CT", "MRI"]))
def test_any_seed_gives_a_whole_heart_and_gives_it_again(seed: int, index: int, modality: str) -> None:
    image, labels, affine = generate_case(seed, index, (32, 36, 40), modality)
    again = generate_case(seed, index, (32, 36, 40), modality)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(labels, again[1])
    assert (image.dtype, labels.dtype, image.shape, labels.shape) == (np.float32, np.uint8, (32, 36, 40), (32, 36, 40))
    np.testing.assert_allclose(np.diag(affine)[:3] * image.shape, FIELD_OF_VIEW_MM)
    assert np.isfinite(image).all()
    np.testing.assert_array_equal(image, np.rint(image))  # stored as whole numbers, so nothing is lost in the file
    assert np.abs(image).max() < 2**15
    assert set(np.unique(labels)) == {0, *LABELS.values()}
    voxel_ml = FIELD_OF_VIEW_MM**3 / labels.size / 1000
    for value in LABELS.values():
        assert 10 < (labels == value).sum() * voxel_ml < 350
        assert connected_components(labels == value)[1] == 1


def test_people_differ_and_modality_does_not_change_the_person(cases: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    assert (cases[0][1] != cases[1][1]).mean() > 0.02
    assert (generate_case(1, 0, SIZE, "CT")[1] != cases[0][1]).mean() > 0.02
    image, labels, _ = generate_case(0, 0, SIZE, "MRI")
    np.testing.assert_array_equal(labels, cases[0][1])
    assert image.min() >= 0 > cases[0][0].min()


def test_size_changes_the_grid_and_not_the_anatomy() -> None:
    coarse = generate_case(0, 3, (40, 40, 40), "MRI")
    fine = generate_case(0, 3, (80, 80, 40), "MRI")
    for value in LABELS.values():
        centres = [nib.affines.apply_affine(affine, center_of_mass(labels == value)) for _, labels, affine in (coarse, fine)]
        assert np.linalg.norm(centres[0] - centres[1]) < 1.0  # mm
        volumes = [(labels == value).sum() * abs(np.linalg.det(affine[:3, :3])) for _, labels, affine in (coarse, fine)]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.08)


def test_pose_stays_in_the_stated_range_and_uses_it() -> None:
    poses = [draw_anatomy(np.random.default_rng([0, index, 0])).heart for index in range(300)]
    angles = [np.rad2deg(np.arccos(np.clip((np.trace(pose.rotation) - 1) / 2, -1, 1))) for pose in poses]
    shifts = np.abs([pose.shift_mm for pose in poses])
    scales = [pose.scale for pose in poses]
    assert 0.95 * ROTATION_DEGREES < max(angles) <= ROTATION_DEGREES + 1e-6
    assert 0.95 * SHIFT_MM < shifts.max() <= SHIFT_MM
    assert 1 - SCALE <= min(scales) < 1 - 0.9 * SCALE and 1 + 0.9 * SCALE < max(scales) <= 1 + SCALE


def test_chambers_lie_as_in_a_person(cases: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """In RAS+, x grows to the person's right, y to the front, z to the head."""
    for _, labels, affine in cases:
        centre = {name: nib.affines.apply_affine(affine, center_of_mass(labels == value)) for name, value in LABELS.items()}
        assert centre["LV"][0] < centre["RA"][0]  # the left ventricle is to the left of the right atrium
        assert centre["RV"][1] > centre["LA"][1]  # the right ventricle is in front, the left atrium behind
        assert centre["LA"][2] > centre["LV"][2]  # the left atrium is above its ventricle
        # the wall surrounds the left ventricle
        assert np.linalg.norm(centre["Myo"] - centre["LV"]) < 15
        shell = labels == LABELS["Myo"]
        assert shell.sum() > (labels == LABELS["LV"]).sum()


def test_the_wall_spans_about_three_voxels_at_the_quickstart_size(
    cases: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> None:
    thickness = []
    for _, labels, _ in cases:
        depth = -signed_distance_mm(labels == LABELS["Myo"], (SPACING_MM,) * 3)
        thickness.append(2 * np.percentile(depth[labels == LABELS["Myo"]], 99) / SPACING_MM)
    assert np.median(thickness) > 2.5


@pytest.mark.parametrize("modality", ["CT", "MRI"])
def test_contrast_alone_cannot_tell_the_labels(modality: str) -> None:
    """The best classifier of a voxel by its intensity, fitted to this very image, finds no chamber."""
    image, labels, _ = generate_case(0, 1, SIZE, modality)
    edges = np.quantile(image, np.linspace(0, 1, 65)[1:-1])
    bins = np.digitize(image, edges)
    counts = np.stack([np.bincount(bins[labels == value], minlength=64) for value in range(6)])
    guess = counts.argmax(0)[bins]
    assert np.mean([_dice(guess == value, labels == value) for value in LABELS.values()]) < 0.3
    means = [image[labels == LABELS[name]].mean() for name in ("LV", "LA", "RA", "RV")]
    assert np.ptp(means) < 0.25 * np.ptp(np.percentile(image, [2, 98]))


def test_the_mean_distance_map_scores_below_one_half(cases: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    training = [labels for _, labels, _ in cases] + [generate_case(0, index, SIZE, "CT")[1] for index in range(12, 24)]
    mean = np.stack(
        [
            np.mean(
                [np.clip(signed_distance_mm(labels == value, (SPACING_MM,) * 3) / 12, -1, 1) for labels in training], axis=0
            )
            for value in LABELS.values()
        ]
    )
    atlas = np.where(mean.min(0) < 0, mean.argmin(0) + 1, 0)
    scores = []
    for index in range(6):
        labels = generate_case(0, TEST_INDEX + index, SIZE, "CT")[1]
        scores.append([_dice(atlas == value, labels == value) for value in LABELS.values()])
    assert 0.2 < np.mean(scores) < 0.5  # nor so wild that nothing common is left


def test_a_case_takes_less_than_a_second() -> None:
    times = []
    for index in range(3):
        start = time.process_time()
        generate_case(0, index, SIZE, "MRI")
        times.append(time.process_time() - start)
    assert min(times) < 1.0


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"'PET'.*CT, MRI"):
        generate_case(0, 0, SIZE, "PET")
    with pytest.raises(ValueError, match="at least 16"):
        generate_case(0, 0, (48, 8, 48), "CT")


def test_data_set_on_disk_equals_the_generator_and_can_grow(tmp_path: Path) -> None:
    def write(training: int, seed: int = 5, overwrite: bool = False) -> Path:
        return write_phantom_dataset(
            tmp_path,
            1,
            name="Heart",
            training_cases=training,
            test_cases=2,
            size=(24, 20, 16),
            modality="MRI",
            seed=seed,
            overwrite=overwrite,
        )

    folder = write(2)
    assert folder == tmp_path / "Dataset001_Heart"
    for index, case, part in ((1, "heart_0002", "Tr"), (TEST_INDEX, "heart_test_0001", "Ts")):
        image, labels, affine = generate_case(5, index, (24, 20, 16), "MRI")
        stored, stored_labels = (
            nib.load(folder / f"images{part}" / f"{case}_0000.nii.gz"),
            nib.load(folder / f"labels{part}" / f"{case}.nii.gz"),
        )
        np.testing.assert_array_equal(np.asanyarray(stored.dataobj), image)
        np.testing.assert_array_equal(np.asanyarray(stored_labels.dataobj), labels)
        np.testing.assert_allclose(stored.affine, affine, atol=1e-4)
        np.testing.assert_array_equal(stored.affine, stored_labels.affine)
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in folder.rglob("*.nii.gz")}
    assert len(before) == 8
    write(3)
    assert all((path.stat().st_ino, path.read_bytes()) == old for path, old in before.items())
    assert len(list(folder.rglob("*.nii.gz"))) == 10
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 3
    with pytest.raises(DatasetError, match="`overwrite`"):
        write(2)
    with pytest.raises(DatasetError, match=r"other settings.*`overwrite`"):
        write(3, seed=6)
    write(2, seed=6, overwrite=True)
    assert len(list(folder.rglob("*.nii.gz"))) == 8
    np.testing.assert_array_equal(
        np.asanyarray(nib.load(folder / "imagesTr/heart_0001_0000.nii.gz").dataobj),
        generate_case(6, 0, (24, 20, 16), "MRI")[0],
    )


def test_an_interrupted_generation_is_finished(tmp_path: Path) -> None:
    folder = write_phantom_dataset(tmp_path, 1, training_cases=2, test_cases=0, size=(16,))
    content = (folder / "imagesTr/heart_0001_0000.nii.gz").read_bytes()
    (folder / "dataset.json").unlink()
    (folder / "imagesTr/heart_0001_0000.nii.gz").write_bytes(b"from another seed")
    write_phantom_dataset(tmp_path, 1, training_cases=2, test_cases=0, size=(16,))
    assert (folder / "imagesTr/heart_0001_0000.nii.gz").read_bytes() == content


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / max((first.sum() + second.sum()), 1))
