"""The method itself: its losses, and its segmentation with a denoiser in place of a trained network."""

import math

import numpy as np
import pytest
import torch

from diffatlas_pipeline.diffusion.denoiser import INPUT_SCALINGS, PREDICTIONS, Objective
from diffatlas_pipeline.diffusion.levels import add_noise
from diffatlas_pipeline.diffusion.solvers import SOLVERS
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.fields import problems_of
from diffatlas_pipeline.methods.diffatlas import DiffAtlas
from diffatlas_pipeline.methods.icmd import MaskRecipe
from diffatlas_pipeline.methods.registry import create_method
from diffatlas_pipeline.methods.segmentation_loss import label_logits, segmentation_loss
from diffatlas_pipeline.planning.plan import DistancePlan
from diffatlas_pipeline.preprocessing.distance_maps import decode_labels
from tests.factories import make_plan, make_recipe, with_options
from tests.methods.plain import plain

PLAN = make_plan()


class Perfect(torch.nn.Module):
    """Answers every question with the clean data it was made with."""

    def __init__(self, clean: torch.Tensor) -> None:
        super().__init__()
        self.clean = clean
        self.levels: list[tuple[float, float]] = []

    def forward(self, x: torch.Tensor, level_image: torch.Tensor, level_mask: torch.Tensor) -> torch.Tensor:
        self.levels.append((float(level_image[0]), float(level_mask[0])))
        return self.clean.expand(x.shape[0], *self.clean.shape[1:])


class Watching(Perfect):
    """Remembers what it was shown, with the levels of image and mask."""

    def __init__(self, clean: torch.Tensor) -> None:
        super().__init__(clean)
        self.seen: list[tuple[torch.Tensor, float, float]] = []

    def forward(self, x: torch.Tensor, level_image: torch.Tensor, level_mask: torch.Tensor) -> torch.Tensor:
        self.seen.append((x.clone(), float(level_image[0]), float(level_mask[0])))
        return super().forward(x, level_image, level_mask)


def case(shape: tuple[int, int, int] = (8, 8, 8)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, *shape), generator=generator) * 2 - 1
    return image, torch.rand((2, *shape), generator=generator) * 2 - 1


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("level", "scale"), [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (1.0, 0.1)])
def test_a_perfect_denoiser_gives_the_true_distances(solver: str, level: float, scale: float) -> None:
    image, distances = case()
    recipe = make_recipe(solver=solver, level=level, steps=5, mask_scale=scale)
    method = DiffAtlas(PLAN, recipe)
    network = Perfect(torch.cat([image, distances * scale])[None])
    result = method.segment(network, image, plain, seed=0)
    assert torch.allclose(result.distances, distances, atol=1e-5)
    assert all(image_level <= level + 1e-6 for image_level, _ in network.levels)
    assert len(network.levels) == 5


class Knowing(torch.nn.Module):
    """Knows the clean state, and answers with what its ``objective`` asks for."""

    def __init__(self, clean: torch.Tensor, objective: Objective) -> None:
        super().__init__()
        self.clean, self.objective = clean, objective

    def forward(self, seen: torch.Tensor, level_image: torch.Tensor, level_mask: torch.Tensor) -> torch.Tensor:
        images = seen.shape[1] - len(PLAN_OF_HALVES.dataset.labels)
        levels = torch.cat([level_image.repeat(images), level_mask.repeat(seen.shape[1] - images)])
        a, b = ((f(levels * math.pi / 2)).reshape(1, -1, 1, 1, 1)[:, -self.clean.shape[1] :] for f in (torch.cos, torch.sin))
        noisy = seen[:, -self.clean.shape[1] :] / (a if self.objective.input_scaling == "signal" else 1)
        eps = (noisy - a * self.clean) / b.clamp_min(1e-9)
        return {"x0": self.clean, "epsilon": eps, "v": a * eps - b * self.clean}[self.objective.prediction]


PLAN_OF_HALVES = make_plan(distance=DistancePlan(tau_mm=3.0, scale=0.5))


