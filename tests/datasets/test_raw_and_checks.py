from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffatlas_pipeline.datasets.checks import check_dataset
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.datasets.raw import read_dataset
from diffatlas_pipeline.errors import DatasetError
from diffatlas_pipeline.volumes.io import read_volume
from tests.planning.raw_data import ball_case, change_description, write_dataset, write_nifti

EYE = np.eye(4)


def test_a_data_set_is_listed(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, cases=3, channels=("CT", "PET"))
    shutil.copytree(folder / "imagesTr", folder / "imagesUn")
    dataset = read_dataset(folder)
    assert dataset.description.name == "Dataset007_Balls"
    assert dataset.description.channels == ("CT", "PET")
    assert dataset.description.labels == (LabelClass("large", 3), LabelClass("small", 7))
    assert [files.case for files in dataset.training] == ["case00", "case01", "case02"]
    assert all(len(files.images) == 2 and files.label is not None for files in dataset.training)
    assert len(dataset.unlabelled) == 3 and dataset.unlabelled[0].label is None and dataset.test == ()
    check_dataset(dataset, workers=1)


def test_unlabelled_scans_can_be_of_another_modality(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, cases=2, channels=("CT",))
    shutil.copytree(folder / "imagesTr", folder / "imagesUn")
    assert {files.modality for files in read_dataset(folder).unlabelled} == {None}
    change_description(folder, unlabelled_modality="mri")
    dataset = read_dataset(folder)
    assert [files.modality for files in dataset.unlabelled] == ["MRI", "MRI"]
    assert {files.modality for files in dataset.training} == {None}


def test_cases_written_out_in_dataset_json_are_used(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, cases=2)
    entry = {"images": ["imagesTr/case01_0000.nii.gz"], "label": "labelsTr/case01.nii.gz"}
    change_description(folder, dataset={"one": entry}, numTraining=1)
    assert [files.case for files in read_dataset(folder).training] == ["one"]
    change_description(folder, dataset={"one": {**entry, "label": "labelsTr/none.nii.gz"}})
    with pytest.raises(DatasetError, match=r"one: no file .*none"):
        read_dataset(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": None}, "no entry 'channel_names'"),
        ({"channel_names": None, "modality": {"0": "MRI"}}, "older layout"),
        ({"channel_names": {"1": "MRI"}}, "one name per channel"),
        ({"labels": {"background": 0}}, "at least one foreground label"),
        ({"labels": {"large": 3}}, '"background": 0'),
        ({"labels": {"background": 0, "a": 3, "b": 3}}, "its own integer"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, "regions_class_order"),
        ({"labels": {"background": 0, "a": 1, "ignore": 1}}, "ignore label"),
        ({"labels": {"background": 0, "a": 1.5}}, "whole number"),
        ({"labels": {"0": "background", "1": "a"}}, "names to numbers"),
        ({"file_ending": ".jpg"}, "allowed are"),
        ({"numTraining": 9}, "numTraining is 9.*holds 2"),
        ({"unlabelled_modality": "PET"}, "unlabelled_modality is 'PET'; allowed are CT, MRI"),
    ],
)
def test_a_wrong_description_is_explained(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = write_dataset(tmp_path, cases=2)
    change_description(folder, **changes)
    with pytest.raises(DatasetError, match=message) as error:
        read_dataset(folder)
    assert str(folder / "dataset.json") in str(error.value)


def test_broken_json_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        read_dataset(tmp_path)
    folder = write_dataset(tmp_path, cases=1)
    shutil.rmtree(folder / "labelsTr")
    with pytest.raises(DatasetError, match=r"labelsTr: no such folder"):
        read_dataset(folder)
    shutil.rmtree(folder / "imagesTr")
    with pytest.raises(DatasetError, match=r"imagesTr: no such folder"):
        read_dataset(folder)
    (folder / "imagesTr").mkdir()
    with pytest.raises(DatasetError, match="imagesTr"):
        read_dataset(folder)
    (folder / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="not valid JSON"):
        read_dataset(folder)


def test_all_missing_files_are_listed_at_once(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, cases=4, channels=("T1", "T2"))
    (folder / "imagesTr/case01_0001.nii.gz").unlink()
    (folder / "imagesTr/case02_0000.nii.gz").unlink()
    with pytest.raises(DatasetError) as error:
        read_dataset(folder)
    assert "case01" in str(error.value) and "case02" in str(error.value)


def test_labels_without_image_and_images_without_label(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, cases=3)
    (folder / "labelsTr/case01.nii.gz").rename(folder / "labelsTr/other.nii.gz")
    with pytest.raises(DatasetError) as error:
        read_dataset(folder)
    assert "case01: no label file" in str(error.value) and "other: label" in str(error.value)


def test_one_table_lists_every_bad_case(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, cases=8)
    image, labels = ball_case(seed=1)
    shifted = EYE.copy()
    shifted[0, 3] = 2.5
    write_nifti(folder / "labelsTr/case01.nii.gz", labels, shifted)
    write_nifti(folder / "labelsTr/case02.nii.gz", np.where(labels == 7, 8, labels).astype(np.uint8), EYE)
    image[3, 4, 5] = np.nan
    write_nifti(folder / "imagesTr/case03_0000.nii.gz", image, EYE)
    damaged = folder / "imagesTr/case04_0000.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    write_nifti(folder / "imagesTr/case05_0000.nii.gz", np.ones_like(image), EYE)
    write_nifti(folder / "labelsTr/case06.nii.gz", labels[:, :, :-1], EYE)
    with pytest.raises(DatasetError) as error:
        check_dataset(read_dataset(folder), workers=1)
    lines = {line.split()[0]: line for line in str(error.value).splitlines()[2:]}
    assert set(lines) == {f"case0{index}" for index in range(1, 7)}
    assert "6 of 8 cases" in str(error.value)
    assert "2.5" in lines["case01"] and "mm" in lines["case01"]
    assert "value(s) 8 not in dataset.json (allowed: 0, 3, 7)" in lines["case02"]
    assert "NaN" in lines["case03"] and "case04_0000.nii.gz" in lines["case04"]
    assert "constant" in lines["case05"] and "different grids" in lines["case06"]


def test_channels_must_share_a_grid(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, cases=2, channels=("T1", "T2"))
    write_nifti(folder / "imagesTr/case01_0001.nii.gz", ball_case()[0], np.diag([1.0, 1.0, 1.2, 1.0]))
    with pytest.raises(DatasetError, match=r"case01 .*not on the grid"):
        check_dataset(read_dataset(folder), workers=1)


def test_dimensions_may_not_be_mixed(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, cases=3)
    image, labels = ball_case()
    write_nifti(folder / "imagesTr/case02_0000.nii.gz", image[:, :, 9], EYE)
    write_nifti(folder / "labelsTr/case02.nii.gz", labels[:, :, 9], EYE)
    with pytest.raises(DatasetError, match=r"case02 .*2-D image among 3-D"):
        check_dataset(read_dataset(folder), workers=1)


def test_a_data_set_without_any_foreground_is_refused(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, cases=2)
    for index in range(2):
        write_nifti(folder / f"labelsTr/case{index:02d}.nii.gz", np.zeros((24, 28, 20), np.uint8), EYE)
    with pytest.raises(DatasetError, match="no voxel of any label"):
        check_dataset(read_dataset(folder), workers=1)


def test_endings_in_capitals_count_and_other_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_dataset(tmp_path, cases=3)
    (folder / "imagesTr" / "case01_0000.nii.gz").rename(folder / "imagesTr" / "case01_0000.NII.GZ")
    (folder / "labelsTr" / "case02.nii.gz").rename(folder / "labelsTr" / "case02.Nii.gz")
    (folder / "imagesTr" / "extra.img").touch()
    (folder / "labelsTr" / "notes.txt").touch()
    text = (folder / "dataset.json").read_bytes()
    (folder / "dataset.json").write_bytes(b"\xef\xbb\xbf" + text)  # as some editors write it
    dataset = read_dataset(folder)
    assert [files.case for files in dataset.training] == ["case00", "case01", "case02"]
    assert dataset.left_out == ("imagesTr/extra.img", "labelsTr/notes.txt")
    check_dataset(dataset, workers=1)
    assert "2 file(s) are left out" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["../../outside", "/outside", "..", "a/b", "a\\b"])
