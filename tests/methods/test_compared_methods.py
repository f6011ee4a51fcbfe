"""The methods that DiffAtlas is compared with: what their networks see, what they learn, and how they segment."""

import numpy as np
import pytest
import torch

from diffatlas_pipeline.diffusion.denoiser import Objective
from diffatlas_pipeline.diffusion.solvers import Sampler
from diffatlas_pipeline.methods.base import LearnedMethod
from diffatlas_pipeline.methods.icmd import MaskDiffusion, MaskRecipe
from diffatlas_pipeline.methods.mean_atlas import MeanAtlas, MeanAtlasRecipe
from diffatlas_pipeline.methods.registry import create_method, recipe_of
from diffatlas_pipeline.methods.segmentation_loss import margins
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.preprocessing.distance_maps import decode_labels
from diffatlas_pipeline.registration.atlas import Atlas
from tests.factories import make_case, make_plan, make_recipes, with_options
from tests.methods.plain import plain

SHAPE = (16, 16, 16)
NETWORK = NetworkPlan((8, 16), ((1, 1, 1), (2, 2, 2)), ((3, 3, 3),) * 2, (1, 1), (False, False), 16)
MASK = MaskRecipe(objective=Objective(segmentation_weight=0.3), sampler=Sampler(steps=3, draws=2))
PLAN = make_plan(patch_size=SHAPE, network=NETWORK, recipes=make_recipes(icmd={"default": MASK}))


def case() -> tuple[torch.Tensor, torch.Tensor]:
    """A bright block (label 1) beside a dark one (label 2): image (1, ...), distances (2, ...)."""
    distances = torch.full((2, *SHAPE), 1.0)
    distances[0, 3:8, 4:12, 4:12] = -0.8
    distances[1, 8:13, 4:12, 4:12] = -0.8
    image = torch.zeros((1, *SHAPE)) + (distances[0] < 0) - (distances[1] < 0).float()
    return image * 0.9, distances


def learnt(method: LearnedMethod, iterations: int) -> torch.nn.Module:
    torch.manual_seed(0)
    network = method.build_network()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    image, distances = case()
    for _ in range(iterations):
        loss = method.loss(network, image[None], distances[None], generator).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


@pytest.mark.parametrize(("name", "iterations"), [("icf", 40), ("icmd", 120)])
def test_it_learns_a_case_by_heart(name: str, iterations: int) -> None:
    method = create_method(name, PLAN, recipe_of(PLAN, name))
    assert isinstance(method, LearnedMethod)
    image, distances = case()
    network = method.restore(learnt(method, iterations).state_dict())
    with torch.inference_mode():
        found = method.segment(network, image, plain, 0)
    wanted = decode_labels(distances.numpy(), [1, 2])
    agree = (decode_labels(found.distances.numpy(), [1, 2]) == wanted)[wanted > 0].mean()
    assert agree > 0.95


def test_methods_of_a_single_step_tell_when_it_is_done() -> None:
    image, distances = case()
    told: list[tuple[int, int]] = []
    feed_forward, mean = (create_method(name, PLAN, recipe_of(PLAN, name)) for name in ("icf", "mean"))
    assert isinstance(feed_forward, LearnedMethod) and isinstance(mean, MeanAtlas)
    atlas = mean.restore(mean.memorise([Atlas("a", image.numpy(), distances.numpy())]))
    for method, network in ((feed_forward, feed_forward.build_network()), (mean, atlas)):
        with torch.inference_mode():
            found = method.segment(network, image, plain, 0, lambda *step: told.append(step))
        assert told.pop() == (1, 1) and not told
        assert found.distances.dtype == torch.float32 and found.distances.shape == distances.shape


def test_margins_decode_to_the_largest_logit_however_large_it_is() -> None:
    logits = torch.randn((4, 9, 9, 9), generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 1.0, 30.0]).repeat(3)
    labels = decode_labels(margins(logits).numpy(), [1, 2, 3])
    assert np.array_equal(labels, logits.argmax(dim=0).numpy())
    one = torch.tensor([0.0, 5.0]).reshape(2, 1, 1, 1)  # a single label: its distance to the background's logit
    assert float(margins(one)) == pytest.approx(-0.5)


