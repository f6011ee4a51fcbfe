"""``import diffatlas_pipeline`` is quick, and gives a notebook all it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import diffatlas_pipeline
from diffatlas_pipeline.api import training

PROGRAM = """
import time
start = time.perf_counter()
import diffatlas_pipeline
seconds = time.perf_counter() - start
import sys
print(seconds, *({"torch", "SimpleITK", "pandas", "numpy", "nibabel"} & set(sys.modules)))
"""


def test_importing_is_quick_and_imports_nothing_heavy() -> None:
    runs = [subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True) for _ in range(3)]
    found = [run.stdout.split() for run in runs]
    assert all(len(words) == 1 for words in found), found
    assert min(float(words[0]) for words in found) < 0.2, "the quickest of three: others may use the processor"


def test_public_names_are_those_of_the_api() -> None:
    for name in diffatlas_pipeline.__all__:
        assert getattr(diffatlas_pipeline, name) is not None and name in dir(diffatlas_pipeline)
    assert diffatlas_pipeline.train is training.train


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        diffatlas_pipeline.tarin  # noqa: B018
