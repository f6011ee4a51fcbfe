"""DiffAtlas_quickstart: the commands it shows are the ones it runs, and together they segment unseen hearts."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from diffatlas_pipeline.api.model import load_model
from diffatlas_pipeline.commands import _common
from diffatlas_pipeline.commands._rerun import products_of, rerun
from diffatlas_pipeline.commands.quickstart import main
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.models.find import find_model
from diffatlas_pipeline.networks.execution import resolve_device


def test_says_what_it_needs_before_it_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--workspace", str(tmp_path / "new"), "--size", "100000"])
    assert stopped.value.code == 2
    assert "GB are needed" in capsys.readouterr().err
    for wrong in (["--max-time", "soon"], ["--test-cases", "0"], ["--cases", "0"], ["--size", "8"]):
        with pytest.raises(SystemExit) as stopped:
            main(["--workspace", str(tmp_path / "new"), *wrong])
        assert stopped.value.code == 2
        assert wrong[0] in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_failing_step_is_named_and_ends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw/Dataset001_Liver").mkdir(parents=True)
    with pytest.raises(SystemExit) as stopped:
        main(["--workspace", str(tmp_path)])
    assert stopped.value.code == 2
    output = capsys.readouterr()
    assert "already has Dataset001_Liver" in output.err
    assert "stopped at: DiffAtlas_convert phantom" in output.err
    assert "DiffAtlas_plan_and_preprocess" not in output.out


OPTIONS = {"training_cases": 4, "test_cases": 2, "size": 24, "modality": "CT", "seed": 0, "max_time": "6s", "device": None}
SET = "Dataset001_A"
TRAINED = Path(__file__).parents[1] / "data_of_release_1/diffatlas__default"


def done_over(place: Path, **changes: Any) -> str:
    """What is told before a second quickstart, in which nothing may be gone by then; then it is cleared."""
    files = set(place.rglob("*"))
    changed = rerun(place, SET, {**OPTIONS, **changes})
    assert set(place.rglob("*")) == files
    changed.clear()
    return changed.told


def test_other_hearts_leave_nothing_but_what_is_the_user_s(tmp_path: Path) -> None:
    assert done_over(tmp_path) == ""
    for product, (folder, *_) in products_of(tmp_path, SET).items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "heart_test_0001.nii.gz").write_text(product)
    model = tmp_path / "results" / SET / "icf__default/all/file"
    scan, distances = tmp_path / "predictions/mine.nii.gz", tmp_path / "predictions/distance_maps/heart_test_0001_LV.nii.gz"
    for path in (model, scan, distances):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    record = tmp_path / "predictions/prediction.json"
    record.write_text(json.dumps({"seed": 0, "cases": {"heart_test_0001": {}, "mine": {"status": "segmented"}}}))
    here = resolve_device("auto").type
    assert done_over(tmp_path, device=here) == ""
    assert len(list(tmp_path.rglob("heart_test*"))) == 7
    told = done_over(tmp_path, device="cuda" if here == "cpu" else "cpu")
    assert told.endswith("Kept: hearts, test hearts. Made anew: plan, model, segmentations, scores.")
    told = done_over(tmp_path, seed=1)
    assert "`seed` was 0 and is 1 now" in told and "Kept: nothing" in told
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {model, scan, record, tmp_path / "quickstart.json"}
    assert json.loads(record.read_text()) == {"seed": 0, "cases": {"mine": {"status": "segmented"}}}
    assert done_over(tmp_path, seed=1) == ""


def test_a_finished_model_is_moved_aside_and_can_be_used_there(tmp_path: Path) -> None:
    (fold,) = products_of(tmp_path, SET)["model"]
    for time in ("1s", "2s", "3s"):
        done_over(tmp_path, max_time=time)
        shutil.copytree(TRAINED, fold.parent, dirs_exist_ok=True)
        (fold / "log.csv").write_text(time)
    shutil.copytree(TRAINED / "all", fold.parent / "fold0")
    told = done_over(tmp_path, max_time="4s")
    before = tmp_path / "model_before"
    assert told.endswith(f"\nThe model that was trained is moved to {before}.")
    assert (before / "all/log.csv").read_text() == "3s" and not fold.exists()
    assert load_model(before, "cpu").folds == ("all",)
    assert find_model(Workspace.resolve(tmp_path)).folds() == ("fold0",)


@pytest.mark.slow
def test_from_nothing_to_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A few seconds of training learn next to nothing; what is tested is that every step fits the next one."""
    monkeypatch.setattr(_common, "default_workers", lambda: 1)  # as with one core: to start more takes longer than the cases
    place = tmp_path / "a workspace"  # the blank must survive the commands that are printed
    options = ["--workspace", str(place), "--max-time", "3s", "--cases", "4", "--test-cases", "2", "--size", "24"]
    main([*options, "--device", "cpu"])
    output = capsys.readouterr().out
    commands = [shlex.split(line[2:]) for line in output.splitlines() if line.startswith("$ ")]
    assert [words[0].removeprefix("DiffAtlas_") for words in commands] == [
        "convert",
        "plan_and_preprocess",
        "train",
        "predict",
        "evaluate",
        "report",
    ]
    summary = json.loads((place / "evaluation/summary.json").read_text())
    assert list(summary["labels"]) == ["Myo", "LV", "LA", "RA", "RV"]
    assert summary["case_count"] == 2
    table = output[output.index("Done in") :]
    assert all(name in table for name in [*summary["labels"], "mean"])
    (picture,) = [line.split(": ")[1] for line in table.splitlines() if line.startswith("Picture of the ")]
    assert Path(picture).stat().st_size > 10_000
    assert "DiffAtlas_plan_and_preprocess -d path/to/" in table
    (page,) = [line.split(": ")[1] for line in table.splitlines() if line.startswith("Report, ")]
    assert "heart_test_0002" in Path(page).read_text(encoding="utf-8")

    model = next(place.rglob("checkpoint_final.safetensors"))
    trained = model.stat().st_mtime_ns
    main([*options, "--device", "cpu", "--max-time", "0.05m", "--test-cases", "3"])  # as before, and one heart more
    output = capsys.readouterr().out
    assert "--test-cases was 2 and is 3 now.\nKept: hearts, plan, model. Made anew: test hearts, segmentations" in output
    assert "The model is trained already and is kept" in output
    assert json.loads((place / "evaluation/summary.json").read_text())["case_count"] == 3
    assert model.stat().st_mtime_ns == trained

    hearts = {path: path.stat().st_mtime_ns for path in (place / "raw").rglob("*.nii.gz")}
    main([*options, "--device", "cpu", "--max-time", "2s", "--test-cases", "3"])
    output = capsys.readouterr().out
    assert "--max-time was 3s and is 2s now.\nKept: hearts, test hearts, plan. Made anew: model, seg" in output
    assert json.loads(model.with_suffix(".json").read_text())["max_time_s"] == 2
    assert hearts == {path: path.stat().st_mtime_ns for path in (place / "raw").rglob("*.nii.gz")}