def test_mask_diffusion_shows_the_network_the_clean_image() -> None:
    image, distances = case()
    seen: list[tuple[torch.Tensor, float, float]] = []

    class Watching(torch.nn.Module):
        def forward(self, x: torch.Tensor, level_image: torch.Tensor, level_mask: torch.Tensor) -> torch.Tensor:
            seen.append((x[:, :1].clone(), float(level_image[0]), float(level_mask[0])))
            return distances[None] * PLAN.distance.scale

    steps = MASK.sampler.steps
    method = MaskDiffusion(PLAN, MASK)
    found = method.segment(Watching(), image, plain, 0)
    assert torch.allclose(found.distances, distances, atol=1e-5)
    assert len(seen) == MASK.sampler.steps * MASK.sampler.draws
    assert all(torch.equal(given[0], image) and level == 0 for given, level, _ in seen)
    assert [level for _, _, level in seen[:steps]] == sorted((level for _, _, level in seen[:steps]), reverse=True)


def test_mask_diffusion_learns_its_first_step_more_often_and_hears_scaled_noise() -> None:
    image, distances = case()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Watching(torch.nn.Module):
        def forward(self, x: torch.Tensor, level_image: torch.Tensor, level_mask: torch.Tensor) -> torch.Tensor:
            seen.append((x[:, 1:], level_mask))
            return torch.zeros_like(x[:, 1:])

    method = MaskDiffusion(PLAN, with_options(MASK, start=0.6, input_scaling="signal"))
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        method.loss(Watching(), image[None].repeat(8, 1, 1, 1, 1), distances[None].repeat(8, 1, 1, 1, 1), generator)
    levels = torch.cat([level for _, level in seen])
    assert abs(float((levels == 1).float().mean()) - 0.6) < 0.1
    masks = torch.cat([mask for mask, _ in seen])
    assert float(masks[levels == 1].abs().max()) < 1e-6  # pure noise is silent


def test_draws_of_an_undecided_network_differ() -> None:
    """Answering with the noise it is shown, draws differ by seed, and agree for the same."""
    image, _ = case()

    class Echo(torch.nn.Module):
        def forward(self, x: torch.Tensor, level_image: torch.Tensor, level_mask: torch.Tensor) -> torch.Tensor:
            return x[:, 1:] / 10

    method = MaskDiffusion(PLAN, with_options(MASK, steps=1))
    first, again, other = (method.segment(Echo(), image, plain, seed) for seed in (0, 0, 1))
    assert torch.equal(first.distances, again.distances) and not torch.equal(first.distances, other.distances)


def test_mean_atlas_is_the_mean_about_the_centre() -> None:
    _, small = case()
    large = torch.nn.functional.pad(small, (2,) * 6, value=1.5)  # the same anatomy with more around it
    cases = [Atlas(name, np.zeros((1, *d.shape[1:]), np.float32), d.numpy()) for name, d in (("a", small), ("b", large))]
    method = MeanAtlas(PLAN, MeanAtlasRecipe())
    network = method.restore(method.memorise(cases))
    found = method.segment(network, torch.zeros((1, *SHAPE)), plain, 0).distances
    assert torch.allclose(found, small, atol=1e-3)
    wider = method.segment(network, torch.zeros((1, 24, 20, 16)), plain, 0).distances
    assert torch.allclose(wider[:, 4:20, 2:18], small, atol=1e-3) and torch.all(wider[:, 0] == 1)


def test_mean_atlas_is_made_of_distances_cut_off_at_tau() -> None:
    _, distances = case()
    cases = [Atlas("a", np.zeros((1, *SHAPE), np.float32), (distances * size).numpy()) for size in (1.5, 0.5)]
    method = MeanAtlas(PLAN, MeanAtlasRecipe())
    mean = method.memorise(cases)["mean_distances"].float()
    assert torch.allclose(mean, ((distances * 1.5).clamp(-1, 1) + distances * 0.5) / 2, atol=1e-3)


def test_mean_atlas_says_what_a_foreign_checkpoint_lacks() -> None:
    with pytest.raises(RuntimeError, match="2 label"):
        MeanAtlas(PLAN, MeanAtlasRecipe()).restore({"weight": torch.zeros(1)})


def test_made_cases_can_be_memorised() -> None:
    """Real distance maps of the tests' ellipsoids: the mean of two similar ones finds most of each."""
    from diffatlas_pipeline.preprocessing.case import prepare_image, prepare_labels

    plan = make_plan()
    cases = []
    for seed in range(2):
        volume, labels = make_case(seed=seed)
        image, record = prepare_image(volume, plan)
        cases.append(Atlas(str(seed), image, prepare_labels(labels, record, plan).astype(np.float32)))
    method = MeanAtlas(plan, MeanAtlasRecipe())
    network = method.restore(method.memorise(cases))
    found = method.segment(network, torch.from_numpy(cases[0].image), plain, 0).distances
    predicted, wanted = (decode_labels(np.asarray(d), [1, 2]) for d in (found, cases[0].distances))
    assert (predicted == wanted)[wanted > 0].mean() > 0.85
