"""The TotalSegmentator converter, on small source trees in the published layout, through to a plan."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from dataset_conversion.heart import LABELS, HeartOptions
from dataset_conversion.totalsegmentator import MASKS, convert_totalsegmentator
from diffatlas_pipeline.commands import convert, plan_and_preprocess
from diffatlas_pipeline.errors import DatasetError
from tests.dataset_conversion.heart_sources import SIZE, heart, load, save, state, totalsegmentator_source


def _mask(source: Path, case: str, label: str, masks: str = "segmentations") -> Path:
    return source / case / masks / f"{MASKS[label]}.nii.gz"


@pytest.mark.parametrize("masks", ["segmentations", "heartchambers_highres"])  # version 1; version 2 with the task's output
def test_whole_hearts_are_merged_into_five_labels(tmp_path: Path, masks: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = totalsegmentator_source(tmp_path / "source", 6, masks)
    workers = 2 if masks == "segmentations" else 1
    folder = convert_totalsegmentator(source, tmp_path / "raw", 13, masks=masks, options=HeartOptions(workers=workers))
    assert folder == tmp_path / "raw/Dataset013_TotalSegmentatorHeart"
    assert "5 of 6 cases hold all five structures with at least 10 ml each" in capsys.readouterr().out
    for index in range(5):
        (image,), (labels,) = folder.glob(f"images*/s{index:04d}_0000.nii.gz"), folder.glob(f"labels*/s{index:04d}.nii.gz")
        assert image.samefile(source / f"s{index:04d}/ct.nii.gz")
        np.testing.assert_array_equal(load(labels), heart(index)[1])
    assert not list(folder.glob("images*/s0005*"))
    content = json.loads((folder / "dataset.json").read_text())
    assert (content["channel_names"], content["labels"]) == ({"0": "CT"}, {"background": 0, **LABELS})
    assert (content["numTraining"], len(list((folder / "labelsTs").iterdir()))) == (4, 1)
    selection = json.loads((folder / "selection.json").read_text())["cases"]
    assert [entry["taken"] for entry in selection.values()] == [True] * 5 + [False]
    assert selection["s0005"]["too_small"] == [f"{label} 0 ml" for label in LABELS]
    voxel_ml = abs(np.linalg.det(heart(0)[2][:3, :3])) / 1000
    assert selection["s0001"]["volumes_ml"]["LV"] == pytest.approx((heart(1)[1] == LABELS["LV"]).sum() * voxel_ml, abs=1e-3)


def test_small_hearts_are_left_out_by_volume(tmp_path: Path) -> None:
    source = totalsegmentator_source(tmp_path / "source", 4)
    _, labels, affine = heart(0)
    cut = labels == LABELS["RA"]
    keep = np.zeros_like(cut)
    keep[tuple(np.argwhere(cut)[:3].T)] = True
    save(_mask(source, "s0000", "RA"), keep.astype(np.uint8), affine)
    folder = convert_totalsegmentator(source, tmp_path / "raw", 13)
    assert not list(folder.glob("images*/s0000*"))
    folder = convert_totalsegmentator(source, tmp_path / "raw", 14, name="Small", minimum_ml=0.1)
    assert len(list(folder.glob("images*/s0000*"))) == 1
    with pytest.raises(DatasetError, match=r"none of 4 cases holds all five structures with 1e\+06 ml.*`minimum_ml`"):
        convert_totalsegmentator(source, tmp_path / "raw", 15, name="Huge", minimum_ml=1e6)


def test_crop_holds_the_heart_and_is_redone_when_the_margin_changes(tmp_path: Path) -> None:
    source = totalsegmentator_source(tmp_path / "source", 3)
    options: dict[str, Any] = {"test_fraction": 0.0}
    folder = convert_totalsegmentator(source, tmp_path / "raw", 13, options=HeartOptions(crop_margin_mm=14, **options))
    image, labels = (nib.load(folder / name) for name in ("imagesTr/s0000_0000.nii.gz", "labelsTr/s0000.nii.gz"))
    assert image.shape == labels.shape and image.shape < SIZE
    assert image.header.get_data_dtype() == np.int16
    wanted_image, wanted_labels, affine = heart(0)
    start = np.rint(np.linalg.solve(affine, image.affine @ [0, 0, 0, 1]))[:3].astype(int)
    box = tuple(slice(s, s + n) for s, n in zip(start, image.shape, strict=True))
    np.testing.assert_array_equal(load(folder / "imagesTr/s0000_0000.nii.gz"), wanted_image[box])
    np.testing.assert_array_equal(load(folder / "labelsTr/s0000.nii.gz"), wanted_labels[box])
    assert (wanted_labels > 0).sum() == (load(folder / "labelsTr/s0000.nii.gz") > 0).sum()
    convert_totalsegmentator(source, tmp_path / "raw", 13, options=HeartOptions(crop_margin_mm=0, **options))
    assert nib.load(folder / "imagesTr/s0000_0000.nii.gz").shape < image.shape
    convert_totalsegmentator(source, tmp_path / "raw", 13, options=HeartOptions(**options))
    assert (folder / "imagesTr/s0000_0000.nii.gz").samefile(source / "s0000/ct.nii.gz")
    assert nib.load(folder / "labelsTr/s0000.nii.gz").shape == SIZE
    np.testing.assert_array_equal(load(source / "s0000/ct.nii.gz"), wanted_image)


def test_converting_twice_changes_nothing_and_measures_only_what_has_changed(tmp_path: Path) -> None:
    source = totalsegmentator_source(tmp_path / "source", 4)
    folder = convert_totalsegmentator(source, tmp_path / "raw", 13)
    before = state(folder)
    convert_totalsegmentator(source, tmp_path / "raw", 13)
    assert state(folder) == before
    record = json.loads((folder / "selection.json").read_text())
    record["cases"]["s0000"]["volumes_ml"]["LV"] = 1.0  # as only a measurement could tell
    (folder / "selection.json").write_text(json.dumps(record))
    labels = load(_mask(source, "s0001", "LV")) * 0
    save(_mask(source, "s0001", "LV"), labels, heart(1)[2])
    convert_totalsegmentator(source, tmp_path / "raw", 13, options=HeartOptions(overwrite=True))
    taken = {case: entry["taken"] for case, entry in json.loads((folder / "selection.json").read_text())["cases"].items()}
    assert taken == {"s0000": False, "s0001": False, "s0002": True, "s0003": False}


def test_the_publishers_split(tmp_path: Path) -> None:
    source = totalsegmentator_source(tmp_path / "source", 6)  # test, train, val, train, test, and one without a heart
    folder = convert_totalsegmentator(source, tmp_path / "raw", 13, split_from_meta=True)
    assert sorted(path.name[:5] for path in (folder / "imagesTs").iterdir()) == ["s0000", "s0004"]
    assert sorted(path.name[:5] for path in (folder / "imagesTr").iterdir()) == ["s0001", "s0002", "s0003"]
    text = (source / "meta.csv").read_text(encoding="utf-8-sig")

    def message() -> str:
        with pytest.raises(DatasetError) as raised:
            convert_totalsegmentator(source, tmp_path / "raw", 13, split_from_meta=True)
        return str(raised.value)

    (source / "meta.csv").write_text(text.replace("s0003;63", "s9999;63"))
    assert "has no row for s0003" in message()
    (source / "meta.csv").write_text(text.replace("val", "dev"))
    assert "column split holds 'dev'" in message()
    (source / "meta.csv").write_text(text.replace(";", ","))
    assert "needs columns image_id and split" in message()
    (source / "meta.csv").unlink()
    assert "meta.csv: cannot be read" in message()


def test_overlapping_masks_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = totalsegmentator_source(tmp_path / "source", 3)
    _, labels, affine = heart(0)
    save(_mask(source, "s0000", "Myo"), np.isin(labels, (LABELS["Myo"], LABELS["LV"])).astype(np.uint8), affine)
    folder = convert_totalsegmentator(source, tmp_path / "raw", 13)
    assert "1 of them have voxels in two masks (s0000)" in capsys.readouterr().out
    (found,) = folder.glob("labels*/s0000.nii.gz")
    np.testing.assert_array_equal(load(found), labels)


def test_cases_that_have_no_mask_yet_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = "heartchambers_highres"
    source = totalsegmentator_source(tmp_path / "source", 5, masks)

    def printed(**options: Any) -> str:
        convert_totalsegmentator(source, tmp_path / "raw", 13, masks=masks, options=HeartOptions(**options))
        return capsys.readouterr().out

    late = ("s0001", "s0003")  # what an interrupted run of the task has not come to
    for case in late:
        (source / case / masks).rename(tmp_path / case)
    text = printed()
    assert "2 of 5 cases hold all five structures" in text
    assert f"2 of 5 cases have none of the five masks in their folder {masks} (s0001, s0003). They are left out." in text
    assert "run the same command again with `overwrite`" in text
    assert "none of the five masks" not in printed(exclude=late)
    for case in late:
        (tmp_path / case).rename(source / case / masks)
    text = printed(overwrite=True)
    assert "4 of 5 cases hold all five structures" in text and "none of the five masks" not in text


def test_all_broken_cases_are_listed_and_the_rest_is_kept(tmp_path: Path) -> None:
    source = totalsegmentator_source(tmp_path / "source", 8)
    _, labels, affine = heart(0)
    (source / "s0000/ct.nii.gz").unlink()
    _mask(source, "s0001", "RA").unlink()
    save(_mask(source, "s0002", "LV"), np.zeros((4, 4, 4), np.uint8), affine)
    save(_mask(source, "s0003", "LV"), labels, affine)
    whole = (source / "s0004/ct.nii.gz").read_bytes()
    (source / "s0004/ct.nii.gz").write_bytes(whole[: len(whole) // 2])
    for label in LABELS:
        _mask(source, "s0005", label).unlink()
    with pytest.raises(DatasetError) as raised:
        convert_totalsegmentator(source, tmp_path / "raw", 13)
    message = str(raised.value)
    assert message.startswith("5 case(s)")
    for text in (
        "s0000  no file",
        f"{MASKS['RA']}.nii.gz",
        f"{MASKS['LV']}.nii.gz: not on the grid of ct.nii.gz (shapes differ",
        "holds values from 0 to 5; a mask holds 0 and 1 only",
        "s0004/ct.nii.gz: cannot be read",
        "`exclude`",
    ):
        assert text in message
    folder = tmp_path / "raw/Dataset013_TotalSegmentatorHeart"
    assert not (folder / "dataset.json").exists()
    assert len(list(folder.glob("images*/*"))) == 1  # s0006; s0007 has no heart
    assert json.loads((folder / "selection.json").read_text())["without_masks"] == ["s0005"]


def test_wrong_sources_are_named(tmp_path: Path) -> None:
    source = totalsegmentator_source(tmp_path / "source", 2)

    def message(where: Path, **options: Any) -> str:
        with pytest.raises(DatasetError) as raised:
            convert_totalsegmentator(where, tmp_path / "raw", 13, **options)
        return str(raised.value)

    assert "no such folder" in message(tmp_path / "none")
    assert "holds no case, that is, no folder s0000" in message(tmp_path)
    assert "none of its 2 cases has a mask heartchambers_highres/heart_myocardium.nii.gz" in message(
        source, masks="heartchambers_highres"
    )
    assert "no case s7777" in message(source, options=HeartOptions(exclude=["s7777"]))
    (tmp_path / "raw/Dataset013_Liver").mkdir(parents=True)
    assert "already has Dataset013_Liver" in message(source)
    shutil.rmtree(tmp_path / "raw")


def test_commands_from_source_to_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = totalsegmentator_source(tmp_path / "source", 7)
    shared = ["--workspace", str(tmp_path / "w"), "--workers", "1"]
    arguments = ["totalsegmentator", "-i", str(source), "-d", "13", "--crop-margin-mm", "20", *shared]
    convert.main(arguments)
    assert "Wrote 5 training and 1 test cases" in capsys.readouterr().out
    plan_and_preprocess.main(["-d", "13", "--preset", "cpu", "--device", "cpu", *shared])
    plan = json.loads((tmp_path / "w/preprocessed/Dataset013_TotalSegmentatorHeart/plans.json").read_text())
    assert plan["channels"][0]["scheme"] == "ct"
    assert [label["name"] for label in plan["dataset"]["labels"]] == list(LABELS)
    (source / "s0000/ct.nii.gz").unlink()
    for extra, text in (([], "s0000  no file"), (["--min-volume-ml", "-1"], "give 0 or more millilitres")):
        with pytest.raises(SystemExit, match="2"):
            convert.main([*arguments, "--overwrite", *extra])
        assert text in capsys.readouterr().err
