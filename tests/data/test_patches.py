from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline.data.patches import DISTANCE_PADDING, IMAGE_PADDING, PatchSource
from diffatlas_pipeline.errors import DatasetError
from diffatlas_pipeline.preprocessing.store import open_case, write_case
from tests.factories import make_plan, store_cases

LARGE, SMALL = (48, 60, 40), (20, 24, 18)


def source_of(folder: Path, shape: tuple[int, int, int], patch: tuple[int, int, int]) -> tuple[PatchSource, np.ndarray]:
    """Patches of one case, and its distance maps."""
    plan = make_plan(patch_size=patch)
    names = store_cases(folder, plan, [shape])
    distances = open_case(folder, names[0]).distances
    assert distances is not None
    return PatchSource(folder, names, plan), distances[:]


def test_patch_is_a_piece_of_the_case(tmp_path: Path) -> None:
    source, whole = source_of(tmp_path, LARGE, (16, 24, 40))
    rng = np.random.default_rng(0)
    windows = np.lib.stride_tricks.sliding_window_view(whole[0], (16, 24, 40))
    starts = set()
    for _ in range(20):
        image, distances = source.sample(rng)
        assert image.shape == (1, 16, 24, 40) and distances.shape == (2, 16, 24, 40)
        assert image.dtype == distances.dtype == np.float32
        found = np.argwhere((windows == distances[0]).all(axis=(3, 4, 5)))
        assert len(found) >= 1  # never reaches beyond a volume that is large enough
        starts.add(tuple(found[0]))
    assert len(starts) > 10


@pytest.mark.parametrize("change", [{"spacing_mm": (1.0, 1.0, 2.0)}, {"distance": replace(make_plan().distance, tau_mm=7.5)}])
def test_cases_made_with_another_plan_are_refused(tmp_path: Path, change: dict) -> None:
    plan = make_plan()
    names = store_cases(tmp_path, plan, [(20, 20, 20)])
    PatchSource(tmp_path, names, replace(plan, patch_size=(16, 16, 16)))  # what training may change
    with pytest.raises(DatasetError, match=r"case_000.* another plan: spacing_mm.*`overwrite`"):
        PatchSource(tmp_path, names, replace(plan, **change))


def test_half_of_the_patches_or_more_hold_foreground(tmp_path: Path) -> None:
    source, whole = source_of(tmp_path, LARGE, (8, 8, 8))
    rng = np.random.default_rng(0)
    share = np.mean([(source.sample(rng)[1] < 0).any() for _ in range(200)])
    centred = np.mean([(source.sample(rng)[1][:, 4, 4, 4] < 0).any() for _ in range(200)])
    volume_share = (whole < 0).any(axis=0).mean()
    assert share > 0.5 and centred > 0.45 + volume_share / 2


def test_small_volume_lies_whole_in_the_patch_and_is_padded(tmp_path: Path) -> None:
    source, whole = source_of(tmp_path, SMALL, (32, 32, 32))
    rng = np.random.default_rng(0)
    places = set()
    for _ in range(20):
        image, distances = source.sample(rng)
        outside = (image[0] == IMAGE_PADDING) & (distances == DISTANCE_PADDING).all(axis=0)
        assert outside.sum() >= 32**3 - np.prod(SMALL)
        np.testing.assert_array_equal(np.sort(distances[distances < 0]), np.sort(whole[whole < 0].astype(np.float32)))
        places.add(tuple(np.argwhere(distances[0] < 0)[0]))
    assert len(places) > 10  # elsewhere each time


def test_beyond_the_bounds_an_image_goes_on_only_where_asked_for(tmp_path: Path) -> None:
    plan = make_plan(patch_size=(32, 32, 32))
    names = store_cases(tmp_path, plan, [SMALL])
    stored = open_case(tmp_path, names[0])
    assert stored.distances is not None
    write_case(tmp_path, names[0], stored.image[:] * 2 - 1, stored.distances[:], stored.record)
    source = PatchSource(tmp_path, names, plan)
    seen, _ = source.sample(np.random.default_rng(0))
    whole, _ = source.sample(np.random.default_rng(0), beyond=True)
    np.testing.assert_array_equal(np.clip(whole, -1, 1), seen)
    assert whole.min() < -2
    assert (whole == whole.min()).sum() >= 32**3 - np.prod(SMALL)  # padding is as dark as the darkest


@pytest.mark.parametrize("shape", [LARGE, SMALL])
def test_extent_keeps_the_centre(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    source, _ = source_of(tmp_path, shape, (24, 24, 24))
    for seed in range(10):
        patch = source.sample(np.random.default_rng(seed))
        wide = source.sample(np.random.default_rng(seed), (40, 30, 24))
        narrow = source.sample(np.random.default_rng(seed), (20, 24, 22))
        for p, w, n in zip(patch, wide, narrow, strict=True):
            np.testing.assert_array_equal(w[:, 8:32, 3:27], p)
            np.testing.assert_array_equal(n, p[:, 2:22, :, 1:23])


def test_extent_far_outside_is_padding(tmp_path: Path) -> None:
    source, _ = source_of(tmp_path, SMALL, (8, 8, 8))
    image, distances = source.sample(np.random.default_rng(0), (120, 120, 120))
    assert image.shape == (1, 120, 120, 120) and image[0, 0, 0, 0] == IMAGE_PADDING and distances.max() == DISTANCE_PADDING


def test_extent_beside_a_small_volume_is_padding(tmp_path: Path) -> None:
    """Zooming in on a patch in which the volume lies at the rim."""
    source, _ = source_of(tmp_path, SMALL, (120, 120, 120))
    boxes = [source.sample(np.random.default_rng(seed), (20, 20, 20)) for seed in range(20)]
    empty = [box for box in boxes if (box[0] == IMAGE_PADDING).all()]
    assert empty and all((distances == DISTANCE_PADDING).all() for _, distances in empty)


def test_cases_that_cannot_be_trained_on(tmp_path: Path) -> None:
    plan = make_plan()
    (name,) = store_cases(tmp_path, plan, [SMALL])
    stored = open_case(tmp_path, name)
    write_case(tmp_path, "unlabelled", stored.image[:], None, stored.record)
    with pytest.raises(DatasetError, match="'unlabelled' is unlabelled"):
        PatchSource(tmp_path, [name, "unlabelled"], plan)
    with pytest.raises(DatasetError, match="'nowhere' is not preprocessed"):
        PatchSource(tmp_path, [name, "nowhere"], plan)
    with pytest.raises(DatasetError, match="no case"):
        PatchSource(tmp_path, [], plan)
    fewer = dataclasses.replace(plan, dataset=dataclasses.replace(plan.dataset, labels=plan.dataset.labels[:1]))
    with pytest.raises(DatasetError, match=r"2 distance map\(s\), but the plan has 1 and 1"):
        PatchSource(tmp_path, [name], fewer)
