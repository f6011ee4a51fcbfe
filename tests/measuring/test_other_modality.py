"""The picture of a scan of another modality: of the right case, by the right models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest

from benchmarks import other_modality
from diffatlas_pipeline.benchmark.record import DONE
from diffatlas_pipeline.evaluation.evaluate import evaluate_folders
from diffatlas_pipeline.files import to_json
from tests.benchmark.content import ASKED, make_cell
from tests.report.folders import write_dataset, write_predictions

CASES = ["near", "far", "middle"]  # write_predictions moves the second by one step, the third by two


def comparison(folder: Path, recipes: tuple[str, ...] = ("default", "any-contrast")) -> Path:
    references = write_dataset(folder / "raw" / "Dataset012_HeartPhantomMRI", CASES) / "labelsTs"
    cells = []
    for recipe in recipes:
        made = make_cell(method="diffatlas", setting="zero-shot-unadapted:Dataset012_HeartPhantomMRI")
        places = {name: f"cells/{recipe}/{name}" for name in ("predictions", "evaluation")}
        cell = replace(made, recipe=recipe, **places)
        write_predictions(folder / cell.predictions, CASES, 1 if recipe == "any-contrast" else 3)
        evaluate_folders(folder / cell.predictions, references).write(folder / cell.evaluation)
        cells.append(replace(cell, status=DONE))
    (folder / "benchmark.json").write_text(to_json(replace(ASKED, cells=tuple(cells))), encoding="utf-8")
    return folder


def test_the_median_case_is_drawn_four_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = comparison(tmp_path)
    other_modality.main([str(folder), str(tmp_path / "new" / "picture.png")])
    assert "(far)" in capsys.readouterr().out, "it is moved by one voxel; one case is not moved, and one by two"
    picture = mpl.image.imread(tmp_path / "new" / "picture.png")[..., :3]
    coloured = (picture.max(axis=2) - picture.min(axis=2) > 0.2).mean(axis=0)
    quarters = [
        coloured[start : start + len(coloured) // 4].mean() for start in range(0, len(coloured) - 3, len(coloured) // 4)
    ]
    assert quarters[0] < 0.02 and min(quarters[1:4]) > 0.02


def test_a_model_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = comparison(tmp_path, ("default",))
    with pytest.raises(SystemExit):
        other_modality.main([str(folder), str(tmp_path / "picture.png")])
    assert "diffatlas:any-contrast" in capsys.readouterr().err and not (tmp_path / "picture.png").exists()
