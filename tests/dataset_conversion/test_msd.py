"""The Decathlon converter, on small tasks written here and on the real hippocampus task."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from benchmarks.case_lists import lists_of
from dataset_conversion.labelled_cases import CaseOptions
from dataset_conversion.msd import convert_msd, read_source
from diffatlas_pipeline.errors import DatasetError
from tests.dataset_conversion.source_trees import check_twice, refused

AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def _task(folder: Path, channels: int = 1, training: int = 4, test: int = 2) -> Path:
    """A task with ``training`` labelled and ``test`` unlabelled cases; image values name their case and channel."""
    rng = np.random.default_rng(0)
    shape = (4, 5, 6)

    def image(path: str) -> str:
        array = rng.integers(0, 1000, (*shape, channels) if channels > 1 else shape).astype(np.int16)
        _save(folder / path, array)
        return f"./{path}"

    def label(path: str) -> str:
        _save(folder / path, rng.integers(0, 3, shape).astype(np.uint8))
        return f"./{path}"

    content: dict[str, Any] = {
        "name": "Brain",
        "licence": "CC-BY-SA 4.0",
        "modality": {str(index): name for index, name in enumerate(("FLAIR", "T1w", "T2w")[:channels])},
        "labels": {"0": "background", "2": "core", "1": "edema"},
        "training": [
            {"image": image(f"imagesTr/b_{n}.nii.gz"), "label": label(f"labelsTr/b_{n}.nii.gz")} for n in range(training)
        ],
        "test": [image(f"imagesTs/t_{n}.nii.gz") for n in range(test)],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array, AFFINE).to_filename(path)


def _names(folder: Path) -> dict[str, list[str]]:
    return {part.name: sorted(path.name for path in part.iterdir()) for part in folder.iterdir() if part.is_dir()}


def test_one_channel_is_linked_and_described(tmp_path: Path) -> None:
    source = _task(tmp_path / "Task09_Brain")
    folder = convert_msd(source, tmp_path / "raw", 9)
    assert folder == tmp_path / "raw/Dataset009_Brain"
    assert _names(folder) == {
        "imagesTr": [f"b_{n}_0000.nii.gz" for n in range(4)],
        "labelsTr": [f"b_{n}.nii.gz" for n in range(4)],
        "imagesTs": [f"t_{n}_0000.nii.gz" for n in range(2)],
    }
    for part, case, suffix in (("images", "b_1", "_0000"), ("labels", "b_1", "")):
        assert (folder / f"{part}Tr/{case}{suffix}.nii.gz").samefile(source / f"{part}Tr/{case}.nii.gz")
    content = json.loads((folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "FLAIR"}
    assert content["labels"] == {"background": 0, "edema": 1, "core": 2}
    assert (content["numTraining"], content["file_ending"], content["licence"]) == (4, ".nii.gz", "CC-BY-SA 4.0")


def test_several_channels_are_split_without_loss(tmp_path: Path) -> None:
    source = _task(tmp_path / "Task01_Brain", channels=3)
    folder = convert_msd(source, tmp_path / "raw", 1, options=CaseOptions(workers=2))
    whole = nib.load(source / "imagesTr/b_2.nii.gz")
    for channel in range(3):
        part = nib.load(folder / f"imagesTr/b_2_{channel:04d}.nii.gz")
        assert part.get_data_dtype() == np.int16
        np.testing.assert_array_equal(np.asanyarray(part.dataobj), np.asanyarray(whole.dataobj)[..., channel])
        np.testing.assert_array_equal(part.affine, whole.affine)
    assert len(_names(folder)["imagesTr"]) == 12


def test_scaled_values_survive_the_split(tmp_path: Path) -> None:
    source = _task(tmp_path / "Task01_Brain", channels=2, training=1, test=0)
    path = source / "imagesTr/b_0.nii.gz"
    image = nib.load(path)
    header = image.header.copy()
    header.set_slope_inter(0.25, -7)
    scaled = nib.Nifti1Image(np.asanyarray(image.dataobj) * 0.25 - 7, image.affine, header)
    scaled.to_filename(path)
    expected = nib.load(path).get_fdata()
    folder = convert_msd(source, tmp_path / "raw", 1)
    for channel in range(2):
        found = nib.load(folder / f"imagesTr/b_0_{channel:04d}.nii.gz").get_fdata()
        np.testing.assert_allclose(found, expected[..., channel], rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
def test_converting_twice_changes_nothing(tmp_path: Path, channels: int) -> None:
    source = _task(tmp_path / "Task01_Brain", channels)
    folder = convert_msd(source, tmp_path / "raw", 1)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
    convert_msd(source, tmp_path / "raw", 1)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()} == before


def test_chosen_cases_with_test_labels(tmp_path: Path) -> None:
    source = _task(tmp_path / "Task09_Brain")
    folder = convert_msd(source, tmp_path / "raw", 9, training_cases=["b_0", "b_3"], test_cases=["b_1"])
    assert _names(folder) == {
        "imagesTr": ["b_0_0000.nii.gz", "b_3_0000.nii.gz"],
        "labelsTr": ["b_0.nii.gz", "b_3.nii.gz"],
        "imagesTs": ["b_1_0000.nii.gz"],
        "labelsTs": ["b_1.nii.gz"],
    }
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 2
    with pytest.raises(DatasetError, match=r"2 file\(s\).*b_3.*`overwrite`"):
        convert_msd(source, tmp_path / "raw", 9, training_cases=["b_0"], test_cases=["b_1"])
    convert_msd(source, tmp_path / "raw", 9, training_cases=["b_0"], test_cases=["b_1"], options=CaseOptions(overwrite=True))
    assert _names(folder)["imagesTr"] == ["b_0_0000.nii.gz"]


def test_training_defaults_to_all_but_the_test_cases(tmp_path: Path) -> None:
    folder = convert_msd(_task(tmp_path / "Task09_Brain"), tmp_path / "raw", 9, test_cases=["b_1", "t_0"])
    assert _names(folder)["labelsTr"] == ["b_0.nii.gz", "b_2.nii.gz", "b_3.nii.gz"]
    assert _names(folder)["labelsTs"] == ["b_1.nii.gz"]  # t_0 has no label


@pytest.mark.parametrize(
    ("training", "test", "message"),
    [
        (["b_0", "x"], None, r"1 training case\(s\) not in its lists: x"),
        (["t_0"], None, "not in its lists: t_0"),
        (None, ["y", "z"], r"2 test case\(s\) not in its lists: y, z"),
        (["b_0", "b_1"], ["b_1"], "both training and test cases: b_1"),
        (["b_0", "b_0"], None, "twice"),
        ([], None, "no training cases"),
    ],
)
def test_impossible_choices_are_named(tmp_path: Path, training: list[str] | None, test: list[str] | None, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        convert_msd(_task(tmp_path / "Task09_Brain"), tmp_path / "raw", 9, training_cases=training, test_cases=test)
    assert not (tmp_path / "raw").exists()


def test_all_broken_cases_are_listed_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = _task(tmp_path / "Task09_Brain", training=6)
    (source / "labelsTr/b_0.nii.gz").unlink()
    whole = (source / "imagesTr/b_1.nii.gz").read_bytes()
    (source / "imagesTr/b_1.nii.gz").write_bytes(whole[: len(whole) - 40])
    _save(source / "imagesTr/b_2.nii.gz", np.zeros((4, 5, 6, 2), np.int16))
    _save(source / "labelsTr/b_3.nii.gz", np.zeros((4, 5, 7), np.uint8))
    with pytest.raises(DatasetError) as raised:
        convert_msd(source, tmp_path / "raw", 9)
    message = str(raised.value)
    assert "4 problem(s)" in message
    for text in ("no such file", "cannot be read", "found shape 4 x 5 x 6 x 2", "shapes differ: 4 x 5 x 6 and 4 x 5 x 7"):
        assert text in message
    assert not (tmp_path / "raw").exists()
    folder = convert_msd(source, tmp_path / "raw", 9, options=CaseOptions(leave_out_bad=True))
    assert _names(folder)["imagesTr"] == ["b_4_0000.nii.gz", "b_5_0000.nii.gz"]
    said = capsys.readouterr().out
    assert all(f"b_{n}  " in said for n in range(4)) and "b_4" not in said
    _task(source, training=6)  # mended
    convert_msd(source, tmp_path / "raw", 9)
    assert len(_names(folder)["labelsTr"]) == 6


def _v1_task(folder: Path, channels: int) -> Path:
    """A task of nnU-Net v1: dataset.json lists cases, the files of images have the number of their channel."""
    source = _task(folder, channels)
    for path in [*source.glob("imagesT?/*.nii.gz")]:
        whole = np.asanyarray(nib.load(path).dataobj).reshape(4, 5, 6, channels)
        for channel in range(channels):
            _save(path.with_name(path.name.replace(".nii.gz", f"_{channel:04d}.nii.gz")), whole[..., channel])
        path.unlink()
    return source


@pytest.mark.parametrize("channels", [1, 2])
def test_tasks_of_nnunet_v1(tmp_path: Path, channels: int, capsys: pytest.CaptureFixture[str]) -> None:
    source = _v1_task(tmp_path / "Task509_Brain", channels)
    _save(source / "labelsTs/t_1.nii.gz", np.ones((4, 5, 6), np.uint8))
    _save(source / "imagesTr/spare_0000.nii.gz", np.zeros((4, 5, 6), np.int16))
    said = check_twice(tmp_path, capsys, "msd", "-i", str(source))
    assert "does not list 1 file(s), left out: imagesTr/spare_0000.nii.gz" in said
    folder = tmp_path / "raw/Dataset509_Brain"
    assert _names(folder)["imagesTr"] == [f"b_{n}_{channel:04d}.nii.gz" for n in range(4) for channel in range(channels)]
    assert _names(folder)["labelsTs"] == ["t_1.nii.gz"]
    for path in folder.glob("imagesT?/*"):
        assert path.samefile(source / path.relative_to(folder))
    content = json.loads((folder / "dataset.json").read_text())
    assert content["channel_names"] == {str(index): name for index, name in enumerate(("FLAIR", "T1w")[:channels])}
    assert content["labels"] == {"background": 0, "edema": 1, "core": 2}


def test_channels_of_nnunet_v1_that_are_missing_or_too_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = _v1_task(tmp_path / "Task509_Brain", 2)
    (source / "imagesTr/b_0_0001.nii.gz").unlink()
    _save(source / "imagesTr/b_1_0002.nii.gz", np.zeros((4, 5, 6), np.int16))
    message = refused(tmp_path, capsys, "msd", "-i", str(source))
    assert "b_0_0001.nii.gz: no such file" in message and "b_1_0002.nii.gz: is one channel too many" in message


def test_a_label_that_lies_elsewhere_can_get_the_place_of_its_image(tmp_path: Path) -> None:
    source = _task(tmp_path / "Task01_Brain", channels=2)
    path = source / "labelsTr/b_1.nii.gz"
    values = np.asanyarray(nib.load(path).dataobj)
    nib.Nifti1Image(values, np.diag([1.0, 1.5, 2.5, 1.0])).to_filename(path)
    with pytest.raises(DatasetError, match=r"b_1 .*spacing .*`fix_geometry`"):
        convert_msd(source, tmp_path / "raw")
    folder = convert_msd(source, tmp_path / "raw", options=CaseOptions(fix_geometry=True))
    mended = nib.load(folder / "labelsTr/b_1.nii.gz")
    np.testing.assert_array_equal(mended.affine, AFFINE)
    np.testing.assert_array_equal(np.asanyarray(mended.dataobj), values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": None}, "modality, labels and training"),
        ({"modality": {}}, "modality is empty"),
        ({"training": ["a.nii.gz"]}, "modality, labels and training"),
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, "same name"),
        ({"test": ["./imagesTs/t.mha"]}, "t.mha"),
        ({"test": ["./imagesTs/t.nii"]}, r"\.nii, \.nii\.gz"),
        ({"test": ["./imagesTs/t.nii.gz"] * 2}, "'t' is listed twice"),
    ],
)
def test_damaged_descriptions_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    source = _task(tmp_path / "Task09_Brain")
    content = json.loads((source / "dataset.json").read_text())
    (source / "dataset.json").write_text(json.dumps(content | change))
    with pytest.raises(DatasetError, match=message):
        read_source(source)
    (source / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="not a Decathlon"):
        read_source(source)


@pytest.mark.real_data
def test_real_hippocampus_with_its_protocol(tmp_path: Path) -> None:
    data = os.environ.get("DIFFATLAS_TEST_DATA")
    if not data:
        pytest.skip("DIFFATLAS_TEST_DATA is not set")
    source = Path(data) / "Task04_Hippocampus"
    protocol = json.loads(lists_of("hippocampus").read_text(encoding="utf-8"))
    folder = convert_msd(
        source, tmp_path, 4, training_cases=protocol["full"], test_cases=protocol["test"], options=CaseOptions(workers=2)
    )
    names = _names(folder)
    assert [len(names[part]) for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs")] == [160, 160, 40, 40]
    case = protocol["test"][7]
    assert (folder / f"imagesTs/{case}_0000.nii.gz").read_bytes() == (source / f"imagesTr/{case}.nii.gz").read_bytes()
    assert (folder / f"labelsTs/{case}.nii.gz").read_bytes() == (source / f"labelsTr/{case}.nii.gz").read_bytes()
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0, "Anterior": 1, "Posterior": 2}
