"""How long a training waits for its batches."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from torch import Tensor

from diffatlas_pipeline.training.loop import _Waited


def slow_batches(first_s: float, each_s: float) -> Iterator[dict[str, Tensor]]:
    time.sleep(first_s)
    while True:
        yield {}
        time.sleep(each_s)


@pytest.mark.parametrize(("each_s", "step_s", "share"), [(0.02, 0.02, 0.5), (0.0, 0.03, 0.0), (0.03, 0.01, 0.75)])
def test_the_share_is_that_of_the_time_after_the_first_batch(each_s: float, step_s: float, share: float) -> None:
    stream = _Waited(slow_batches(0.3, each_s))
    assert stream.share() == 0
    for _ in range(10):
        next(stream)
        time.sleep(step_s)
    assert stream.share() == pytest.approx(share, abs=0.15)
