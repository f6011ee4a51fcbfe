import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from diffatlas_pipeline.networks.memory import training_bytes
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.networks.unet import Attention, LevelEmbedding, ResidualBlock, WithoutPeriod, build_network
from diffatlas_pipeline.volumes.grids import Triple

TINY = NetworkPlan((8, 16), ((1, 1, 1), (2, 2, 2)), ((3, 3, 3),) * 2, (1, 1), (False, True), 16)
PATCHED = NetworkPlan((8, 16), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3),) * 2, (1, 2), (False, False), 16)
SMOOTH = replace(PATCHED, smooth_output=True)
THICK = NetworkPlan((8, 16), ((2, 2, 1), (2, 2, 1)), ((3, 3, 1), (3, 3, 3)), (1, 1), (False, False), 16)
DEEP = NetworkPlan((8, 16, 24), ((1, 1, 1), (2, 2, 2), (2, 1, 2)), ((3, 3, 3),) * 3, (1, 2, 1), (False, False, False), 16)
FLAT = NetworkPlan((8, 16), ((1, 1, 1), (2, 2, 1)), ((3, 3, 1),) * 2, (1, 1), (False, True), 16)


@pytest.mark.parametrize(
    ("plan", "shape"),
    [(TINY, (8, 4, 6)), (PATCHED, (8, 12, 4)), (SMOOTH, (8, 12, 4)), (THICK, (8, 12, 3)), (DEEP, (8, 4, 4)), (FLAT, (8, 4, 1))],
)
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