def test_a_case_is_not_named_like_a_place_elsewhere(tmp_path: Path, name: str) -> None:
    folder = write_dataset(tmp_path, cases=1)
    entry = {"images": ["imagesTr/case00_0000.nii.gz"], "label": "labelsTr/case00.nii.gz"}
    change_description(folder, dataset={name: entry}, numTraining=1)
    with pytest.raises(DatasetError, match="cannot be the name of a case"):
        read_dataset(folder)


def test_what_pads_images_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_dataset(tmp_path, cases=3, channels=("CT", "MRI"))
    for case in ("case00", "case02"):
        for channel in ("0000", "0001"):
            path = folder / f"imagesTr/{case}_{channel}.nii.gz"
            image = read_volume([path]).array[0]
            image[:4] = -9999
            write_nifti(path, image, EYE)
    check_dataset(read_dataset(folder), workers=1)
    said = " ".join(capsys.readouterr().out.split())
    assert "channel MRI is padded with -9999, which is taken for no intensity: case00, case02" in said
    assert "channel CT" not in said, "its contrast follows Hounsfield units"


@pytest.mark.skipif(os.name != "posix", reason="file names are text there")
def test_names_that_are_no_text_are_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_dataset(tmp_path, cases=2)
    for place, ending in (("imagesTr", b"_0000.nii.gz"), ("labelsTr", b".nii.gz")):
        source = folder / place / f"case01{ending.decode()}"
        shutil.copy(source, os.fsdecode(os.fsencode(folder / place) + b"/M\xfcller" + ending))
    dataset = read_dataset(folder)
    assert [files.case for files in dataset.training] == ["case00", "case01"]
    check_dataset(dataset, workers=1)
    said = " ".join(capsys.readouterr().out.split())
    assert "2 file(s) are left out" in said and "ller_0000.nii.gz" in said and "ller.nii.gz" in said
