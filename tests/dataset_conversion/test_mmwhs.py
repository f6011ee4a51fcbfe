"""The MM-WHS converter, on small source trees in the published layout, through to a plan."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dataset_conversion.heart import LABELS, HeartOptions
from dataset_conversion.mmwhs import VALUES, convert_mmwhs, renumbered
from diffatlas_pipeline.commands import convert, plan_and_preprocess
from diffatlas_pipeline.errors import DatasetError
from tests.dataset_conversion.heart_sources import heart, load, mmwhs_source, save, state


@pytest.mark.parametrize("flat", [False, True])
def test_scans_are_linked_and_labels_renumbered(tmp_path: Path, flat: bool) -> None:
    source = mmwhs_source(tmp_path / "MM-WHS", cases=5, flat=flat)
    mmwhs_source(source, "MRI", cases=2, flat=flat)
    save(source / "ct_test" / "ct_test_2001_image.nii.gz", np.zeros((4, 4, 4), np.int16), np.eye(4))  # published without labels
    (source / "._ct_train_1001_image.nii.gz").write_bytes(b"left by another system")
    folder = convert_mmwhs(source, tmp_path / "raw", 11, modality="CT")
    assert folder == tmp_path / "raw/Dataset011_MMWHSCT"
    assert [len(list((folder / part).iterdir())) for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs")] == [4, 4, 1, 1]
    for index in range(5):
        case = f"ct_train_{1001 + index}"
        (image,), (labels,) = folder.glob(f"images*/{case}_0000.nii.gz"), folder.glob(f"labels*/{case}.nii.gz")
        assert image.samefile((source if flat else source / "ct_train") / f"{case}_image.nii.gz")
        assert image.parent.name[-2:] == labels.parent.name[-2:]
        np.testing.assert_array_equal(load(labels), heart(index)[1])
        assert nib.load(labels).get_data_dtype() == np.uint8
        np.testing.assert_array_equal(nib.load(labels).affine, nib.load(image).affine)
    content = json.loads((folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "CT"}
    assert content["labels"] == {"background": 0, "Myo": 1, "LV": 2, "LA": 3, "RA": 4, "RV": 5}
    assert content["numTraining"] == 4
    assert content["conversion"]["modality"] == "CT"
    splits = json.loads((folder / "splits.json").read_text())
    training = {path.name.removesuffix(".nii.gz") for path in (folder / "labelsTr").iterdir()}
    assert set(splits) == {"2-shot", "2-shot-seed1", "2-shot-seed2"}
    assert all({*split["train"], *split["validation"]} <= training for split in splits.values())


def test_mri_is_a_data_set_of_its_own_with_the_same_labels(tmp_path: Path) -> None:
    source = mmwhs_source(tmp_path / "MM-WHS", "MRI", cases=3)
    folder = convert_mmwhs(source, tmp_path / "raw", 12, modality="MRI", options=HeartOptions(test_fraction=0))
    content = json.loads((folder / "dataset.json").read_text())
    assert (folder.name, content["channel_names"], content["numTraining"]) == ("Dataset012_MMWHSMRI", {"0": "MRI"}, 3)
    assert content["labels"] == {"background": 0, **LABELS}
    assert not (folder / "imagesTs").exists()
    assert not (folder / "splits.json").exists()  # the planned few-shot splits leave fold0's validation cases for testing


def test_every_published_value_has_its_label() -> None:
    values = np.array(sorted(VALUES)).reshape(1, 1, -1)
    found = dict(zip(sorted(VALUES), renumbered(values, Path("x")).ravel().tolist(), strict=True))
    assert found == {0: 0, 205: 1, 420: 3, 421: 3, 500: 2, 550: 4, 600: 5, 820: 0, 850: 0}


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint16])
def test_unknown_values_are_named_in_any_type(dtype: type) -> None:
    labels = np.full((3, 3, 40), 205, dtype)
    labels[0, 0, 35] = 77
    with pytest.raises(DatasetError, match=r"x\.nii\.gz: holds label value 77; known are 0, 205, 420, 421"):
        renumbered(labels, Path("x.nii.gz"))
    if dtype is not np.uint8:
        labels[0, 0, 0] = np.iinfo(dtype).max
        with pytest.raises(DatasetError, match=rf"label value 77, {np.iinfo(dtype).max};"):
            renumbered(labels, Path("x.nii.gz"))


def test_converting_twice_changes_nothing_and_a_changed_source_is_converted_again(tmp_path: Path) -> None:
    source = mmwhs_source(tmp_path / "MM-WHS", cases=3)
    folder = convert_mmwhs(source, tmp_path / "raw", 11, modality="CT")
    before, sources = state(folder), state(source)
    convert_mmwhs(source, tmp_path / "raw", 11, modality="CT")
    assert state(folder) == before
    path = source / "ct_train/ct_train_1002_label.nii.gz"
    image = nib.load(path)
    changed = np.where(load(path) == 205, 421, load(path))
    image.__class__(changed, image.affine, image.header).to_filename(path)
    os.utime(path, ns=(0, sources[path][1] - 10**9))  # restored from a backup: older than what was made of it
    convert_mmwhs(source, tmp_path / "raw", 11, modality="CT")
    (labels,) = folder.glob("labels*/ct_train_1002.nii.gz")
    assert set(np.unique(load(labels))) == {0, 2, 3, 4, 5}
    assert {file for file, value in state(folder).items() if before.get(file) != value} == {labels}
    convert_mmwhs(source, tmp_path / "raw", 11, modality="CT", options=HeartOptions(crop_margin_mm=5))
    assert load(min((folder / "imagesTr").iterdir())).shape < heart(0)[0].shape
    after = {file: value for file, value in state(source).items() if file != path}
    assert after == {file: value for file, value in sources.items() if file != path}  # the source is never changed


def test_all_broken_cases_are_listed_and_the_rest_is_kept(tmp_path: Path) -> None:
    source = mmwhs_source(tmp_path / "MM-WHS", cases=7)
    place = source / "ct_train"
    _, _, affine = heart(0)
    (place / "ct_train_1001_label.nii.gz").unlink()
    (place / "ct_train_1002_image.nii.gz").unlink()
    labels = load(place / "ct_train_1003_label.nii.gz")
    save(place / "ct_train_1003_label.nii.gz", np.where(labels == 850, 851, labels), affine)
    shifted = affine.copy()
    shifted[0, 3] += 3.0
    save(place / "ct_train_1004_label.nii.gz", load(place / "ct_train_1004_label.nii.gz"), shifted)
    whole = (place / "ct_train_1005_image.nii.gz").read_bytes()
    (place / "ct_train_1005_image.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError) as raised:
        convert_mmwhs(source, tmp_path / "raw", 11, modality="CT")
    message = str(raised.value)
    assert message.startswith("5 case(s)")
    for text in (
        r"ct_train_1001  no file ct_train_1001_label.nii.gz beside",
        "ct_train_1002  no file ct_train_1002_image.nii.gz",
        "ct_train_1003_label.nii.gz: holds label value 851",
        "not on its image's grid (corners lie up to 3 mm apart",
        "ct_train_1005_image.nii.gz: cannot be read",
        "`exclude`",
    ):
        assert text in message
    folder = tmp_path / "raw/Dataset011_MMWHSCT"
    assert not (folder / "dataset.json").exists()
    assert len(list(folder.glob("images*/*"))) == 2
    broken = tuple(f"ct_train_{number}" for number in range(1001, 1006))
    convert_mmwhs(source, tmp_path / "raw", 11, modality="CT", options=HeartOptions(exclude=broken, overwrite=True))
    assert json.loads((folder / "dataset.json").read_text())["conversion"]["excluded"] == list(broken)


def test_wrong_sources_and_choices_are_named(tmp_path: Path) -> None:
    source = mmwhs_source(tmp_path / "MM-WHS", cases=3)
    raw = tmp_path / "raw"

    def message(where: Path = source, modality: str = "CT", number: int = 11, **options: object) -> str:
        with pytest.raises(DatasetError) as raised:
            convert_mmwhs(where, raw, number, modality=modality, options=HeartOptions(**options))  # type: ignore[arg-type]
        return str(raised.value)

    assert "no such folder" in message(tmp_path / "none")
    assert "holds no mr_train_1001_image.nii.gz or the like (found: 3 cases of the other modality)" in message(modality="MRI")
    assert "1 test case(s) are not among its 3 cases: ct_train_1" in message(test_cases=["ct_train_1"])
    assert "all 3 cases are test cases" in message(test_cases=["ct_train_1001", "ct_train_1002", "ct_train_1003"])
    assert "holds no case ct_train_9" in message(exclude=["ct_train_9"])
    (raw / "Dataset011_Liver").mkdir(parents=True)
    assert "already has Dataset011_Liver" in message()
    copy = source / "copy" / "ct_train_1001_image.nii.gz"
    save(copy, np.zeros((2, 2, 2), np.int16), np.eye(4))
    assert "holds the image of ct_train_1001 twice" in message()
    assert sorted(path.name for path in raw.iterdir()) == ["Dataset011_Liver"]


def test_commands_from_source_to_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = mmwhs_source(tmp_path / "MM-WHS", "MRI", cases=6)
    (tmp_path / "lists.json").write_text(json.dumps({"test": ["mr_train_1004"]}))
    arguments = [
        "mmwhs",
        "-i",
        str(source),
        "-d",
        "12",
        "--modality",
        "MRI",
        "--workspace",
        str(tmp_path / "w"),
        "--workers",
        "1",
    ]
    convert.main([*arguments, "--crop-margin-mm", "20", "--test-from-json", f"{tmp_path / 'lists.json'}:test"])
    assert "Wrote 5 training and 1 test cases" in capsys.readouterr().out
    plan_and_preprocess.main(
        ["-d", "12", "--preset", "cpu", "--device", "cpu", "--workers", "1", "--workspace", str(tmp_path / "w")]
    )
    plan = json.loads((tmp_path / "w/preprocessed/Dataset012_MMWHSMRI/plans.json").read_text())
    assert plan["channels"][0]["scheme"] == "percentile"
    assert [label["name"] for label in plan["dataset"]["labels"]] == list(LABELS)
    splits = json.loads((tmp_path / "w/preprocessed/Dataset012_MMWHSMRI/splits.json").read_text())
    assert splits["2-shot"] == json.loads((tmp_path / "w/raw/Dataset012_MMWHSMRI/splits.json").read_text())["2-shot"]
    with pytest.raises(SystemExit, match="2"):
        convert.main([*arguments, "--test-fraction", "1"])
    assert "--test-fraction 1: give a number from 0 to below 1" in capsys.readouterr().err