@pytest.mark.parametrize("scaling", INPUT_SCALINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("method", ["diffatlas", "icmd"])
def test_what_the_network_predicts_becomes_distances_in_units_of_tau(method: str, prediction: str, scaling: str) -> None:
    """Distances are halved in the state."""
    image, distances = (one.double() for one in case())
    recipe = make_recipe(prediction=prediction, input_scaling=scaling, steps=4, level=0.5)
    clean = torch.cat([image, distances / 2])[None]
    if method == "icmd":
        recipe, clean = MaskRecipe(recipe.levels, recipe.objective, recipe.sampler), clean[:, 1:]
    found = create_method(method, PLAN_OF_HALVES, recipe).segment(Knowing(clean, recipe.objective), image, plain, 0)
    assert torch.allclose(found.distances, distances.float(), atol=1e-4)


def test_noise_belongs_to_the_seed_not_to_the_order() -> None:
    image, _ = case()
    recipe = make_recipe(steps=3, solver="ddpm", eta=1.0)
    method = DiffAtlas(PLAN, recipe)

    class Echo(torch.nn.Module):
        def forward(self, x: torch.Tensor, level_image: torch.Tensor, level_mask: torch.Tensor) -> torch.Tensor:
            return 0.3 * x

    def run(seed: int) -> torch.Tensor:
        return method.segment(Echo(), image, plain, seed).distances

    first = run(0)
    torch.manual_seed(99)
    other = run(1)
    assert torch.equal(first, run(0))
    assert not torch.equal(first, other)


def test_draws_are_averaged() -> None:
    image, _ = case()
    recipe = make_recipe(steps=2, solver="ddpm", eta=1.0, draws=4)
    method = DiffAtlas(PLAN, recipe)

    class Echo(torch.nn.Module):
        def forward(self, x: torch.Tensor, level_image: torch.Tensor, level_mask: torch.Tensor) -> torch.Tensor:
            return 0.3 * x

    seen: list[tuple[int, int]] = []
    result = method.segment(Echo(), image, plain, 0, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (8, 8)
    single = DiffAtlas(PLAN, make_recipe(steps=2, solver="ddpm", eta=1.0, draws=1)).segment(Echo(), image, plain, 0)
    assert result.distances.square().mean() < 0.5 * single.distances.square().mean()  # noise averages out


def test_default_loss_vanishes_for_a_perfect_prediction_and_not_otherwise() -> None:
    image, distances = case((16, 16, 16))
    clean = torch.cat([image, distances])[None]
    recipe = make_recipe(segmentation_weight=0.0)
    method = DiffAtlas(PLAN, recipe)
    generator = torch.Generator().manual_seed(0)
    assert float(method.loss(Perfect(clean), image[None], distances[None], generator).total) == 0
    assert float(method.loss(Perfect(clean + 0.5), image[None], distances[None], generator).total) > 0.01


def test_logits_argmax_is_the_decoding_rule() -> None:
    distances = torch.randn((1, 3, 6, 6, 6), generator=torch.Generator().manual_seed(0))
    decoded = decode_labels(distances[0].numpy(), [1, 2, 3])
    assert np.array_equal(label_logits(distances).argmax(dim=1)[0].numpy(), decoded)


def test_own_answers_are_what_the_second_step_sees() -> None:
    """In training the network is shown the state that its sampler would be in after the first step."""
    image, distances = case()
    recipe = make_recipe(self_conditioning=1.0)
    method = DiffAtlas(PLAN, recipe)
    answer = torch.cat([torch.zeros_like(image), torch.full_like(distances, -0.25)])[None]
    network = Watching(answer)
    method.loss(network, image[None], distances[None], torch.Generator().manual_seed(0))
    (first, *at_first), (second, image_level, mask_level) = network.seen
    assert at_first == [0.0, 1.0] and image_level == 0.0 < mask_level < 1.0
    assert torch.equal(first[:, :1], image[None]) and torch.equal(second[:, :1], image[None])
    level = torch.tensor(mask_level)
    assert torch.allclose(second[:, 1:], add_noise(answer[:, 1:], first[:, 1:], level), atol=1e-6)
    sampled = Watching(answer)
    DiffAtlas(PLAN, with_options(recipe, steps=2)).segment(sampled, image, plain, 0)
    (start, *_), (state, _, level) = sampled.seen
    expected = add_noise(answer[:, 1:], start[:, 1:], torch.tensor(level))
    assert torch.allclose(state[:, 1:], expected, atol=1e-3)  # the first level is 0.999, not 1


def test_a_network_that_is_told_of_its_own_answers_refines_them_and_samples_as_before() -> None:
    """2 - level stands for an own answer as noisy as that level, in training and in the steps of a segmentation."""
    image, distances = case()
    recipe = make_recipe(self_conditioning=1.0, own_levels="beyond")
    answer = torch.cat([torch.zeros_like(image), torch.full_like(distances, -0.25)])[None]
    told, silent = Watching(answer), Watching(answer)
    for network, levels in ((told, "beyond"), (silent, "same")):
        method = DiffAtlas(PLAN, with_options(recipe, own_levels=levels))
        method.loss(network, image[None], distances[None], torch.Generator().manual_seed(0))
    (first, _, at_first), (second, _, heard) = told.seen
    assert at_first == 1.0 and heard == pytest.approx(2 - silent.seen[1][2]) and 1 < heard < 2
    assert torch.equal(first, silent.seen[0][0]) and torch.equal(second, silent.seen[1][0]), "the state is the same"

    def levels_heard(**options: float) -> list[float]:
        network = Watching(answer)
        DiffAtlas(PLAN, with_options(recipe, steps=3, **options)).segment(network, image, plain, 0)
        return [level for _, _, level in network.seen]

    assert all(level > 1 for level in levels_heard()) and levels_heard() == sorted(levels_heard())
    assert all(level < 1 for level in levels_heard(draws=2)), "draws are samples"
    assert all(level < 1 for level in levels_heard(level=1.0)), "beside a noisy image, too"


def test_an_unlabelled_sample_has_no_own_answer_and_other_predictions_none_at_all() -> None:
    image, distances = case()
    recipe = make_recipe(self_conditioning=1.0)
    network = Watching(torch.cat([image, distances])[None])
    DiffAtlas(PLAN, recipe).loss(
        network, image[None], torch.full_like(distances, torch.nan)[None], torch.Generator().manual_seed(0)
    )
    assert len(network.seen) == 1
    for wrong in (with_options(recipe, prediction="v"), with_options(recipe, image="equal")):
        assert list(problems_of(wrong)) == ["levels.self_conditioning needs objective.prediction 'x0' and levels.image 'mixed'"]


def test_an_unlabelled_sample_teaches_its_image_only() -> None:
    image, distances = case()
    clean = torch.cat([image, distances * PLAN.distance.scale])[None]
    method = DiffAtlas(PLAN, make_recipe(image_weight=1.0))

    def losses(predicted: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        report = method.loss(Perfect(predicted), image[None], labels[None], torch.Generator().manual_seed(3))
        return {"total": float(report.total), **report.parts}

    nothing = torch.full_like(distances, torch.nan)
    assert losses(clean, nothing)["total"] == 0
    wrong_mask, wrong_image = clean.clone(), clean.clone()
    wrong_mask[:, 1:] += 0.5
    wrong_image[:, :1] += 0.5
    assert losses(wrong_mask, nothing)["total"] == 0
    assert losses(wrong_image, nothing)["total"] == pytest.approx(0.25 / 3)  # one of three channels
    assert "loss_segmentation" not in losses(clean, nothing)


def test_segmentation_loss_prefers_the_truth() -> None:
    truth = torch.full((1, 2, 8, 8, 8), 1.0)
    truth[:, 0, 2:5] = -1
    truth[:, 1, 5:7] = -1
    shifted = torch.roll(truth, 1, dims=2)
    assert float(segmentation_loss(label_logits(truth), truth)) < 0.05
    assert float(segmentation_loss(label_logits(shifted), truth)) > 0.2


def test_a_method_takes_its_own_recipe_only() -> None:
    with pytest.raises(TypeError, match="diffatlas has a JointRecipe, received a MaskRecipe"):
        DiffAtlas(PLAN, MaskRecipe())


def test_unknown_method_lists_the_known() -> None:
    with pytest.raises(UserError, match="diffatlas"):
        create_method("magic", PLAN, make_recipe())
