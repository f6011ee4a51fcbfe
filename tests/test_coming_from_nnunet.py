"""The page for nnU-Net's users: its blocks run in order, on a data set in nnU-Net's own folders."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pages import ROOT
from tests.planning.raw_data import write_dataset
from tests.test_tutorial import reader  # noqa: F401 (a fixture)

PAGE = (ROOT / "documentation" / "how-to" / "coming-from-nnunet.md").read_text(encoding="utf-8")
NAME = "Dataset004_Hippocampus"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's raw and preprocessed folders, with two test cases and its own splits."""
    for name in ("DIFFATLAS_WORKSPACE", "DiffAtlas_raw", "DiffAtlas_preprocessed", "DiffAtlas_results"):
        monkeypatch.delenv(name, raising=False)
    raw = write_dataset(tmp_path / "nnUNet_raw", cases=8, name=NAME)
    for kind in ("images", "labels"):
        (raw / f"{kind}Ts").mkdir()
        for path in sorted((raw / f"{kind}Tr").iterdir())[6:]:
            shutil.move(path, raw / f"{kind}Ts")
    described = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**described, "numTraining": 6}))
    cases = sorted(path.name.split(".")[0] for path in (raw / "labelsTr").iterdir())
    splits = [{"train": [case for case in cases if case != held], "val": [held]} for held in cases[:5]]
    (tmp_path / "nnUNet_preprocessed" / NAME).mkdir(parents=True)
    (tmp_path / "nnUNet_preprocessed" / NAME / "splits_final.json").write_text(json.dumps(splits))
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


@pytest.mark.slow
def test_the_first_hour(folders: Path, reader: Callable[[str], None]) -> None:  # noqa: F811
    before = {path: path.read_bytes() for path in (folders / "nnUNet_raw").rglob("*") if path.is_file()}
    reader(PAGE)
    workspace = folders / "diffatlas_workspace"
    trained = workspace / "results" / NAME / "diffatlas__default"
    second = json.loads((trained / "fold1" / "checkpoint_final.json").read_text())
    assert second["validation_cases"] == ["case01"], "nnU-Net's own split"
    assert json.loads((folders / "segmentations" / "prediction.json").read_text())["folds"] == ["fold0"]
    assert len(list((folders / "segmentations").glob("*.nii.gz"))) == 2
    assert (folders / "segmentations" / "evaluation" / "summary.json").is_file()
    assert len(list((folders / "shared").rglob("*.npz"))) == 2
    assert len(json.loads((folders / "shared" / "prediction.json").read_text())["cases"]) == 2
    assert (workspace / "results" / NAME / "configurations").is_dir()
    assert (folders / "elsewhere" / "results" / NAME / "diffatlas__default" / "MODEL_CARD.md").is_file()
    after = {path: path.read_bytes() for path in (folders / "nnUNet_raw").rglob("*") if path.is_file()}
    assert before == after, "the raw folder is as it was"


def test_each_of_its_commands_stands_beside_ours() -> None:
    rows = [line.split("|")[1:4] for line in PAGE.splitlines() if line.startswith("| `nnUNetv2_")]
    assert len(rows) >= 15 and all(ours.strip() and len(theirs) > 3 for theirs, ours, _ in rows)
    assert {word for theirs, *_ in rows for word in re.findall(r"nnUNetv2_\w+", theirs)} >= {
        "nnUNetv2_plan_and_preprocess",
        "nnUNetv2_train",
        "nnUNetv2_predict",
        "nnUNetv2_evaluate_folder",
        "nnUNetv2_find_best_configuration",
        "nnUNetv2_export_model_to_zip",
        "nnUNetv2_install_pretrained_model_from_zip",
    }
