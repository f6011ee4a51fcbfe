"""A hidden channel is learnt as the mask is, and generated as the mask is."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from diffatlas_pipeline.diffusion.levels import add_noise
from diffatlas_pipeline.inference.padded import segment_padded
from diffatlas_pipeline.inference.stitched import Stitcher
from diffatlas_pipeline.methods.diffatlas import DiffAtlas
from diffatlas_pipeline.methods.joint_recipe import DEFAULT, PAPER
from diffatlas_pipeline.methods.registry import METHODS, create_method, default_recipes, recipe_of
from tests.factories import make_recipe, with_options
from tests.methods.test_diffatlas import Knowing, Perfect, Watching, plain
from tests.model_files import plan

PLAN = plan(channels=2)
SHAPE = (16, 16, 16)


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, distances = (torch.rand((2, *SHAPE), generator=generator) * 2 - 1 for _ in range(2))
    return image, distances


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def hidden_in(network: Watching, image: torch.Tensor) -> list[int]:
    """The channels that the last input did not show as they are."""
    shown = network.seen[-1][0]
    return [channel for channel in range(2) if not torch.equal(shown[0, channel], image[channel])]


def test_hidden_channels_are_as_noisy_as_the_mask_and_the_others_as_the_image() -> None:
    image, distances = pair()
    recipe = make_recipe(start=1.0, missing_channel=1.0, segmentation_weight=0.0)  # clean images, masks of pure noise
    found = set()
    for number in range(12):
        network = Watching(torch.cat([image, distances])[None])
        DiffAtlas(PLAN, recipe).loss(network, image[None], distances[None], seed(number))
        (channel,) = hidden_in(network, image)
        shown, image_level, mask_level = network.seen[-1]
        assert (image_level, mask_level) == (0.0, 1.0)
        assert abs(float(shown[0, channel].std()) - 1) < 0.1 and float((shown[0, channel] * image[channel]).mean()) < 0.05
        found.add(channel)
    assert found == {0, 1}


@pytest.mark.parametrize("image_is_clean", [True, False])
def test_of_a_clean_image_the_hidden_channel_alone_is_learnt(image_is_clean: bool) -> None:
    image, distances = pair()
    options = {"start": 1.0} if image_is_clean else {"clean_image": 0.0, "equal_level": 0.0}
    recipe = make_recipe(missing_channel=1.0, segmentation_weight=0.0, image_weight=1.0, **options)
    wrong = torch.cat([image, distances])[None].clone()
    wrong[:, 0] += 0.5
    method, losses, hidden = DiffAtlas(PLAN, recipe), [], []
    for number in range(12):
        network = Watching(wrong)
        report = method.loss(network, image[None], distances[None], seed(number))
        losses.append(float(report.total))
        hidden.append(0 in hidden_in(network, image))
    of_four = 0.25 / 4  # the squared error of one of four channels
    assert losses == pytest.approx([of_four if one else 0 for one in hidden])
    assert set(hidden) == ({True, False} if image_is_clean else {True}), "of a noisy image each channel is learnt"


def test_where_no_channel_is_hidden_the_loss_is_that_of_the_whole_image() -> None:
    image, distances = pair()
    clean = torch.cat([image, distances])[None]
    recipe = make_recipe(segmentation_weight=0.0, image_weight=1.0, clean_image=0.0, equal_level=1.0)
    report = DiffAtlas(PLAN, recipe).loss(Perfect(clean + 0.5), image[None], distances[None], seed(0))
    assert float(report.total) == pytest.approx(0.25) and report.parts["loss_image"] == pytest.approx(0.25)


def test_of_an_unlabelled_sample_a_hidden_channel_is_learnt_too() -> None:
    image, distances = pair()
    nothing = torch.full_like(distances, torch.nan)[None]
    network = Watching(torch.cat([image, distances])[None])
    recipe = make_recipe(start=1.0, missing_channel=1.0)
    report = DiffAtlas(PLAN, recipe).loss(network, image[None], nothing, seed(0))
    assert float(report.total) == 0 and network.seen[-1][2] == 1.0


def test_own_answers_stand_in_for_what_is_hidden() -> None:
    """The second step of sampling sees a clean channel, and its own first answer for the other and for the mask."""
    image, distances = pair()
    recipe = make_recipe(self_conditioning=1.0, missing_channel=1.0)
    answer = torch.full((1, 4, *SHAPE), -0.25)
    network = Watching(answer)
    DiffAtlas(PLAN, recipe).loss(network, image[None], distances[None], seed(1))
    (first, *_), (second, _, mask_level) = network.seen
    (channel,) = hidden_in(network, image)
    for index in (channel, 2, 3):
        expected = add_noise(answer[:, index], first[:, index], torch.tensor(mask_level))
        assert torch.allclose(second[:, index], expected, atol=1e-6)
    assert torch.equal(first[0, 1 - channel], image[1 - channel])


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize(
    "recipe",
    [
        with_options(DEFAULT, missing_channel=0.2),
        with_options(DEFAULT, missing_channel=0.2, steps=4, draws=2),
        with_options(DEFAULT, missing_channel=0.2, steps=4, solver="dpmpp_2m", level=0.4),
        PAPER,
        make_recipe(missing_channel=0.2, prediction="v", input_scaling="signal", steps=3),
    ],
    ids=["default", "draws", "noisy", "paper", "velocity"],
)
def test_a_network_that_knows_the_truth_generates_it(recipe: object, missing: int) -> None:
    """What it is shown and what it puts out depend on each channel's own level."""
    image, distances = pair()
    method = DiffAtlas(PLAN, recipe)  # type: ignore[arg-type]
    truth = torch.cat([image, distances * method.scale])[None]
    lacking = image.clone()
    lacking[missing] = torch.nan
    network = Perfect(truth) if method.denoiser.prediction == "x0" else _Velocity(truth, method, missing)
    found = method.segment(network, lacking, plain, seed=0)
    assert torch.allclose(found.distances, distances, atol=1e-4)
    assert found.generated is not None and torch.allclose(found.generated, image[missing][None], atol=1e-4)
    assert method.segment(Perfect(truth), image, plain, seed=0).generated is None


