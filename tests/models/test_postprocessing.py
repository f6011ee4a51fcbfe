"""What was chosen on validation cases is read from the model folder; a file that is damaged or hostile is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diffatlas_pipeline.errors import ModelError
from diffatlas_pipeline.models.folder import POSTPROCESSING, ModelFolder
from diffatlas_pipeline.models.postprocessing import MOST_BYTES, Measured, Postprocessing, common_steps, in_words
from tests.model_files import add_fold, plan


def measured(label: str, step: str, taken: bool = True) -> Measured:
    return Measured(label, step, taken, 4, 3, 0, 0.5, 0.75)


@pytest.fixture
def model(tmp_path: Path) -> ModelFolder:
    folder = ModelFolder.create(tmp_path / "diffatlas__default", plan())
    add_fold(folder.path, "fold0")
    return folder


def test_it_comes_back_from_its_file(model: ModelFolder) -> None:
    assert model.load("fold0").postprocessing is None
    kept = Postprocessing(
        (measured("small", "largest_component"), Measured("large", "filled_holes", False, 0, 0, 0, None, None))
    )
    model.write_postprocessing("fold0", kept)
    assert model.load("fold0").postprocessing == kept and kept.taken == {"small": ("largest_component",)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"version": 2, "measured": []}', "version 2"),
        ('{"version": 1, "measured": [], "run": "x"}', "unknown fields"),
        ({"label": "liver"}, r"'liver' is no label of the model \(small, large\)"),
        ({"step": "__import__"}, "unknown step '__import__'; known are largest_component, filled_holes"),
        ({"taken": "yes"}, "expected bool, found 'yes'"),
        (" " * (MOST_BYTES + 1), "too large"),
    ],
)
def test_what_is_no_choice_of_this_model_is_refused(model: ModelFolder, content: Any, said: str) -> None:
    if isinstance(content, dict):
        entry = {**vars(measured("small", "largest_component")), **content}
        content = json.dumps({"measured": [entry], "version": 1})
    (model.path / "fold0" / POSTPROCESSING).write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=rf"(?s)postprocessing\.json: .*{said}.*delete this file"):
        model.load("fold0")


def test_several_folds_do_what_all_of_them_chose() -> None:
    both = Postprocessing((measured("a", "filled_holes"), measured("a", "largest_component"), measured("b", "filled_holes")))
    one = Postprocessing((measured("a", "largest_component"), measured("b", "filled_holes", taken=False)))
    assert common_steps([both]) == {"a": ("largest_component", "filled_holes"), "b": ("filled_holes",)}
    assert common_steps([both, one]) == common_steps([one, both]) == {"a": ("largest_component",)}
    assert common_steps([both, None]) == common_steps([None]) == {}
    assert in_words(both.taken) == "largest component of a; holes filled of a, b"
