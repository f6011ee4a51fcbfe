from __future__ import annotations

from pathlib import Path

import pytest

from diffatlas_pipeline.commands.report import main
from diffatlas_pipeline.evaluation.evaluate import evaluate_folders
from tests.report.folders import write_benchmark, write_dataset, write_predictions

NAMES = ["a", "b"]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return write_predictions(tmp_path / "out", NAMES), write_dataset(tmp_path / "raw", NAMES)


def failing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--workers", "1"])
    assert stopped.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("Error: ") and len(text.splitlines()) == 1
    return text


def test_with_references(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions, dataset = folders
    page = tmp_path / "new" / "page.html"
    main(["-p", str(predictions), "-r", str(dataset / "labelsTs"), "-o", str(page), "--tolerance-mm", "2", "--workers", "1"])
    assert f"Written: {page}" in capsys.readouterr().out
    assert "NSD (2 mm)" in page.read_text(encoding="utf-8")


def test_cases_may_end_like_channels(tmp_path: Path) -> None:
    names = ["scan_0000", "scan_0001"]
    dataset, predictions = write_dataset(tmp_path / "raw", names), write_predictions(tmp_path / "out", names)
    main(["-p", str(predictions), "-r", str(dataset / "labelsTs"), "-i", str(dataset / "imagesTs"), "--workers", "1"])
    page = (predictions / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in names) and "1.000" in page, "the first is its own reference"


def test_a_name_without_html_gets_it(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions, _ = folders
    for name, written in (("page", "page.html"), ("v1.2", "v1.2.html"), ("old.HTM", "old.HTM")):
        main(["-p", str(predictions), "-o", str(tmp_path / "new" / name), "--workers", "1"])
        assert f"Written: {tmp_path / 'new' / written} " in capsys.readouterr().out
        assert (tmp_path / "new" / written).is_file()


def test_references_are_those_of_an_earlier_evaluation(folders: tuple[Path, Path]) -> None:
    predictions, dataset = folders
    evaluate_folders(predictions, dataset / "labelsTs", tolerance_mm=3).write(predictions / "evaluation")
    main(["-p", str(predictions), "--workers", "1"])
    assert "NSD (3 mm)" in (predictions / "report.html").read_text(encoding="utf-8")


def test_without_references_and_record(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    predictions, _ = folders
    (predictions / "prediction.json").unlink()
    main(["-p", str(predictions), "--workers", "1"])
    assert "No references were given" in capsys.readouterr().out
    assert "label 2 [ml]" in (predictions / "report.html").read_text(encoding="utf-8")


def test_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_benchmark(tmp_path / "benchmark", NAMES[:1])
    main(["-b", str(folder), "--workers", "1"])
    assert "Note: 2-shot, icf, seed 1 failed: out of memory" in capsys.readouterr().out
    assert (folder / "report.html").is_file()


def test_mistakes_are_one_clear_error(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions, dataset = folders
    assert "nowhere" in failing(["-p", "nowhere"], capsys)
    assert "must be a folder" in failing(["-p", str(predictions / "a.nii.gz")], capsys)
    assert "benchmark.json" in failing(["-b", str(predictions)], capsys)
    assert "go with -p" in failing(["-b", str(predictions), "-r", str(dataset)], capsys)
    assert "above 0" in failing(["-p", str(predictions), "--max-mb", "0"], capsys)
    assert "is a folder" in failing(["-p", str(predictions), "-o", str(tmp_path)], capsys)
    (tmp_path / "file").touch()
    assert "cannot be written" in failing(["-p", str(predictions), "-o", str(tmp_path / "file" / "x.html")], capsys)
    (tmp_path / "empty").mkdir()
    assert "holds no segmentations" in failing(["-p", str(tmp_path / "empty")], capsys)
    (predictions / "a.nii.gz").unlink()
    assert "no prediction for 1 of 2" in failing(["-p", str(predictions), "-r", str(dataset / "labelsTs")], capsys)
