"""Simulated contrasts: the same cases and labels, another look at them, from a seed."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks import contrasts
from benchmarks.contrasts import TEST, VALIDATION, write_contrast
from benchmarks.raw_data import place_hippocampus
from diffatlas_pipeline.datasets.raw import read_dataset
from tests.measuring.small_task import use_lists, write_task
from tests.planning.raw_data import ball_case

NOTHING = np.random.default_rng(0)


@pytest.fixture
def ball() -> tuple[np.ndarray, np.ndarray]:
    """An image in [0, 1] and its labels 3 and 7."""
    image, labels = ball_case()
    return (image - image.min()) / np.ptp(image), labels


def test_inverted_and_v_shaped_are_curves_of_the_intensity(ball: tuple[np.ndarray, np.ndarray]) -> None:
    image, labels = ball
    assert np.allclose(contrasts.inverted(image, labels, NOTHING)[0] + image, 1)
    shown = contrasts.v_shaped(image, labels, NOTHING)[0]
    darker = image < np.median(image)
    assert np.corrcoef(shown[darker], image[darker])[0, 1] < -0.99 < 0.99 < np.corrcoef(shown[~darker], image[~darker])[0, 1]
    assert shown.min() == pytest.approx(0, abs=1e-4) and shown.max() == 1


def test_t2_like_gives_each_tissue_another_mean_and_keeps_its_detail() -> None:
    labels = np.zeros((24, 12, 12), dtype=np.uint8)
    labels[10:14, 4:8, 2:6], labels[10:14, 4:8, 6:10] = 3, 7
    fluid, grey, white = (np.s_[start : start + 6] for start in (1, 9, 17))
    detail = np.random.default_rng(1).normal(0, 0.02, labels.shape)
    image = detail + np.repeat([0.1, 0.5, 0.9], 8)[:, None, None]
    shown = contrasts.t2_like(image, labels, np.random.default_rng(0))[0]
    rest = labels[grey] == 0
    found = [shown[fluid].mean(), shown[grey][rest].mean(), shown[white].mean(), *(shown[labels == v].mean() for v in (3, 7))]
    assert found == pytest.approx([*contrasts.T2_CLUSTERS, contrasts.T2_LABEL, contrasts.T2_LABEL], abs=0.06)
    assert np.corrcoef(shown[fluid].ravel(), detail[fluid].ravel())[0, 1] > 0.9
    assert np.array_equal(shown, contrasts.t2_like(image, labels, np.random.default_rng(0))[0])
    assert not np.allclose(shown, contrasts.t2_like(image, labels, np.random.default_rng(1))[0])


def test_a_scan_with_much_black_around_it_has_a_t2_too() -> None:
    image, labels = np.zeros((8, 8, 8)), np.zeros((8, 8, 8), dtype=np.uint8)
    image[2:6, 2:6, 2:6], labels[3:5, 3:5, 3:5] = 1, 1
    assert np.isfinite(contrasts.t2_like(image, labels, np.random.default_rng(0))[0]).all()


def test_a_thick_slice_is_a_mean_and_has_the_label_of_most_of_it() -> None:
    image = np.arange(7.0) * np.ones((1, 1, 1))
    labels = np.array([0, 0, 7, 3, 3, 0, 0])[None, None].astype(np.uint8)
    shown, of_slabs = contrasts.thick_slices(image, labels, NOTHING)
    assert shown.ravel().tolist() == [2, 6 - 1 / 5], "the last slice is repeated where a slab is not full"
    assert of_slabs.ravel().tolist() == [3, 0] and of_slabs.dtype == np.uint8


@pytest.mark.parametrize(("number", "name"), [(44, "ball_006"), (54, "ball_003")])
def test_thick_slices_lie_where_the_thin_ones_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    hippocampus = placed(tmp_path, monkeypatch)
    part = "Ts" if number == 44 else "Tr"
    thin = nib.load(hippocampus / f"labels{part}" / f"{name}.nii.gz")
    folder = write_contrast(number, hippocampus)
    image, thick = (nib.load(folder / f"{kind}Tr" / file) for kind, file in
                    (("images", f"{name}_0000.nii.gz"), ("labels", f"{name}.nii.gz")))  # fmt: skip
    assert image.shape == thick.shape == (24, 28, 4) and np.array_equal(image.affine, thick.affine)
    assert nib.affines.voxel_sizes(thick.affine).tolist() == [1, 1, 5]
    centres = [one.affine[:3, :3] @ np.argwhere(one.get_fdata() == 3).mean(axis=0) + one.affine[:3, 3] for one in (thin, thick)]
    assert np.allclose(*centres, atol=0.5), "in millimetres"


def placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_lists(monkeypatch, write_task(tmp_path / "Task04_Hippocampus") / "protocol.json")
    return place_hippocampus(tmp_path, tmp_path / "w")


def test_test_and_validation_cases_become_data_sets_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hippocampus = placed(tmp_path, monkeypatch)
    for number, name in (TEST | VALIDATION).items():
        folder = write_contrast(number, hippocampus)
        dataset = read_dataset(folder)
        assert folder.name == f"Dataset{number:03d}_{name}"
        wanted = ["ball_006", "ball_007"] if number in TEST else ["ball_003", "ball_004", "ball_005"]
        assert [files.case for files in dataset.training] == wanted
        assert dataset.description.labels == read_dataset(hippocampus).description.labels
        if "Thick" not in name:
            kept, mine = (hippocampus / f"labels{'Ts' if number in TEST else 'Tr'}", folder / "labelsTr")
            labels = [nib.load(place / f"{wanted[0]}.nii.gz").get_fdata() for place in (kept, mine)]
            assert np.array_equal(*labels)


def test_the_same_seed_gives_the_same_scans_and_they_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hippocampus = placed(tmp_path, monkeypatch)

    def voxels(seed: int) -> tuple[np.ndarray, int]:
        path = write_contrast(43, hippocampus, seed) / "imagesTr" / "ball_006_0000.nii.gz"
        return nib.load(path).get_fdata(), path.stat().st_mtime_ns

    first, time = voxels(0)
    assert voxels(0)[1] == time
    other, _ = voxels(1)
    again, later = voxels(0)
    assert np.array_equal(first, again) and later > time and not np.array_equal(first, other)
