"""Where structures are found at low resolution, and what becomes of that at full resolution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffatlas_pipeline.atlases.policy import AtlasUse
from diffatlas_pipeline.atlases.segmenter import Segmenter
from diffatlas_pipeline.datasets.codes import codes_of
from diffatlas_pipeline.inference.coarse_to_fine import CoarseToFine, _pasted, box_around, refined, wider
from diffatlas_pipeline.methods.base import PlannedSegmentation
from diffatlas_pipeline.methods.segmentation_loss import label_probabilities
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.scratch import IN_MEMORY
from diffatlas_pipeline.volumes.grids import Grid, LabelVolume, Volume
from diffatlas_pipeline.volumes.resample import resample
from tests.inference.closed_form import CPU, fold, ready, scan
from tests.model_files import plan, recipe

NOWHERE = 10.0  # brighter than any voxel
SHAPE = (48, 44, 52)


def coarse_to_fine(first: float = 0.0, second: float = 0.6) -> CoarseToFine:
    """The closed form at 1 mm, told where to look by one at 2 mm, whose labels are what is brighter than this."""
    found = fold(small=replace(plan(), spacing_mm=(2.0, 2.0, 2.0)))
    rough = replace(found, state=found.state | {"bias": torch.tensor([first, 3 * second])})
    return CoarseToFine(ready([rough]), [fold()], CPU, recipe(), precision="float32")


def large_scan() -> Volume:
    """The ellipsoid of :func:`scan` in the far corner of a large volume of noise."""
    small, _ = scan((32, 36, 44))
    image = 10 + np.random.default_rng(1).normal(0, 2, SHAPE).astype(np.float32)
    image[16:48, 8:44, 8:52] = small
    return Volume(image[None], Grid.of(image.shape, np.eye(4)))


@given(
    st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 60)] * 3), st.tuples(*[st.integers(1, 32)] * 3), st.data()
)
def test_the_box_holds_what_was_found_and_at_least_a_patch(
    coarse: tuple, shape: tuple, patch: tuple, data: st.DataObject
) -> None:
    found = data.draw(st.lists(st.tuples(*[st.integers(0, size - 1) for size in coarse]), max_size=4))
    distances = np.ones((2, *coarse), dtype=np.float32)
    for number, voxel in enumerate(found):
        distances[(number % 2, *voxel)] = -0.1
    box = box_around(distances, shape, patch)
    if box is None:
        assert not found
        return
    for axis, edges in enumerate(box):
        assert 0 <= edges.start < edges.stop <= shape[axis]
        assert edges.stop - edges.start >= min(patch[axis], shape[axis])
        for voxel in found:
            first, last = (shape[axis] * (voxel[axis] + end) / coarse[axis] for end in (0, 1))
            margin = patch[axis] / 8
            assert edges.start <= max(0, first - margin) and edges.stop >= min(shape[axis], last + margin)


def test_a_small_structure_is_one_patch_wherever_it_lies() -> None:
    for where in (0, 10, 19):
        distances = np.ones((1, 20, 20, 20), dtype=np.float32)
        distances[0, where, 10, 10] = -1
        box = box_around(distances, (80, 80, 80), (32, 32, 32))
        assert box is not None and [edges.stop - edges.start for edges in box] == [32, 32, 32]


def test_a_box_grows_where_a_label_is_cut_and_not_out_of_the_volume() -> None:
    distances = np.ones((2, 16, 16, 16), dtype=np.float32)
    box = (slice(0, 16), slice(10, 26), slice(20, 36))
    assert wider(box, distances, (64, 64, 40), (16, 16, 16)) == box
    distances[0, 0, 8, 8] = distances[1, 8, 0, 8] = distances[0, 8, 8, 15] = -0.5  # the first is a face of the volume
    assert wider(box, distances, (64, 64, 37), (16, 16, 16)) == (slice(0, 16), slice(8, 26), slice(20, 37))


def test_what_was_found_is_refined_as_the_whole_would_be() -> None:
    rough = np.random.default_rng(0).uniform(-1, 1, (2, 6, 7, 5)).astype(np.float32)
    box = (slice(3, 11), slice(0, 9), slice(2, 12))
    whole = (2 * resample(rough, (13, 15, 12), 1)).clip(-1, 1)
    np.testing.assert_allclose(refined(rough, (13, 15, 12), box, 2.0), whole[(slice(None), *box)], atol=1e-6)


def test_it_is_the_segmentation_of_the_whole_where_the_labels_are() -> None:
    volume, whole, first = large_scan(), ready(), coarse_to_fine()
    expected = whole.segment(whole.prepare(volume)).distances
    steps: list[float] = []
    prepared = first.prepare(volume)
    found = first.segment(prepared, lambda done, total: steps.append(done / total))
    inside = found.distances != 1
    assert 0.1 < inside.float().mean() < 0.5, "it looked at a part"
    assert torch.allclose(found.distances[inside], expected[inside], atol=1e-5)
    assert expected[~inside].min() > 0
    assert found.rough is not None and found.rough.distances.shape == (2, 24, 22, 26)
    assert np.array_equal(first.restore(found, prepared).labels, whole.restore(whole.segment(prepared), prepared).labels)
    assert all(0 <= step <= 1 for step in steps)


def test_a_structure_that_low_resolution_cuts_off_is_followed() -> None:
    """It sees the very bright core alone."""
    volume, whole, first = large_scan(), ready(), coarse_to_fine(NOWHERE, 0.7)
    prepared = first.prepare(volume)
    box = box_around(first.rough.segment(first.rough.prepare(volume)).distances.numpy(), SHAPE, (16, 16, 16))
    expected = whole.segment(prepared).distances < 0
    outside = torch.ones_like(expected)
    outside[(slice(None), *box)] = False  # type: ignore[misc]
    assert (expected & outside).any(), "the box is too small at first"
    assert torch.equal(first.segment(prepared).distances < 0, expected)


def test_a_scan_in_which_nothing_is_found_or_something_is_special_is_segmented_as_a_whole() -> None:
    volume = large_scan()
    whole, nothing = ready(), coarse_to_fine(NOWHERE, NOWHERE)
    expected = whole.segment(whole.prepare(volume)).distances
    assert torch.equal(nothing.segment(nothing.prepare(volume)).distances, expected)
    gap = Volume(np.full_like(volume.array, np.nan), volume.grid)
    with pytest.raises(Exception, match="missing"):  # as without low resolution
        coarse_to_fine().prepare(gap)
    drawn = coarse_to_fine().prepare(volume, drawing=LabelVolume(np.zeros(volume.array.shape[1:], np.int32), volume.grid))
    assert drawn.rough is None and drawn.drawing is not None


def test_atlases_beside_it_keep_what_low_resolution_says_and_an_adapted_scan_is_segmented_as_a_whole() -> None:
    volume, first = large_scan(), coarse_to_fine()
    seen = ready().prepare(volume).image
    kept = Atlas("kept", seen.astype(np.float16), np.full((2, *SHAPE), 0.5, np.float16))
    late = Segmenter(first, [kept], AtlasUse(late_fusion=True))
    scan = late.prepare(volume)
    assert late.segment(scan).rough is not None
    adapted = Segmenter(first, [kept], AtlasUse("curve")).prepare(volume)
    assert scan.shown.rough is not None and adapted.shown.rough is None


def test_memory_counts_the_distances_of_the_whole_scan() -> None:
    first = coarse_to_fine()
    prepared = first.prepare(large_scan())
    part = replace(prepared, image=prepared.image[:, :16, :16, :16])
    beside = 4 * 2 * int(np.prod(SHAPE))
    assert first._need(part).disk == ready()._need(part).disk + beside
    assert first._need(part).in_memory == ready()._need(part).in_memory + beside
    assert first._need(prepared) == ready()._need(prepared)


def test_probabilities_elsewhere_are_those_of_no_label() -> None:
    codes = codes_of(plan().dataset.labels)
    found = PlannedSegmentation(torch.full((2, 4, 4, 4), -0.5), probabilities=torch.full((2, 4, 4, 4), 0.5))
    box = (slice(1, 5), slice(0, 4), slice(2, 6))
    pasted = _pasted(found, box, (6, 6, 6), IN_MEMORY, 8.0, codes)
    far = label_probabilities(torch.ones((2, 6, 6, 6)), 8.0, codes)
    assert pasted.probabilities is not None
    far[(slice(None), *box)] = 0.5
    assert torch.allclose(pasted.probabilities, far)
    assert (pasted.distances < 0).sum() == 2 * 64
