"""What is shown of the true labels in training, and that a network follows what is drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.inference.padded import segment_padded
from diffatlas_pipeline.inference.stitched import Stitcher
from diffatlas_pipeline.methods.base import LearnedMethod
from diffatlas_pipeline.methods.drawings import (
    FURTHEST,
    MOST_SLICES,
    Shown,
    displaced,
    of_samples,
    random_drawings,
    showing,
    spread,
    with_drawings,
)
from diffatlas_pipeline.methods.registry import create_method, default_recipes, recipe_of, training_digest
from tests.model_files import plan

SHAPE, SMALL = (16, 16, 16), (8, 8, 8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def all_of(distances: Tensor) -> Tensor:
    return torch.ones(len(distances), dtype=torch.bool)


def two_boxes(count: int) -> Tensor:
    """Distances (count, 2, 16, 16, 16): two boxes side by side, with their signs alone."""
    distances = torch.ones(count, 2, *SHAPE)
    distances[:, 0, 3:8, 4:12, 5:11] = -0.5
    distances[:, 1, 8:13, 4:12, 5:11] = -0.5
    return distances


def test_what_is_shown_is_true_and_a_part() -> None:
    distances = two_boxes(200)
    drawings = random_drawings(distances, all_of(distances), generator())
    known = drawings[:, 0] != 0
    assert torch.equal(known, drawings[:, 1] != 0)
    shown = known[:, None].expand_as(distances)
    assert torch.equal((drawings < 0)[shown], (distances < 0)[shown])
    shares = known.flatten(1).float().mean(dim=1)
    assert shares.min() > 0 and shares.max() < 1
    assert torch.equal(random_drawings(distances, all_of(distances), generator()), drawings)


def test_slices_boxes_and_structures_are_shown() -> None:
    known = random_drawings(two_boxes(300), torch.ones(300).bool(), generator())[:, 0] != 0
    structure = two_boxes(1)[0] < 0
    found = {"slices": 0, "boxes": 0, "structures": 0}
    for one in known:
        planes = [int(one.flatten(1).all(dim=1).sum()) for one in (one, one.transpose(0, 1), one.transpose(0, 2))]
        box = tuple(slice(int(where.min()), int(where.max()) + 1) for where in one.nonzero().T)
        if any(torch.equal(one, shape) for shape in structure):
            found["structures"] += 1
        elif max(planes) * 16 * 16 == one.sum():
            found["slices"] += 1
            assert 1 <= max(planes) <= MOST_SLICES
        elif one[box].all():
            found["boxes"] += 1
    assert found["slices"] > 100 and found["boxes"] > 25 and found["structures"] > 25


def test_nothing_is_shown_of_some_samples_and_of_unlabelled_ones() -> None:
    distances = two_boxes(400)
    distances[:100] = torch.nan
    network, learnt = with_drawings(nn.Identity(), distances, 0.5, (1.0, 1.0, 1.0), generator())
    assert isinstance(network, Shown) and not network.drawing.isnan().any()
    drawn = (network.drawing != 0).flatten(1).any(dim=1)
    assert not drawn[:100].any() and learnt[:100].isnan().all()
    assert 0.4 < drawn[100:].float().mean() < 0.6
    assert torch.equal(learnt[100:][~drawn[100:]], distances[100:][~drawn[100:]])


def test_most_drawings_are_of_labels_that_the_image_does_not_tell() -> None:
    """They are what is to be learnt then: drawn voxels have its signs."""
    distances = balls(100)
    network, learnt = with_drawings(nn.Identity(), distances, 1.0, (1.0, 1.0, 1.0), generator())
    same = (learnt == distances).flatten(1).all(dim=1)
    assert 0.1 < same.float().mean() < 0.4
    drawn = network.drawing.abs() == 1
    assert torch.equal((network.drawing < 0)[drawn], (learnt < 0)[drawn])
    assert with_drawings(nn.Identity(), distances, 0.0, (1.0, 1.0, 1.0), generator())[1] is distances


def balls(count: int) -> Tensor:
    """Signed distances (count, 1, 16, 16, 16) of a ball of radius 5."""
    away = torch.cartesian_prod(*[torch.arange(16.0) - 7.5] * 3).norm(dim=1).reshape(SHAPE)
    return ((away - 5) / 5).expand(count, 1, *SHAPE)


def test_displaced_labels_stay_shapes_near_the_true_ones() -> None:
    random = generator()
    moved = torch.stack([displaced(one, (1.0, 1.0, 1.0), random) for one in balls(60)])
    off = (moved - balls(60)).abs().flatten(1).amax(dim=1) * 5  # in voxels
    assert off.min() < 0.5 and 2 < off.max() < 5 * FURTHEST
    volumes = (moved < 0).flatten(1).sum(dim=1) / (balls(1) < 0).sum()
    assert volumes.min() > 0.3 and volumes.max() < 2.5 and volumes.mean() == pytest.approx(1, abs=0.15)
    assert torch.equal(
        displaced(balls(1)[0], (1.0, 1.0, 1.0), generator()), displaced(balls(1)[0], (1.0, 1.0, 1.0), generator())
    )


def test_displacements_are_as_large_in_space_along_thick_slices_and_none_across_a_plane() -> None:
    ramp = torch.arange(16.0).reshape(1, 1, 1, 16).expand(1, 16, 16, 16)
    spacings = ((1.0, 1.0, 1.0), (1.0, 1.0, 4.0))
    fine, thick = (
        torch.stack([displaced(ramp, spacing, generator(seed)) - ramp for seed in range(40)])[..., 6:10].std().item()
        for spacing in spacings
    )
    assert thick == pytest.approx(fine / 4, rel=0.35)  # in voxels of 4 mm
    flat = balls(1)[0][..., 8:9]
    assert displaced(flat, (1.0, 1.0, 1.0), generator()).shape == flat.shape


def test_two_dimensional_patches_are_drawn_by_lines() -> None:
    known = random_drawings(two_boxes(50)[..., 8:9], torch.ones(50).bool(), generator())[:, 0] != 0
    assert all(0 < float(share) < 1 for share in known.flatten(1).float().mean(dim=1))


def test_what_was_drawn_is_spread_and_fades() -> None:
    drawing = torch.zeros(1, 9, 6, 5)
    drawing[0, 2], drawing[0, 8] = -1, 1
    expected = torch.exp(-torch.tensor([2.0, 1, 0, 1, 2, 3, 2, 1, 0]) / 8)
    found = spread(drawing, (1.0, 1.0, 1.0))
    assert torch.allclose(found.abs(), expected[None, :, None, None].expand_as(found))
    assert (found[0, :5] < 0).all() and (found[0, 6:] > 0).all()
    assert torch.allclose(spread(drawing, (2.5, 0.5, 0.5))[0, 0], -torch.exp(torch.tensor(-2 * 5 / 8)))
    assert torch.equal(spread(torch.zeros(2, 4, 4, 4), (1, 1, 1)), torch.zeros(2, 4, 4, 4))


def test_every_window_is_shown_its_part_of_the_drawing() -> None:
    class Adds(nn.Module):
        def forward(self, seen: Tensor) -> Tensor:
            return seen[:, :1] + 10 * seen[:, 1:]

    image = torch.randn((1, 24, 20, 16), generator=generator())
    drawing = torch.randn((1, 24, 20, 16), generator=generator(1))
    for given, wanted in ((drawing, image + 10 * drawing), (None, image)):
        network, stitch = showing(Adds(), Stitcher(SHAPE), 1, given)
        assert torch.allclose(stitch(lambda windows, net=network: net(windows), image), wanted, atol=1e-4)
    network = nn.Identity()
    assert showing(network, stitch, 0, drawing) == (network, stitch)


def test_some_samples_of_a_batch_keep_their_drawings() -> None:
    network = Shown(nn.Identity(), torch.arange(3.0).reshape(3, 1, 1, 1, 1).expand(3, 1, *SHAPE))
    seen = of_samples(network, torch.tensor([True, False, True]))(torch.zeros(2, 1, *SHAPE))
    assert seen[:, 1].amax(dim=(1, 2, 3)).tolist() == [0, 2]


def test_recipes_have_twins_that_learn_drawings() -> None:
    small = plan()
    assert recipe_of(small, "diffatlas", "given-labels").given_labels > 0  # type: ignore[attr-defined]
    both = recipe_of(small, "icf", "any-contrast-given-labels")
    assert min(both.given_labels, both.any_contrast) > 0  # type: ignore[attr-defined]
    digests = {training_digest(small, "icf", name) for name in ("default", "given-labels", "any-contrast-given-labels")}
    assert len(digests) == 3
    for method, name in (("rba", "given-labels"), ("diffatlas", "other-given-labels")):
        with pytest.raises(UserError, match="Unknown recipe"):
            recipe_of(small, method, name)


def one_half(side: Tensor) -> tuple[Tensor, Tensor]:
    """Distances and mask of one label: the half of the volume on ``side`` (B,) 0 or 1 of the first axis."""
    low = torch.arange(SMALL[0])[None, :, None, None] < SMALL[0] // 2
    inside = (low == (side == 0)[:, None, None, None]).expand(len(side), *SMALL)
    return torch.where(inside, -1.0, 1.0)[:, None], inside


@pytest.mark.parametrize("name", ["diffatlas", "icf", "icmd"])
def test_a_network_trained_on_an_ambiguous_image_follows_the_drawing(name: str) -> None:
    """The image is the same for both answers; one drawn slice decides."""
    small = plan(patch=SMALL)
    dataset = replace(small.dataset, labels=small.dataset.labels[:1])
    small = replace(small, dataset=dataset, recipes=default_recipes())
    method = create_method(name, small, recipe_of(small, name, "given-labels"))
    assert isinstance(method, LearnedMethod)
    torch.manual_seed(0)
    network = method.build_network()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    draw = generator()
    for _ in range(100):
        distances, _ = one_half(torch.randint(2, (8,), generator=draw))
        report = method.loss(network, torch.zeros(8, 1, *SMALL), distances, draw)
        optimiser.zero_grad()
        report.total.backward()
        optimiser.step()
    image, stitch = torch.zeros(1, *SMALL), Stitcher(SMALL)
    with torch.inference_mode():
        for side in (0, 1):
            distances, inside = one_half(torch.tensor([side]))
            drawing = torch.zeros(1, *SMALL)
            drawing[:, :, 5] = distances[0][:, :, 5].sign()
            found = segment_padded(method, network.eval(), image, stitch, 0, None, drawing)
            assert ((found.distances[0] < 0) == inside[0]).float().mean() > 0.9
        unknown = segment_padded(method, network, image, stitch, 0)
        assert torch.isfinite(unknown.distances).all()
