"""From a method and its training cases to what its checkpoint holds, whatever kind of method it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from diffatlas_pipeline.methods.base import LearnedMethod, MemorisedMethod, Method
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.training.loop import Batches, Run, Trained, Validation, train
from diffatlas_pipeline.training.ranks import ALONE, Ranks


def fit(
    method: Method,
    run: Run,
    batches: Batches,
    cases: Callable[[], Iterable[Atlas]],
    validate: Validation | None,
    ranks: Ranks = ALONE,
) -> Trained:
    """Train by gradient descent what learns; let the others memorise their cases. See :func:`train` for what is
    raised.
    """
    if isinstance(method, LearnedMethod):
        return train(method, run, batches, validate, ranks)
    assert isinstance(method, MemorisedMethod)
    start = time.monotonic()
    run.folder.mkdir(parents=True, exist_ok=True)
    return Trained(method.memorise(cases()), 0, time.monotonic() - start, "float32")