class _Velocity(Knowing):
    """Knows the clean state, and that the channel ``missing`` is at the mask's level."""

    def __init__(self, clean: torch.Tensor, method: DiffAtlas, missing: int) -> None:
        super().__init__(clean, method.recipe.objective)
        self.missing = missing

    def forward(self, seen: torch.Tensor, level_image: torch.Tensor, level_mask: torch.Tensor) -> torch.Tensor:
        levels = [level_mask if index in (self.missing, 2, 3) else level_image for index in range(4)]
        angle = torch.stack(levels, dim=1)[:, :, None, None, None] * math.pi / 2
        a, b = torch.cos(angle), torch.sin(angle)
        noisy = seen / a.clamp_min(1e-9)
        return a * (noisy - a * self.clean) / b.clamp_min(1e-9) - b * self.clean


def test_a_volume_smaller_than_the_patch_comes_back_in_its_own_size() -> None:
    image, _ = pair()
    image[1] = torch.nan
    method = create_method("diffatlas", PLAN, with_options(DEFAULT, missing_channel=0.2))
    network = Perfect(torch.zeros((1, 4, *SHAPE)))
    found = segment_padded(method, network, image[:, :10, :, 3:9], Stitcher(PLAN.patch_size), 0)
    assert found.distances.shape == (2, 10, 16, 6) and found.generated is not None
    assert found.generated.shape == (1, 10, 16, 6) and not found.generated.isnan().any()


def test_one_channel_is_learnt_as_if_there_were_no_such_thing() -> None:
    image, distances = (part[:1] for part in pair())
    losses = [
        float(DiffAtlas(plan(), make_recipe(missing_channel=share)).loss(
            Perfect(torch.full((1, 3, *SHAPE), 0.3)), image[None], distances[None].expand(-1, 2, -1, -1, -1), seed(4)
        ).total)
        for share in (0.0, 1.0)
    ]  # fmt: skip
    assert losses[0] == losses[1] > 0


def test_who_can_do_without_a_channel() -> None:
    learnt = with_options(DEFAULT, missing_channel=0.2)
    assert DiffAtlas(PLAN, learnt).needs_all_channels == DiffAtlas(PLAN, PAPER).needs_all_channels == ""
    assert DiffAtlas(PLAN, with_options(DEFAULT, level=1.0, steps=20)).needs_all_channels == ""
    said = DiffAtlas(PLAN, DEFAULT).needs_all_channels
    assert "levels.missing_channel above 0" in said and "`guidance_level=1`" in said
    never = DiffAtlas(PLAN, with_options(DEFAULT, equal_level=0.0, level=1.0)).needs_all_channels
    assert "levels.missing_channel above 0" in never and "guidance_level" not in never
    for name in ("icf", "icmd", "rba", "mean"):
        said = create_method(name, PLAN, METHODS[name].recipes["default"]).needs_all_channels
        assert f"{name} needs all of them; diffatlas can" in said


def test_plans_of_several_channels_teach_it_and_those_of_one_are_as_before() -> None:
    one, two = default_recipes(), default_recipes(2)
    assert one == default_recipes(1) and one["diffatlas"]["default"]["levels"]["missing_channel"] == 0
    assert two["diffatlas"]["default"]["levels"].pop("missing_channel") > 0
    one["diffatlas"]["default"]["levels"].pop("missing_channel")
    assert one == two
    both = dataclasses.replace(PLAN, recipes=default_recipes(2))
    for name in ("default", "any-contrast", "given-labels", "paper"):
        assert create_method("diffatlas", both, recipe_of(both, "diffatlas", name)).needs_all_channels == ""
