"""The reference of Python agrees with the functions and classes that it describes."""

from __future__ import annotations

import inspect
import re

import pytest

import diffatlas_pipeline
from diffatlas_pipeline.api.model import Model
from diffatlas_pipeline.api.segmentation import Segmentation
from tests.pages import ROOT

PAGE = (ROOT / "documentation" / "reference" / "python.md").read_text(encoding="utf-8")
FOR_COMMANDS = {"prepare_folder", "prepare_generation", "segmenter"}  # public to the commands, which print between their steps


def described(heading: str) -> set[str]:
    """The names in the first column of the tables of a section."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]*) \|", section, flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)", cell)}


FUNCTIONS = [
    "load_model",
    "plan_and_preprocess",
    "train",
    "evaluate",
    "find_best_configuration",
    "export_model",
    "install_model",
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_exactly_the_parameters_of_each_function_are_listed(name: str) -> None:
    assert described(name) == set(inspect.signature(getattr(diffatlas_pipeline, name)).parameters)


def test_the_parameters_of_segment_are_listed() -> None:
    assert set(inspect.signature(Model.segment).parameters) - {"self"} <= described("Model")


def test_what_a_segmentation_has_is_listed() -> None:
    listed = described("Segmentation")
    assert listed - {"familiarity", "label_names", "warnings"} == {
        name for name in vars(Segmentation) if not name.startswith("_")
    }


def test_what_a_model_has_is_named() -> None:
    public = {name for name in vars(Model) if not name.startswith("_")} - FOR_COMMANDS
    assert not {name for name in public if not re.search(rf"\b{name}\b", PAGE)}


def test_every_public_function_has_a_section() -> None:
    functions = [name for name in diffatlas_pipeline.__all__ if inspect.isfunction(getattr(diffatlas_pipeline, name))]
    assert functions and all(f"\n## {name}\n" in PAGE for name in functions)
