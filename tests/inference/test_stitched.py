from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffatlas_pipeline.diffusion.guidance import Guidance, guided
from diffatlas_pipeline.diffusion.levels import sampling_levels
from diffatlas_pipeline.diffusion.solvers import SOLVERS, Parts, sample, whole
from diffatlas_pipeline.errors import ModelError
from diffatlas_pipeline.inference.stitched import Stitcher

MIX = torch.tensor([[0.5, -1.0], [2.0, 0.25], [-0.75, 1.5]])


def pointwise(windows: Tensor) -> Tensor:
    """A closed-form denoiser: each voxel's two channels are mixed linearly into three."""
    return torch.einsum("kc,bcxyz->bkxyz", MIX, windows) + 0.3


triples = st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))


@settings(max_examples=60)
@given(triples, st.tuples(*[st.integers(1, 8)] * 3), st.integers(1, 5), st.sampled_from([0.0, 0.5, 0.75]))
def test_pointwise_function_stitched_equals_the_whole_volume(shape: tuple, patch: tuple, batch: int, overlap: float) -> None:
    volume = torch.randn(2, *shape, generator=torch.Generator().manual_seed(sum(shape)))
    stitched = Stitcher(patch, overlap, batch)(pointwise, volume)
    assert stitched.shape == (3, *shape)
    assert torch.allclose(stitched, pointwise(volume[None])[0], atol=1e-5)


def test_one_window_is_a_plain_call_without_blending() -> None:
    calls = []

    def record(window: Tensor) -> Tensor:
        calls.append(window.shape)
        return window * 2

    volume = torch.randn(1, 4, 6, 8)
    assert torch.equal(Stitcher((4, 6, 8), batch_size=4)(record, volume), volume * 2)
    assert calls == [(1, 1, 4, 6, 8)]


@pytest.mark.parametrize(
    ("size", "expected"), [(3, [0, 0, 1, 2, 2, 2]), (2, [0, 0, 0, 1, 1, 1]), (1, [0] * 6), (5, [0, 1, 2, 3, 4, 4])]
)
def test_small_volume_is_padded_with_its_edge_values_on_both_sides_alike(size: int, expected: list[int]) -> None:
    seen = []

    def record(window: Tensor) -> Tensor:
        seen.append(window.clone())
        return window

    volume = torch.arange(float(size)).reshape(1, size, 1, 1)
    assert torch.equal(Stitcher((6, 2, 1))(record, volume), volume)
    (window,) = seen
    assert window.shape == (1, 1, 6, 2, 1) and window[0, 0, :, 0, 0].tolist() == expected


def test_blend_favours_window_centres() -> None:
    """Where two windows overlap, the one whose centre is nearer counts more, and the change is gradual."""
    number = iter([0.0, 1.0])
    result = Stitcher((8, 1, 1), 0.5, 1)(lambda window: torch.full_like(window, next(number)), torch.zeros(1, 12, 1, 1))
    profile = result[0, :, 0, 0]
    assert torch.all(profile[:4] == 0)
    assert torch.all(profile[8:] == 1)
    assert torch.all(profile.diff() >= 0)
    assert profile[5] < 0.5 < profile[6]


def test_windows_are_weighted_by_a_gaussian_and_divided_by_the_sum_of_weights() -> None:
    """Two windows of eight voxels that start at 0 and 4: each voxel is the mean by weights exp(-d^2 / 2), sigma one
    voxel.
    """
    number = iter([1.0, 3.0])
    result = Stitcher((8, 1, 1), 0.5, 1)(lambda window: torch.full_like(window, next(number)), torch.zeros(1, 12, 1, 1))
    weight = [max(math.exp(-((i - 3.5) ** 2) / 2), 1e-3) for i in range(8)]
    expected = [(weight[i] + 3 * weight[i - 4]) / (weight[i] + weight[i - 4]) for i in range(4, 8)]
    assert result[0, 4:8, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_window_function_may_answer_in_half_precision() -> None:
    volume = torch.randn(2, 9, 8, 7, generator=torch.Generator().manual_seed(0))
    for patch in ((4, 4, 4), (9, 8, 7)):
        found = Stitcher(patch)(lambda windows: pointwise(windows).half(), volume)
        assert found.dtype == torch.float32
        assert torch.allclose(found, pointwise(volume[None])[0], atol=4e-3)


def test_full_device_halves_the_batches_and_keeps_the_result() -> None:
    batches = []

    def small_device(windows: Tensor) -> Tensor:
        batches.append(len(windows))
        if len(windows) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return pointwise(windows)

    stitcher = Stitcher((4, 4, 4), 0.5, batch_size=8)
    volume = torch.randn(2, 9, 8, 7)
    assert torch.allclose(stitcher(small_device, volume), pointwise(volume[None])[0], atol=1e-5)
    assert stitcher.batch_size == 2
    assert batches[:3] == [8, 4, 2]
    assert max(batches[2:]) == 2


@pytest.mark.parametrize("shape", [(4, 4, 4), (9, 4, 4)])
def test_window_that_never_fits_is_said(shape: tuple[int, int, int]) -> None:
    def full(windows: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ModelError, match="4x4x4"):
        Stitcher((4, 4, 4), batch_size=4)(full, torch.zeros(2, *shape))


def test_other_errors_pass_through() -> None:
    def broken(windows: Tensor) -> Tensor:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Stitcher((4, 4, 4))(broken, torch.zeros(2, 9, 4, 4))


def gaussian_posterior(windows: Tensor, image_level: float, mask_level: float) -> Tensor:
    """E[z0 | z] of data that is one Gaussian voxel by voxel, image and mask being correlated: exact, linear and
    pointwise.
    """
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.5]], dtype=windows.dtype)
    angles = torch.tensor([image_level, mask_level], dtype=windows.dtype) * math.pi / 2
    signal, noise = torch.diag(angles.cos()), torch.diag(angles.sin() ** 2 + 1e-6)
    gain = covariance @ signal @ torch.linalg.inv(signal @ covariance @ signal + noise)
    return torch.einsum("kc,bcxyz->bkxyz", gain, windows)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("shape", [(9, 8, 7), (5, 3, 11), (9, 6, 1)])
def test_stitched_sampling_equals_whole_volume_sampling(solver: str, shape: tuple[int, int, int]) -> None:
    """Whole solver loops with a denoiser known in closed form: overlapping windows against one call per step."""
    stitcher = Stitcher((4, 4, min(4, shape[2])), 0.5, batch_size=3)
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))

    def at_once(state: Tensor, image_level: float, mask_level: float) -> Tensor:
        return gaussian_posterior(state[None], image_level, mask_level)[0]

    def stitched(state: Tensor, image_level: float, mask_level: float) -> Parts:
        return stitcher.rows(lambda windows: gaussian_posterior(windows, image_level, mask_level), state)

    results = []
    for denoise in (whole(at_once), stitched):
        generator = torch.Generator().manual_seed(7)
        start = torch.randn(2, *shape, generator=generator)
        told = guided(denoise, image, Guidance(1.0, "fresh"), generator)
        levels = sampling_levels("cosine", 20, 8)
        results.append(sample(told, start, levels, SOLVERS[solver], 0.5, generator))
    assert max(shape) > max(stitcher.patch)
    assert torch.allclose(*results, atol=2e-5)
    assert results[0][1].std() > 0.1
