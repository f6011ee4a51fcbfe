from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline.atlases.segmenter import Segmenter
from diffatlas_pipeline.inference import batch
from diffatlas_pipeline.inference.batch import CaseOutcome, Wanted, predict_cases, timing_table
from diffatlas_pipeline.inference.earlier import digest_of_file, digest_of_scan
from diffatlas_pipeline.inference.export import Destination
from diffatlas_pipeline.inference.inputs import find_scans
from diffatlas_pipeline.inference.result import Maps
from diffatlas_pipeline.volumes.io import read_grid, read_labels, read_volume
from tests.inference.closed_form import ready, segmented, write_scans


def out(tmp_path: Path) -> Destination:
    return Destination(tmp_path / "out", ".nii.gz")


def test_many_cases_files_names_grids_and_a_corrupt_one(tmp_path: Path) -> None:
    write_scans(tmp_path / "in", "a.nii.gz", "b_0000.nii.gz", "c.mha")
    (tmp_path / "in" / "bad.nii.gz").write_bytes(b"nothing" * 100)
    cases = find_scans([tmp_path / "in"], 1).cases
    outcomes = predict_cases(
        Segmenter(ready()),
        cases,
        Wanted(out(tmp_path), maps=Maps(distances=True)),
        quiet=True,
    )
    assert [(outcome.case, outcome.status) for outcome in outcomes] == [
        ("a", "segmented"),
        ("b", "segmented"),
        ("bad", "failed"),
        ("c", "segmented"),
    ]
    assert "bad.nii.gz" in outcomes[2].message
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "b.nii.gz", "c.mha", "distance_maps"]
    assert sorted(path.name for path in (tmp_path / "out" / "distance_maps").glob("a*")) == ["a_large.nii.gz", "a_small.nii.gz"]
    for made, given in (("a.nii.gz", "a.nii.gz"), ("b.nii.gz", "b_0000.nii.gz"), ("c.mha", "c.mha")):
        assert read_grid(tmp_path / "out" / made) == read_grid(tmp_path / "in" / given)
        labels = read_labels(tmp_path / "out" / made).array
        assert labels.dtype == np.uint8
        assert set(np.unique(labels)) == {0, 2, 7}
    table = timing_table(outcomes)
    assert all(stage in table for stage in ("read", "prepare", "sample", "restore", "write"))


def test_alone_or_among_others_a_case_gets_the_same_result(tmp_path: Path) -> None:
    write_scans(tmp_path / "in", "a.nii.gz", "b.nii.gz")
    predictor = ready()
    predict_cases(Segmenter(predictor), find_scans([tmp_path / "in"], 1).cases, Wanted(out(tmp_path)), quiet=True)
    volume = read_volume([tmp_path / "in" / "b.nii.gz"])
    assert np.array_equal(segmented(predictor, volume).labels, read_labels(tmp_path / "out" / "b.nii.gz").array)


def test_each_outcome_is_told_when_it_is_there(tmp_path: Path) -> None:
    write_scans(tmp_path / "in", "a.nii.gz", "b.nii.gz")
    heard: list[tuple[str, bool]] = []

    def told(outcome: CaseOutcome) -> None:
        heard.append((outcome.case, (tmp_path / "out" / f"{outcome.case}.nii.gz").exists()))

    cases = find_scans([tmp_path / "in"], 1).cases
    outcomes = predict_cases(Segmenter(ready()), cases, Wanted(out(tmp_path)), quiet=True, told=told)
    assert heard == [("a", True), ("b", True)]
    for outcome, files in zip(outcomes, cases, strict=True):
        assert outcome.input == digest_of_scan(files)
        assert outcome.output == digest_of_file(tmp_path / "out" / f"{outcome.case}.nii.gz")


@pytest.mark.parametrize("stage", ["read", "prepare", "segment", "familiarity", "restore", "volume_errors", "write"])
@pytest.mark.parametrize(
    ("fault", "said"),
    [(RuntimeError("a bug"), "a fault of this program (RuntimeError: a bug)"), (MemoryError("134 GiB"), "not enough memory")],
)
def test_one_case_never_ends_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: str, fault: Exception, said: str
) -> None:
    """Whatever goes wrong, and where; of a fault of ours the traceback is shown."""
    write_scans(tmp_path / "in", "a.nii.gz", "b.nii.gz", "c.nii.gz")
    predictor, calls = ready(), []
    segmenter = Segmenter(predictor)
    elsewhere = {"read": (batch, "read_volume"), "write": (batch, "write_result"), "volume_errors": (segmenter, stage)}
    place, name = elsewhere.get(stage, (predictor, stage))
    whole = getattr(place, name)

    def broken(*arguments: object) -> object:
        calls.append(stage)
        if len(calls) == 2:
            raise fault
        return whole(*arguments)

    monkeypatch.setattr(place, name, broken)
    outcomes = predict_cases(segmenter, find_scans([tmp_path / "in"], 1).cases, Wanted(out(tmp_path)), quiet=True)
    assert [outcome.status for outcome in outcomes] == ["segmented", "failed", "segmented"]
    assert said in outcomes[1].message and not (tmp_path / "out" / "b.nii.gz").exists()
    assert ("Traceback" in capsys.readouterr().err) == isinstance(fault, RuntimeError)
