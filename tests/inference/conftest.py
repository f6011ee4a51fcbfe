from __future__ import annotations

import pytest

from diffatlas_pipeline.methods.registry import METHODS
from tests.inference.closed_form import Brightness


@pytest.fixture(autouse=True)
def brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, Brightness.name, Brightness)
