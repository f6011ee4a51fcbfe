"""Two answers averaged, and the share that fits a scan."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffatlas_pipeline.atlases.late_fusion import NETWORK_SHARE, SHARES, fitting_share, fused, variance_explained
from diffatlas_pipeline.methods.base import PlannedSegmentation
from diffatlas_pipeline.registration.fusion import distances_of
from diffatlas_pipeline.registration.warp import voxel_grid

SHAPE = (30, 28, 26)
SPACING_MM = (1.0, 1.0, 1.0)
TAU_MM = 5.0


def ball(shift: float, radius: float = 7) -> np.ndarray:
    """Labels (X, Y, Z): 1 within a ball, 2 in a shell about it."""
    x, y, z = voxel_grid(SHAPE) - (np.array(SHAPE)[:, None, None, None] - 1) / 2
    distance = np.sqrt((x - shift) ** 2 + y**2 + z**2)
    return np.where(distance < radius, 1, np.where(distance < radius + 3, 2, 0))


def answer(shift: float) -> PlannedSegmentation:
    return PlannedSegmentation(torch.from_numpy(distances_of(ball(shift), 2, SPACING_MM, TAU_MM).astype(np.float32)))


def test_a_mixture_has_the_mean_of_its_parts() -> None:
    found = fused(PlannedSegmentation(torch.tensor([[0.5]])), PlannedSegmentation(torch.tensor([[-0.5]])), 0.25)
    assert found.distances.item() == pytest.approx(-0.25) and found.network_share == 0.25


@pytest.mark.parametrize("contrast", [1, -1])
@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_the_answer_in_the_right_place_gets_the_larger_share(contrast: int, bias: float) -> None:
    """Whatever the contrast is, and under an intensity that drifts through the scan."""
    truth = ball(2)
    drift = bias * np.linspace(-1, 1, SHAPE[1])[None, :, None]
    noise = 0.1 * np.random.default_rng(0).normal(size=SHAPE)
    scan = (contrast * np.choose(truth, [-0.4, 0.4, 0.0]) + drift + noise)[None].astype(np.float32)
    right, wrong = answer(2), answer(-3)
    assert fitting_share(scan, right, wrong, SPACING_MM, TAU_MM) == max(SHARES) > NETWORK_SHARE
    assert fitting_share(scan, wrong, right, SPACING_MM, TAU_MM) == min(SHARES) < NETWORK_SHARE
    assert min(SHARES) > 0 and max(SHARES) < 1  # neither is ever left out


def test_a_scan_that_tells_nothing_changes_nothing() -> None:
    flat = np.zeros((1, *SHAPE), np.float32)
    assert fitting_share(flat, answer(2), answer(-3), SPACING_MM, TAU_MM) == SHARES[0]
    nothing = PlannedSegmentation(torch.ones(2, *SHAPE))
    assert fitting_share(flat + 1, nothing, nothing, SPACING_MM, TAU_MM) == SHARES[0]


def test_variance_explained_is_that_of_an_analysis_of_variance() -> None:
    labels = np.repeat([0, 2, 3], [5, 3, 4])
    values = np.random.default_rng(1).normal(size=(2, 12)) + labels
    within = [sum(np.var(one[labels == k]) * (labels == k).sum() for k in (0, 2, 3)) for one in values]
    wanted = np.mean([1 - part / (np.var(one) * 12) for part, one in zip(within, values, strict=True)])
    assert variance_explained(values, labels) == pytest.approx(wanted)
    assert variance_explained(np.concatenate([values, np.ones((1, 12))]), labels) == pytest.approx(wanted)
    assert variance_explained(np.ones((1, 12)), labels) == 0
