"""Which precision a network is run in."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from diffatlas_pipeline.networks import execution
from diffatlas_pipeline.networks.execution import faster_precision, native_precision

CPU = torch.device("cpu")


def chosen(monkeypatch: pytest.MonkeyPatch, instructions: bool, half_s: float) -> tuple[str, list[bool]]:
    """What is chosen where float32 takes 20 ms and bfloat16 ``half_s``; and which precision each trial had."""
    network, trials = nn.Conv3d(1, 1, 1), []

    def run() -> Tensor:
        trials.append(torch.is_autocast_enabled("cpu"))
        time.sleep(half_s if trials[-1] else 0.02)
        return network(torch.zeros(1, 1, 2, 2, 2))

    monkeypatch.setattr(execution, "_computes_bfloat16", lambda: instructions)
    precision = faster_precision(CPU, network, run)
    assert network.weight.grad is None
    return precision, trials


def test_the_faster_precision_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, True, 0.0)[0] == "bfloat16"
    precision, trials = chosen(monkeypatch, True, 0.1)
    assert precision == "float32" and sum(trials) == 1, "what is emulated is not worth a second look"


def test_a_processor_without_the_instructions_loses_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, False, 0.0) == ("float32", [])


def test_prediction_goes_by_the_processor_and_not_by_a_stopwatch(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, kind, lambda: False, raising=False)
    assert native_precision(CPU) == "float32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert native_precision(CPU) == "bfloat16"
    assert native_precision(torch.device("mps")) == "float32"
