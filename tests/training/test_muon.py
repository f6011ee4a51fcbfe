"""Muon: orthogonal steps for matrices, AdamW for the rest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffatlas_pipeline.training.muon import COEFFICIENTS, ITERATIONS, MuonWithAdamW, is_matrix, orthogonalised

OPTIONS = {"lr": 1e-2, "weight_decay": 0.0}


@settings(max_examples=30)
@given(rows=st.integers(2, 40), columns=st.integers(2, 60), scale=st.floats(1e-6, 1e6), seed=st.integers(0, 100))
def test_all_directions_become_about_as_long(rows: int, columns: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn((rows, rows), generator=generator))
    right, _ = torch.linalg.qr(torch.randn((columns, columns), generator=generator))
    count = min(rows, columns)
    lengths = torch.linspace(1, 0.05, count)
    matrix = scale * left[:, :count] @ torch.diag(lengths) @ right[:, :count].T
    found = left[:, :count].T @ orthogonalised(matrix) @ right[:, :count]
    assert (found.diagonal() > 0.5).all() and (found.diagonal() < 1.3).all()
    assert float((found - torch.diag(found.diagonal())).abs().max()) < 0.02  # the directions stay


def test_it_is_jordan_s_iteration() -> None:
    matrix = torch.randn((12, 30), generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    a, b, c = COEFFICIENTS
    plain = (matrix / matrix.norm()).double()
    for _ in range(ITERATIONS):
        gram = plain @ plain.T
        plain = a * plain + (b * gram + c * gram @ gram) @ plain
    torch.testing.assert_close(orthogonalised(matrix).double(), plain, atol=2e-3, rtol=0)
    torch.testing.assert_close(orthogonalised(matrix.T).double(), plain.T, atol=2e-3, rtol=0)


def test_no_gradient_is_no_step() -> None:
    assert not orthogonalised(torch.zeros(20, 40)).any()


def weights() -> list[torch.nn.Parameter]:
    shapes = [(16, 2, 2, 2, 2), (8, 32, 3, 3, 3), (20, 3, 3, 3, 3), (30, 40), (16,)]
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def test_convolutions_of_many_channels_are_matrices() -> None:
    assert [is_matrix(one) for one in weights()] == [True, False, True, False, False]


def test_a_step_does_not_depend_on_the_size_of_the_gradient() -> None:
    steps = []
    for scale in (1.0, 1000.0):
        mine = weights()
        before = [one.detach().clone() for one in mine]
        optimiser = MuonWithAdamW(mine, **OPTIONS)
        for one in mine:
            one.grad = scale * torch.sin(torch.arange(one.numel(), dtype=torch.float32)).reshape(one.shape)
        optimiser.step()
        steps.append([one.detach() - old for one, old in zip(mine, before, strict=True)])
    for small, large in zip(*steps, strict=True):
        torch.testing.assert_close(small, large, atol=1e-5, rtol=1e-3)
        assert float(small.abs().max()) > 0


def test_the_rest_is_adamw_s() -> None:
    mine, theirs = weights(), weights()
    others = [one for one in theirs if not is_matrix(one)]
    ours, plain = MuonWithAdamW(mine, **OPTIONS), torch.optim.AdamW(others, **OPTIONS)
    for _ in range(3):
        for one in (*mine, *theirs):
            one.grad = torch.cos(one.detach() * 3)
        ours.step()
        plain.step()
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(one, other) != is_matrix(one)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_the_layout_in_memory_does_not_matter(memory_format: torch.memory_format) -> None:
    plain, other = weights()[0], torch.nn.Parameter(weights()[0].detach().to(memory_format=memory_format))
    for one in (plain, other):
        optimiser = MuonWithAdamW([one], **OPTIONS)
        for _ in range(2):
            one.grad = torch.cos(one.detach() * 3)
            optimiser.step()
    torch.testing.assert_close(plain, other)
