"""What trains and predicts is imported on a machine that can neither draw nor read other formats than NIfTI."""

import subprocess
import sys

import pytest

BLOCKING = """
import importlib, sys
for name in sys.argv[2].split(","):
    sys.modules[name] = None  # importing it raises ImportError
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize("module", ["training.job", "training.loop", "inference.predictor", "api.model"])
def test_the_trainer_and_the_predictor_need_neither_itk_nor_matplotlib(module: str) -> None:
    words = [sys.executable, "-c", BLOCKING, f"diffatlas_pipeline.{module}", "SimpleITK,matplotlib"]
    subprocess.run(words, check=True)


def test_a_blocked_module_cannot_be_imported() -> None:
    words = [sys.executable, "-c", BLOCKING, "diffatlas_pipeline.training.loop", "torch"]
    said = subprocess.run(words, check=False, capture_output=True, text=True)
    assert said.returncode and "torch" in said.stderr
