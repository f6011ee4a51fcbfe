"""What is said of a data set that is not where it was looked for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import DatasetError
from tests.planning.raw_data import write_dataset

NAME = "Dataset007_Balls"


def test_a_data_set_is_named_by_number_name_or_path(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "raw", cases=1)
    workspace = Workspace.resolve(tmp_path)
    for name in ("7", "007", NAME, str(folder)):
        assert workspace.raw_dataset(name) == folder
    with pytest.raises(DatasetError, match=f"'9': no such raw data set in .* .found: {NAME}.*`dataset=path/to"):
        workspace.raw_dataset("9")


def test_an_existing_path_is_told_what_it_lacks(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "elsewhere", cases=1)
    workspace = Workspace.resolve(tmp_path / "workspace")
    with pytest.raises(DatasetError, match=f"elsewhere: no dataset.json in this folder. .* data sets in it: {NAME}"):
        workspace.raw_dataset(str(folder.parent))
    with pytest.raises(DatasetError, match=r"imagesTr: no dataset\.json in this folder. Write one"):
        workspace.raw_dataset(str(folder / "imagesTr"))
    with pytest.raises(DatasetError, match=r"dataset\.json: a file, but a data set is a folder"):
        workspace.raw_dataset(str(folder / "dataset.json"))


def test_a_folder_of_a_number_s_name_does_not_hide_the_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_dataset(tmp_path / "raw", cases=1)
    (tmp_path / "7").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Workspace.resolve(tmp_path).raw_dataset("7") == folder


def test_the_call_that_is_proposed_can_be_pasted(tmp_path: Path) -> None:
    """Also with a path of Windows, whose backslashes are none of Python's escapes."""
    with pytest.raises(DatasetError) as stopped:
        Workspace.resolve(tmp_path).preprocessed_dataset(r"C:\new\table")
    call = str(stopped.value).split("`")[1]
    assert ast.literal_eval(call.removeprefix("plan_and_preprocess(").removesuffix(")")) == r"C:\new\table"


def test_raw_data_of_nnunet_are_read_where_nothing_else_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DIFFATLAS_WORKSPACE", "DiffAtlas_raw", "DiffAtlas_preprocessed", "DiffAtlas_results"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "nnUNet_raw"))
    folder = write_dataset(tmp_path / "nnUNet_raw", cases=1)
    found = Workspace.resolve()
    assert found.raw_dataset("7") == folder and found.results == tmp_path / "diffatlas_workspace" / "results"
    assert Workspace.resolve(writes_raw=True).raw == tmp_path / "diffatlas_workspace" / "raw", "it is not written to"
    assert Workspace.resolve(tmp_path / "named").raw == tmp_path / "named" / "raw"
    monkeypatch.setenv("DiffAtlas_raw", str(tmp_path / "own"))
    assert Workspace.resolve().raw == tmp_path / "own"
    monkeypatch.delenv("DiffAtlas_raw")
    (tmp_path / "diffatlas_workspace" / "raw").mkdir(parents=True)
    assert Workspace.resolve().raw == tmp_path / "diffatlas_workspace" / "raw"
