from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffatlas_pipeline.datasets.description import CaseFiles, LabelClass
from diffatlas_pipeline.errors import ImageError, UserError
from diffatlas_pipeline.inference.export import Destination, check_output, read_record, write_record
from diffatlas_pipeline.inference.inputs import find_scans
from tests.inference.closed_form import write_scans


def case(folder: Path) -> CaseFiles:
    return CaseFiles("a", (folder / "a.nii.gz",), None)


def test_single_file_input(tmp_path: Path) -> None:
    write_scans(tmp_path, "a_0000.nii.gz")
    assert [files.case for files in find_scans([tmp_path / "a_0000.nii.gz"], 1).cases] == ["a"]
    with pytest.raises(ImageError, match=r"2 channels.* Learn it\."):
        find_scans([tmp_path / "a_0000.nii.gz"], 2, needs_all="Learn it.")
    (files,) = find_scans([tmp_path / "a_0000.nii.gz"], 2).cases
    assert (files.case, files.missing, files.images) == ("a", (1,), (tmp_path / "a_0000.nii.gz",))
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ImageError, match=r"a\.jpg"):
        find_scans([tmp_path / "a.jpg"], 1)


def test_inputs_are_never_replaced(tmp_path: Path) -> None:
    write_scans(tmp_path, "a.nii.gz")
    with pytest.raises(UserError, match="holds the scans"):
        check_output(Destination(tmp_path, ".nii.gz"), find_scans([tmp_path], 1).cases)


def test_unwritable_output_is_said_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        check_output(Destination(tmp_path / "file" / "out", ".nii.gz"), [case(tmp_path)])


def test_record_survives_damage(tmp_path: Path) -> None:
    path = tmp_path / "prediction.json"
    assert read_record(path) == {}
    write_record(path, {"seed": 1})
    assert json.loads(path.read_text()) == read_record(path) == {"seed": 1}
    path.write_text("{")
    assert read_record(path) == {}


def test_a_folder_and_a_file_as_output(tmp_path: Path) -> None:
    label = LabelClass("left ventricle", 1)
    files = case(tmp_path)
    folder = Destination.of(tmp_path / "out", ".mha", [files, files])
    assert folder.labels(files) == tmp_path / "out" / "a.nii.gz"
    assert folder.distances(files, label) == tmp_path / "out" / "distance_maps" / "a_left_ventricle.nii.gz"
    assert folder.record == tmp_path / "out" / "prediction.json"
    one = Destination.of(tmp_path / "single.nrrd", ".mha", [files])
    assert one.labels(files) == tmp_path / "single.nrrd"
    assert one.distances(files, label) == tmp_path / "single_distance_left_ventricle.nrrd"
    assert one.uncertainty(files) == tmp_path / "single_uncertainty.nrrd"
    assert one.record == tmp_path / "single_prediction.json"
    with pytest.raises(UserError, match="2 cases"):
        Destination.of(tmp_path / "single.nrrd", ".mha", [files, files])
    (tmp_path / "named.nii.gz").mkdir()
    assert Destination.of(tmp_path / "named.nii.gz", ".mha", [files]).file is None
