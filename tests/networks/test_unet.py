import pytest
import torch

from diffatlas_pipeline.networks.memory import training_bytes
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.networks.unet import build_network
from diffatlas_pipeline.volumes.grids import Triple

TINY = NetworkPlan((8, 16), ((1, 1, 1), (2, 2, 2)), ((3, 3, 3),) * 2, (1, 1), (False, True), 16)
PATCHED = NetworkPlan((8, 16), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3),) * 2, (1, 2), (False, False), 16)
THICK = NetworkPlan((8, 16), ((2, 2, 1), (2, 2, 1)), ((3, 3, 1), (3, 3, 3)), (1, 1), (False, False), 16)
FLAT = NetworkPlan((8, 16), ((1, 1, 1), (2, 2, 1)), ((3, 3, 1),) * 2, (1, 1), (False, True), 16)


@pytest.mark.parametrize(("plan", "shape"), [(TINY, (8, 4, 6)), (PATCHED, (8, 12, 4)), (THICK, (8, 12, 3)), (FLAT, (8, 4, 1))])
def test_output_has_the_input_s_shape_and_learns(plan: NetworkPlan, shape: Triple) -> None:
    torch.manual_seed(0)
    network = build_network(plan, 3, 2)
    x, level = torch.randn(2, 3, *shape), torch.tensor([0.2, 0.9])
    output = network(x, level, level)
    assert output.shape == (2, 2, *shape)
    output.square().mean().backward()
    first = build_network(plan, 3, 2)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters()), "an unused weight"
    assert sum(p.numel() for p in first.parameters()) == sum(p.numel() for p in network.parameters())


def test_without_levels_it_is_a_plain_network() -> None:
    torch.manual_seed(0)
    network = build_network(TINY, 3, 2, levels=False)
    output = network(torch.randn(2, 3, 8, 8, 8))
    assert output.shape == (2, 2, 8, 8, 8)
    output.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters()), "an unused weight"
    assert not any("embedding" in name or "modulation" in name for name in network.state_dict())


def test_both_noise_levels_matter() -> None:
    torch.manual_seed(0)
    network = build_network(TINY, 1, 1)
    for parameter in network.parameters():  # blocks start as the identity; give them something to say
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(1, 1, 8, 8, 8)
    low, high = torch.tensor([0.1]), torch.tensor([0.9])
    with torch.no_grad():
        outputs = [network(x, image, mask) for image in (low, high) for mask in (low, high)]
    assert all(not torch.allclose(a, b, atol=1e-4) for i, a in enumerate(outputs) for b in outputs[:i])


def test_samples_of_a_batch_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    network = build_network(PATCHED, 2, 2)
    x, level = torch.randn(3, 2, 8, 8, 8), torch.rand(3)
    with torch.no_grad():
        together = network(x, level, level)
        alone = torch.cat([network(x[i : i + 1], level[i : i + 1], level[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_memory_grows_with_patch_and_batch_by_what_is_saved() -> None:
    one, two, four = (training_bytes(TINY, 3, (16, 16, 16), batch) for batch in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one), rel=0.01)
    assert training_bytes(TINY, 3, (32, 16, 16), 1) > 1.7 * one


def test_memory_covers_what_a_real_step_saves() -> None:
    """The meta device counts the same bytes as tensors that exist."""
    saved: dict[int, int] = {}
    held = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            held.append(tensor)
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    network = build_network(PATCHED, 3, 3)
    weights = sum(p.numel() * 4 for p in network.parameters())
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(torch.randn(2, 3, 16, 16, 16), torch.rand(2), torch.rand(2))
    predicted = training_bytes(PATCHED, 3, (16, 16, 16), 2) - 5 * weights - 2 * 4 * 2 * 3 * 16**3
    assert predicted == pytest.approx(sum(saved.values()), rel=0.15)
