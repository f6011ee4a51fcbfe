import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from diffatlas_pipeline.networks.convolution import Convolution


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (1, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("batch", [1, 2])
def test_it_computes_and_learns_as_torch_s_own(kernel: int, stride: int, batch: int) -> None:
    torch.manual_seed(0)
    own, theirs = Convolution(3, 8, kernel, stride, padding=1), nn.Conv3d(3, 8, kernel, stride, padding=1)
    theirs.load_state_dict(own.state_dict())
    x = torch.randn(batch, 3, 8, 6, 4)
    outputs = [layer(x) for layer in (own, theirs)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(own.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(own.bias.grad, theirs.bias.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_a_single_small_patch_is_computed_as_fast_as_two() -> None:
    layer = Convolution(8, 8, 3, padding=1)
    for batch in (1, 2):
        with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as watched:
            layer(torch.randn(batch, 8, 12, 12, 12))
        names = {event.key for event in watched.key_averages()}
        assert "aten::mkldnn_convolution" in names, names
        assert not any("slow" in name for name in names), names


def test_autocast_and_other_types_are_left_to_torch() -> None:
    layer, x = Convolution(2, 4, 3, padding=1), torch.randn(1, 2, 6, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64
