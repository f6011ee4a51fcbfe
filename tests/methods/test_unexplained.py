"""How badly a joint model explains a pair, and the image that it makes of it, in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from diffatlas_pipeline.inference.padded import reconstructed_padded, unexplained_padded
from diffatlas_pipeline.inference.stitched import Stitcher
from diffatlas_pipeline.methods.base import GeneratingMethod
from diffatlas_pipeline.methods.icf import FeedForward, FeedForwardRecipe
from diffatlas_pipeline.methods.registry import create_method
from tests.model_files import plan, recipe


class Nothing(nn.Module):
    """Every clean state is 0."""

    def forward(self, windows: Tensor, *levels: Tensor, **told: Tensor) -> Tensor:
        return torch.zeros_like(windows)


@pytest.mark.parametrize(("shape", "scale"), [((16, 16, 16), 1.0), ((20, 24, 18), 1.0), ((16, 16, 16), 0.1)])
def test_errors_of_a_network_that_predicts_nothing(shape: tuple[int, int, int], scale: float) -> None:
    """They are the mean squares of the image and of the distances; small volumes would be padded."""
    image, distances = torch.full((1, *shape), 0.5), torch.full((2, *shape), -0.4)
    method, stitch = create_method("diffatlas", plan(), recipe(mask_scale=scale)), Stitcher(plan().patch_size)
    found = unexplained_padded(method, Nothing(), image, distances, stitch, seed=0)
    assert found["image_error"] == pytest.approx((math.log(0.25),), abs=1e-4)
    assert found["mask_error"] == pytest.approx((math.log(0.4**2),), abs=1e-4)


@pytest.mark.parametrize("shape", [(16, 16, 16), (11, 24, 9)])
def test_what_is_left_of_a_reconstruction_is_the_image_error(shape: tuple[int, int, int]) -> None:
    """A network that puts out half of what it is shown; a small volume comes back in its own shape."""

    class Half(nn.Module):
        def forward(self, windows: Tensor, *levels: Tensor, **told: Tensor) -> Tensor:
            return windows / 2

    torch.manual_seed(0)
    image, distances = torch.rand((1, *shape)) * 2 - 1, torch.full((2, *shape), -0.4)
    method, stitch = create_method("diffatlas", plan(), recipe()), Stitcher(plan().patch_size)
    assert isinstance(method, GeneratingMethod)
    made = reconstructed_padded(method, Half(), image, distances, stitch, seed=3)
    assert made.shape == image.shape and torch.corrcoef(torch.stack([made.ravel(), image.ravel()]))[0, 1] > 0.3
    if shape == (16, 16, 16):  # nothing is padded, which would count in the error
        (error,) = unexplained_padded(method, Half(), image, distances, stitch, seed=3)["image_error"]
        assert math.log(float((image - made).square().mean())) == pytest.approx(error, abs=1e-4)
    again, other = (reconstructed_padded(method, Half(), image, distances, stitch, seed) for seed in (3, 4))
    assert torch.equal(made, again) and not torch.equal(made, other)


def test_a_network_that_is_shown_drawings_sees_none() -> None:
    method = create_method("diffatlas", plan(), recipe(given_labels=0.5))
    network, image = method.build_network(), torch.full((1, 16, 16, 16), 0.5)  # type: ignore[attr-defined]
    found = unexplained_padded(method, network, image, torch.ones(2, 16, 16, 16), Stitcher(plan().patch_size), seed=0)
    assert method.drawn_channels and set(found) == {"image_error", "mask_error"}


def test_a_method_without_a_joint_model_has_none() -> None:
    method = FeedForward(plan(), FeedForwardRecipe())
    empty = torch.zeros(1, 16, 16, 16)
    assert unexplained_padded(method, Nothing(), empty, empty, Stitcher(plan().patch_size), 0) == {}
