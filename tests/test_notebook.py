"""The code cells of the tutorial notebook run in order, on fewer and smaller cases and for less time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pages import ROOT

NOTEBOOK = json.loads((ROOT / "documentation" / "notebook.ipynb").read_text(encoding="utf-8"))
SMALLER = {  # what the test does otherwise than the notebook says, to end soon
    "training_cases=20, test_cases=4": "training_cases=6, test_cases=2, size=(24,)",
    'max_time="6m"': "iterations=20, workers=0",
}
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_stored_without_outputs() -> None:
    assert NOTEBOOK["nbformat"] == 4 and len(CELLS) > 10
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in NOTEBOOK["cells"] if "outputs" in cell)


def test_substitutions_are_of_the_notebook() -> None:
    assert all(any(shown in cell for cell in CELLS) for shown in SMALLER)


@pytest.mark.slow
def test_the_notebook_runs_from_beginning_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate(CELLS):
        for shown, instead in SMALLER.items():
            cell = cell.replace(shown, instead)
        exec(compile(cell, f"cell {number}", "exec"), names)
    result = names["result"]
    assert set(result.volumes_ml) == set(result.label_names.values()) == set(result.distances_mm)
    assert result.labels.shape == names["array"].shape
    assert np.all(result.error_probability >= 0) and 0 < result.error_probability.max() < 1
    assert len(list((tmp_path / "notebook_workspace" / "segmentations").glob("*.nii.gz"))) == 2
