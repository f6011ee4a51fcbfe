"""Bounds of distances where some voxels' labels are not known: they hold the truth, and only it is learnt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.methods.diffatlas import DiffAtlas
from diffatlas_pipeline.methods.partly_known import Bounds
from diffatlas_pipeline.methods.registry import create_method, recipe_of
from diffatlas_pipeline.methods.segmentation_loss import label_logits, segmentation_loss
from diffatlas_pipeline.preprocessing.distance_maps import encode_mask
from diffatlas_pipeline.training.cases import check_partly_known
from tests.factories import make_plan

SHAPE = (16, 16, 16)


def ball(radius: float, shift: float = 0) -> np.ndarray:
    grid = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij")
    return np.asarray((grid[0] - shift) ** 2 + grid[1] ** 2 + grid[2] ** 2 < radius**2)


def maps(mask: np.ndarray, unknown: np.ndarray) -> torch.Tensor:
    """(1, 2, X, Y, Z): upper and lower bounds of one label."""
    pair = [encode_mask(one, (1.0, 1.0, 1.0), 4.0) for one in (mask & ~unknown, mask | unknown)]
    return torch.from_numpy(np.stack(pair))[None]


@pytest.mark.parametrize("seed", range(4))
def test_the_true_distances_lie_between_the_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask, unknown = ball(5, rng.uniform(-2, 2)), rng.random(SHAPE) < 0.3
    if seed % 2:
        unknown[:, :, ::3] = False
    bounds, true = Bounds.of(maps(mask, unknown), 1), torch.from_numpy(encode_mask(mask, (1.0, 1.0, 1.0), 4.0))[None, None]
    assert (bounds.low <= true).all() and (true <= bounds.high).all() and bounds.open.tolist() == [True]
    assert bounds.known is not None and np.array_equal(bounds.known[0].numpy(), ~unknown)
    assert torch.equal(bounds.nearest(true), true)  # what may be true is no error
    far = bounds.nearest(torch.full_like(true, 9.0))
    assert torch.equal(far, bounds.high)


def test_without_unknown_voxels_bounds_are_the_distances() -> None:
    plain = maps(ball(5), np.zeros(SHAPE, dtype=bool))
    alone = Bounds.of(plain[:, :1], 1)
    assert alone.known is None and not alone.open.any() and alone.one is alone.high
    both = Bounds.of(plain, 1)
    assert not both.open.any() and torch.equal(both.one, plain[:, :1]) and both.known is not None and both.known.all()


def test_labels_that_are_not_known_cost_nothing() -> None:
    mask, unknown = ball(5), np.zeros(SHAPE, dtype=bool)
    unknown[8:] = True
    bounds = Bounds.of(maps(mask, unknown), 1)
    right = torch.from_numpy(encode_mask(mask, (1.0, 1.0, 1.0), 4.0))[None, None]
    other = right.clone()
    other[:, :, 8:] = 1.0
    losses = [float(segmentation_loss(label_logits(one), bounds.high, known=bounds.known)) for one in (right, other)]
    assert losses[0] == pytest.approx(losses[1])
    wrong = [float(segmentation_loss(label_logits(one), right)) for one in (right, other)]
    assert wrong[1] > wrong[0] + 0.1
    assert float(segmentation_loss(label_logits(right), bounds.high, known=torch.zeros_like(bounds.known))) == pytest.approx(0)  # type: ignore[arg-type]


class Answer(torch.nn.Module):
    """A network that always puts out the same, (c, X, Y, Z), which is what it learns."""

    def __init__(self, channels: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        start = 0.1 * torch.randn((channels, *shape), generator=torch.Generator().manual_seed(5))
        self.out = torch.nn.Parameter(start)

    def forward(self, seen: torch.Tensor, *levels: torch.Tensor) -> torch.Tensor:
        return self.out.expand(len(seen), *self.out.shape)


@pytest.mark.parametrize("name", ["diffatlas", "icmd", "icf"])
def test_nothing_is_learnt_where_nothing_is_known(name: str) -> None:
    plan = make_plan(patch_size=(16, 16, 16))
    plan = replace(plan, dataset=replace(plan.dataset, labels=plan.dataset.labels[:1], ignore=9))
    method = create_method(name, plan, recipe_of(plan, name, "default"))
    unknown = np.zeros(SHAPE, dtype=bool)
    unknown[..., 7:] = True
    distances = maps(ball(5), unknown).clamp(-1, 1).repeat(2, 1, 1, 1, 1)
    image = torch.randn((2, len(plan.channels), *SHAPE), generator=torch.Generator().manual_seed(1))
    masks = {"diffatlas": len(plan.channels), "icmd": 0, "icf": 0}[name]
    network = Answer(masks + (2 if name == "icf" else 1), SHAPE)
    report = method.loss(network, image, distances, torch.Generator().manual_seed(2))  # type: ignore[attr-defined]
    report.total.backward()
    assert torch.isfinite(report.total) and network.out.grad is not None
    learnt = network.out.grad[masks:].abs().amax(dim=0)
    free = (distances[0, 0] == 1) & (distances[0, 1] == -1)  # any distance may be true
    assert free.sum() > 500 and float(learnt[free].max()) == 0
    assert float(learnt[..., :6].max()) > 0


def test_a_network_that_predicts_noise_refuses() -> None:
    plan = make_plan()
    plan = replace(plan, dataset=replace(plan.dataset, ignore=9))
    for recipe in ("default", "paper"):
        check_partly_known(DiffAtlas(plan, DiffAtlas.recipes[recipe]))
    with pytest.raises(UserError, match="known in part"):
        check_partly_known(DiffAtlas(plan, DiffAtlas.recipes["paper-noise"]))
