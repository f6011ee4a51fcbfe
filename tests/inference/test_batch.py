from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline.atlases.segmenter import Segmenter
from diffatlas_pipeline.inference.batch import Wanted, predict_cases, timing_table
from diffatlas_pipeline.inference.export import Destination, find_cases
from diffatlas_pipeline.inference.result import Maps
from diffatlas_pipeline.volumes.io import read_grid, read_labels, read_volume
from tests.inference.closed_form import ready, segmented, write_scans


def out(tmp_path: Path) -> Destination:
    return Destination(tmp_path / "out", ".nii.gz")


def test_many_cases_files_names_grids_and_a_corrupt_one(tmp_path: Path) -> None:
    write_scans(tmp_path / "in", "a.nii.gz", "b_0000.nii.gz", "c.mha")
    (tmp_path / "in" / "bad.nii.gz").write_bytes(b"nothing" * 100)
    cases = find_cases(tmp_path / "in", 1)
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
    predict_cases(Segmenter(predictor), find_cases(tmp_path / "in", 1), Wanted(out(tmp_path)), quiet=True)
    volume = read_volume([tmp_path / "in" / "b.nii.gz"])
    assert np.array_equal(segmented(predictor, volume).labels, read_labels(tmp_path / "out" / "b.nii.gz").array)


def test_outputs_are_kept_unless_overwritten(tmp_path: Path) -> None:
    write_scans(tmp_path / "in", "a.nii.gz", "b.nii.gz")
    predictor, cases = ready(), find_cases(tmp_path / "in", 1)
    predict_cases(Segmenter(predictor), cases[:1], Wanted(out(tmp_path)), quiet=True)
    before = (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns
    outcomes = predict_cases(Segmenter(predictor), cases, Wanted(out(tmp_path)), quiet=True)
    assert [outcome.status for outcome in outcomes] == ["kept", "segmented"]
    assert (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns == before
    again = predict_cases(Segmenter(predictor), cases, Wanted(out(tmp_path), overwrite=True), quiet=True)
    assert [outcome.status for outcome in again] == ["segmented", "segmented"]
    assert (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns > before


def test_a_bug_is_not_taken_for_the_users_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scans(tmp_path / "in", "a.nii.gz")
    predictor = ready()

    def broken(*arguments: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(predictor, "restore", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        predict_cases(Segmenter(predictor), find_cases(tmp_path / "in", 1), Wanted(out(tmp_path)), quiet=True)
