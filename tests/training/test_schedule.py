import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.training.schedule import Duration, ema_decay, learning_rate, seconds_of


@given(progress=st.floats(0, 1), warmup=st.floats(0.01, 0.5))
def test_learning_rate_stays_within_its_base(progress: float, warmup: float) -> None:
    assert 0 < learning_rate(1e-3, progress, warmup) <= 1e-3


def test_learning_rate_rises_then_falls() -> None:
    rates = [learning_rate(1.0, p / 100, 0.1) for p in range(101)]
    assert rates[10] == pytest.approx(1.0)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.01)


def test_a_time_budget_ends_training_whatever_the_iterations() -> None:
    duration = Duration(iterations=1000, seconds=60)
    assert duration.progress(10, 30) == pytest.approx(0.5)
    assert duration.progress(10, 90) == 1
    assert duration.progress(1000, 1) == 1


def test_ema_forgets_the_first_weights() -> None:
    average, fraction = torch.tensor(100.0), 0.1
    for update in range(1, 1001):
        decay = ema_decay(update, fraction)
        average = decay * average + (1 - decay) * 1.0
    assert average.item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("45", 45)])
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "-3m", "0m", "3 days", "m"])
def test_no_durations(text: str) -> None:
    with pytest.raises(UserError, match="not a duration"):
        seconds_of(text)
