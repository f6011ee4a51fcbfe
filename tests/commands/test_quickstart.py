"""DiffAtlas_quickstart: the commands it shows are the ones it runs, and together they segment unseen hearts."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from diffatlas_pipeline.commands._rerun import products_of, remove_outdated
from diffatlas_pipeline.commands.quickstart import main
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


def test_other_hearts_leave_nothing_but_other_models(tmp_path: Path) -> None:
    options = {"training_cases": 4, "test_cases": 2, "size": 24, "modality": "CT", "seed": 0, "max_time": "6s", "device": None}
    assert remove_outdated(tmp_path, "Dataset001_A", options) == ""
    for product, (folder, *_) in products_of(tmp_path, "Dataset001_A").items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "file").write_text(product)
    others = tmp_path / "results/Dataset001_A/icf__default/all/file"
    others.parent.mkdir(parents=True)
    others.touch()
    here = resolve_device("auto").type
    assert remove_outdated(tmp_path, "Dataset001_A", {**options, "device": here}) == ""
    assert len(list(tmp_path.rglob("file"))) == 7
    told = remove_outdated(tmp_path, "Dataset001_A", {**options, "device": "cuda" if here == "cpu" else "cpu"})
    assert told.endswith("Kept: hearts, test hearts. Made anew: plan, model, segmentations, scores.")
    told = remove_outdated(tmp_path, "Dataset001_A", {**options, "seed": 1})
    assert "`seed` was 0 and is 1 now" in told and "Kept: nothing" in told
    assert list(tmp_path.rglob("file")) == [others]
    assert remove_outdated(tmp_path, "Dataset001_A", {**options, "seed": 1}) == ""


@pytest.mark.slow
def test_from_nothing_to_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A few seconds of training learn next to nothing; what is tested is that every step fits the next one."""
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