@pytest.mark.parametrize("stride", [(2, 2, 2), (2, 2, 1), (4, 2, 1)])
def test_a_smoothed_output_has_no_period_of_the_stride(stride: Triple) -> None:
    smooth = WithoutPeriod(2, stride)
    flat, x = torch.full((1, 2, 16, 12, 8), 3.0), torch.arange(16.0)[:, None, None].expand(1, 2, 16, 12, 8)
    torch.testing.assert_close(smooth(flat), flat)
    torch.testing.assert_close(smooth(x)[:, :, 4:-4], x[:, :, 4:-4])  # a slope stays what it is
    block = torch.randn(stride) - 0.5
    tiled = block.repeat(*(n // s for n, s in zip((16, 12, 8), stride, strict=True))).expand(1, 2, 16, 12, 8)
    inner = smooth(tiled)[:, :, 4:-4, 2:-2, 2:-2]
    torch.testing.assert_close(inner, block.mean().expand_as(inner))  # blocks that are all alike do not show


def test_smoothing_has_no_weights() -> None:
    networks = [build_network(plan, 3, 2) for plan in (PATCHED, replace(PATCHED, smooth_output=True))]
    assert networks[0].state_dict().keys() == networks[1].state_dict().keys()


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


def random_weights(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


def test_levels_are_embedded_by_sines_and_cosines_of_multiples_of_a_quarter_turn() -> None:
    torch.manual_seed(0)
    embedding = LevelEmbedding(8)
    random_weights(embedding)
    image, mask = torch.tensor([0.0, 0.3]), torch.tensor([1.0, 0.6])

    def answer(layers: torch.nn.Sequential, level: torch.Tensor) -> torch.Tensor:
        waves = [f(math.pi / 2 * k * level) for f in (torch.cos, torch.sin) for k in range(1, 17)]
        return layers(torch.stack(waves, dim=1))

    expected = functional.silu(answer(embedding.image, image) + answer(embedding.mask, mask))
    assert torch.allclose(embedding(image, mask), expected, atol=1e-5)


@pytest.mark.parametrize(("inputs", "outputs", "kernel"), [(16, 16, (3, 3, 3)), (12, 16, (3, 1, 3))])
def test_a_block_is_scaled_and_shifted_by_the_embedding(inputs: int, outputs: int, kernel: Triple) -> None:
    torch.manual_seed(0)
    block = ResidualBlock(inputs, outputs, kernel, 8)
    random_weights(block)
    x, embedding = torch.randn(2, inputs, 4, 5, 6), torch.randn(2, 8)
    padding = tuple(k // 2 for k in kernel)
    hidden = functional.group_norm(x, 8 if inputs == 16 else 4, block.norm1.weight, block.norm1.bias)
    hidden = functional.conv3d(functional.silu(hidden), block.conv1.weight, block.conv1.bias, padding=padding)
    hidden = functional.group_norm(hidden, 8)  # the embedding scales in place of weights
    told = embedding @ block.modulation.weight.T + block.modulation.bias
    scale, shift = (told[:, first : first + outputs].reshape(2, outputs, 1, 1, 1) for first in (0, outputs))
    hidden = functional.silu(hidden * (1 + scale) + shift)
    expected = functional.conv3d(hidden, block.conv2.weight, block.conv2.bias, padding=padding)
    expected += x if inputs == outputs else functional.conv3d(x, block.skip.weight, block.skip.bias)
    assert torch.allclose(block(x, embedding), expected, atol=1e-4)


def test_a_block_starts_as_the_identity_and_attention_too() -> None:
    x = torch.randn(1, 16, 4, 4, 4)
    for module, *given in ((ResidualBlock(16, 16, (3, 3, 3), 8), x, torch.randn(1, 8)), (Attention(16, 2), x)):
        change = module(*given) - x
        assert torch.allclose(change, change[:, :, :1, :1, :1].expand_as(change), atol=1e-6)  # but for a bias


def test_attention_mixes_all_voxels_by_the_softmax_of_their_products() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2)
    random_weights(attention)
    x = torch.randn(2, 8, 2, 3, 2)
    normed = functional.group_norm(x, 8, attention.norm.weight, attention.norm.bias).flatten(2)  # (B, width, voxels)
    weight, bias = attention.qkv.weight[:, :, 0, 0, 0], attention.qkv.bias
    q, k, v = (torch.einsum("oc,bcn->bon", weight, normed) + bias[:, None]).split(8, dim=1)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        share = (q[:, head].transpose(1, 2) @ k[:, head] / 2).softmax(dim=-1)  # the root of four channels
        heads.append(v[:, head] @ share.transpose(1, 2))
    mixed = torch.cat(heads, dim=1).reshape(x.shape)
    assert torch.allclose(attention(x), x + functional.conv3d(mixed, attention.out.weight, attention.out.bias), atol=1e-4)


@pytest.mark.parametrize("plan", [TINY, PATCHED, THICK, DEEP, FLAT])
def test_each_stage_has_the_plan_s_width_kernel_stride_and_blocks(plan: NetworkPlan) -> None:
    network = build_network(plan, 3, 2)
    stages = range(len(plan.widths))
    for stage in stages:
        blocks = network.encoder[stage]
        assert len(blocks) == plan.blocks[stage]
        for block in (*blocks, *([network.decoder[-1 - stage]] if stage < len(plan.widths) - 1 else [])):
            assert block.conv1.kernel_size == block.conv2.kernel_size == plan.kernels[stage]
            assert block.conv1.out_channels == plan.widths[stage] and block.modulation.in_features == plan.embedding
        if stage:
            up = network.up[len(plan.widths) - 1 - stage]
            for sampling in (network.down[stage], up):
                assert sampling.kernel_size == sampling.stride == plan.strides[stage]
        assert isinstance(network.attention[stage], Attention) == plan.attention[stage]


def test_a_stem_with_a_stride_embeds_blocks_of_twice_the_stride() -> None:
    for plan, block, padding in ((PATCHED, (4, 4, 4), (1, 1, 1)), (THICK, (4, 4, 1), (1, 1, 0)), (FLAT, (3, 3, 1), (1, 1, 0))):
        network = build_network(plan, 3, 2)
        for ends in (network.stem, network.head):
            assert (ends.kernel_size, ends.stride, ends.padding) == (block, plan.strides[0], padding)


@pytest.mark.parametrize(("width", "heads"), [(512, 8), (128, 8), (96, 4), (64, 4), (48, 2), (32, 2), (16, 1), (20, 1)])
def test_heads_have_sixteen_channels_at_least(width: int, heads: int) -> None:
    plan = NetworkPlan((width,), ((1, 1, 1),), ((1, 1, 1),), (1,), (True,), 8)
    (attention,) = build_network(plan, 1, 1).attention
    assert isinstance(attention, Attention) and attention.heads == heads


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
