"""A folder of images and one of labels, as laboratories name them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from diffatlas_pipeline.datasets.raw import read_dataset
from diffatlas_pipeline.volumes.io import read_grid, read_labels, read_volume
from tests.dataset_conversion.source_trees import AFFINE, check_twice, convert, image, labels, refused, same_grid, save
from tests.volumes.test_dicom import VALUES, expected_affine, write_series

Captured = pytest.CaptureFixture[str]
CASES = ("p1", "p2", "p3")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """images/p1.nii.gz with labels/p1_seg.nii.gz and so on."""
    for seed, case in enumerate(CASES):
        save(tmp_path / f"source/images/{case}.nii.gz", image(seed))
        save(tmp_path / f"source/labels/{case}_seg.nii.gz", labels(seed))
    return tmp_path / "source"


def words(source: Path, *more: str) -> list[str]:
    start = ["folder", "-i", str(source / "images"), "-l", str(source / "labels"), "-d", "5", "--name", "Liver"]
    return [*start, *(() if "--channels" in more or "--no-channels" in more else ("--channels", "CT"))] + [
        word for word in more if word != "--no-channels"
    ]


def result(tmp_path: Path) -> Path:
    return tmp_path / "raw/Dataset005_Liver"


def names(folder: Path) -> dict[str, list[str]]:
    return {part.name: sorted(path.name for path in part.iterdir()) for part in folder.iterdir() if part.is_dir()}


def test_files_are_linked_under_the_names_of_the_layout(tmp_path: Path, source: Path, capsys: Captured) -> None:
    said = check_twice(tmp_path, capsys, *words(source, "--label-names", "liver=1", "tumour=2"))
    assert "Next: DiffAtlas_plan_and_preprocess -d 5" in said
    dataset = read_dataset(result(tmp_path))
    assert [files.case for files in dataset.training] == list(CASES)
    assert dataset.description.channels == ("CT",)
    assert [(label.name, label.value) for label in dataset.description.labels] == [("liver", 1), ("tumour", 2)]
    for files in dataset.training:
        assert files.label is not None
        assert files.images[0].samefile(source / f"images/{files.case}.nii.gz")
        assert files.label.samefile(source / f"labels/{files.case}_seg.nii.gz")
    content = json.loads((result(tmp_path) / "dataset.json").read_text())
    assert content["conversion"] == {
        "converter": "folder",
        "source": str(source / "images"),
        "labels": str(source / "labels"),
    }


@pytest.mark.parametrize(
    ("image_name", "label_name", "case"),
    [
        ("a_img", "a_gt", "a"),
        ("a.image", "a-Mask", "a"),
        ("a_0000", "a", "a"),
        ("a_t1", "a_label", "a"),
        ("a_0001", "a_0001", "a_0001"),
        ("brain_scan", "brain_scan", "brain_scan"),
        ("volume-7", "segmentation-7", "7"),
    ],
)
def test_usual_names_match(tmp_path: Path, image_name: str, label_name: str, case: str) -> None:
    save(tmp_path / f"images/{image_name}.nii.gz", image(0))
    save(tmp_path / f"labels/{label_name}.nii.gz", labels(0))
    convert(tmp_path, *words(tmp_path))
    assert names(result(tmp_path)) == {"imagesTr": [f"{case}_0000.nii.gz"], "labelsTr": [f"{case}.nii.gz"]}


def test_images_and_labels_may_share_a_folder(tmp_path: Path, capsys: Captured) -> None:
    for seed, case in enumerate(CASES):
        save(tmp_path / f"data/{case}_image.nii.gz", image(seed))
        save(tmp_path / f"data/{case}_segmentation.nii.gz", labels(seed))
    save(tmp_path / "data/test/t1.nii.gz", image(9))
    data = str(tmp_path / "data")
    convert(
        tmp_path,
        "folder",
        "-i",
        data,
        "-l",
        data,
        "-d",
        "5",
        "--name",
        "Liver",
        "--channels",
        "MRI",
        "--test-images",
        data + "/test",
    )
    assert "left out" not in capsys.readouterr().out
    assert names(result(tmp_path))["labelsTr"] == [f"{case}.nii.gz" for case in CASES]


@pytest.mark.parametrize("by", ["suffix", "number", "folder"])
def test_channels(tmp_path: Path, by: str, capsys: Captured) -> None:
    for seed, case in enumerate(CASES):
        for channel, word in enumerate(("flair", "T1")):
            place = {"suffix": f"{case}_{word}", "number": f"{case}_{channel:04d}", "folder": f"{word}/{case}"}[by]
            save(tmp_path / f"images/{place}.nii.gz", image(10 * seed + channel))
        save(tmp_path / f"labels/{case}_mask.nii.gz", labels(seed))
    channels = ("--channels", "flair", "T1") if by == "number" else ("--no-channels",)
    said = check_twice(tmp_path, capsys, *words(tmp_path, *channels))
    dataset = read_dataset(result(tmp_path))
    assert dataset.description.channels == (("flair", "T1") if by == "number" else ("T1", "flair"))
    assert by == "number" or "T1, flair" in said
    order = (0, 1) if by == "number" else (1, 0)
    for seed, files in enumerate(dataset.training):
        volume = read_volume(files.images)
        for channel, drawn in enumerate(order):
            np.testing.assert_array_equal(volume.array[channel], image(10 * seed + drawn))
    if by == "suffix":
        convert(tmp_path, *words(tmp_path, "--channels", "flair", "T1", "--overwrite"))
        assert read_dataset(result(tmp_path)).description.channels == ("flair", "T1")
        np.testing.assert_array_equal(nib.load(result(tmp_path) / "imagesTr/p1_0000.nii.gz").get_fdata(), image(0))


@pytest.mark.parametrize("full_names", [True, False])
def test_one_folder_for_each_case(tmp_path: Path, full_names: bool, capsys: Captured) -> None:
    """data/p1/p1_t1.nii.gz or data/p1/t1.nii.gz, the labels beside them or in a folder of their own."""
    for seed, case in enumerate(CASES):
        start = f"{case}-" if full_names else ""
        for channel, word in enumerate(("t1", "flair")):
            save(tmp_path / f"data/{case}/{start}{word}.nii.gz", image(10 * seed + channel))
        save(tmp_path / (f"labels/{case}/seg.nii.gz" if full_names else f"data/{case}/seg.nii.gz"), labels(seed))
    data, segmentations = str(tmp_path / "data"), str(tmp_path / ("labels" if full_names else "data"))
    start_words = ["folder", "-i", data, "-l", segmentations, "-d", "5", "--name", "Liver"]
    said = check_twice(tmp_path, capsys, *start_words, "--channels", "t1", "flair")
    assert "sub-folders are taken as cases: p1, p2, p3" in said
    for seed, files in enumerate(read_dataset(result(tmp_path)).training):
        assert files.case == CASES[seed] and files.label is not None
        np.testing.assert_array_equal(read_volume(files.images).array, [image(10 * seed), image(10 * seed + 1)])
        np.testing.assert_array_equal(read_labels(files.label).array, labels(seed))
    next(tmp_path.glob("data/p2/*t1.nii.gz")).unlink()
    assert "p2  lacks channel t1 (found p2/" in refused(tmp_path, capsys, *start_words, "--channels", "t1", "flair")


def test_label_names_from_a_table_or_made_up(tmp_path: Path, source: Path, capsys: Captured) -> None:
    said = check_twice(tmp_path, capsys, *words(source))
    assert "label_1, label_2" in said and "--label-names" in said
    assert [label.name for label in read_dataset(result(tmp_path)).description.labels] == ["label_1", "label_2"]
    table = tmp_path / "names.csv"
    table.write_text(
        "value,name\n0,air\n1,left lung\n2,Leber, rechts\n".replace("Leber, rechts", '"Leber, rechts"'), encoding="utf-8"
    )
    message = refused(tmp_path, capsys, *words(source, "--label-table", str(table)))
    assert "labels there is" in message and "--overwrite" in message  # names given by hand are not lost either
    convert(tmp_path, *words(source, "--label-table", str(table), "--overwrite"))
    found = read_dataset(result(tmp_path)).description.labels
    assert [(label.name, label.value) for label in found] == [("left lung", 1), ("Leber, rechts", 2)]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("1;a\n2;a\n", "'a' is the name of 1 and of 2"),
        ("1,a\n1,b\n2,c\n", "value 1 is named 'a' and 'b'"),
        ("1,background\n2,b\n", "'background' is the name of 0"),
        ("id,colour\n1,red\n", "its columns are id, colour"),
        ("1,a\ntwo,b\n", "'two,b' is no label"),
        ("", "is empty"),
        ("1\ta\n", "label value(s) 2, which have no name"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, source: Path, table: str, message: str, capsys: Captured) -> None:
    (tmp_path / "names.csv").write_text(table)
    assert message in refused(tmp_path, capsys, *words(source, "--label-table", str(tmp_path / "names.csv")))


def test_test_images(tmp_path: Path, source: Path, capsys: Captured) -> None:
    for seed, case in enumerate(("t1", "t2")):
        save(tmp_path / f"source/test/{case}.nii.gz", image(20 + seed))
    save(tmp_path / "source/test_labels/t2_seg.nii.gz", labels(21))
    more = ("--test-images", str(source / "test"), "--test-labels", str(source / "test_labels"))
    save(source / "images/p4.nii.gz", image(30))
    assert "p4  no labels for p4.nii.gz (--unlabelled-to-test" in refused(tmp_path, capsys, *words(source, *more))
    (tmp_path / "cases.json").write_text('{"test": ["p2"]}')
    chosen = ("--unlabelled-to-test", "--test-from-json", f"{tmp_path}/cases.json:test")
    check_twice(tmp_path, capsys, *words(source, *more, *chosen))
    found = names(result(tmp_path))
    assert found["imagesTr"] == ["p1_0000.nii.gz", "p3_0000.nii.gz"]
    assert found["imagesTs"] == [f"{case}_0000.nii.gz" for case in ("p2", "p4", "t1", "t2")]
    assert found["labelsTs"] == ["p2.nii.gz", "t2.nii.gz"]


def test_dicom_and_mixed_formats_become_nifti(tmp_path: Path, capsys: Captured) -> None:
    """One label file is MetaImage, one NRRD; the images are series of which the headers say CT."""
    for seed, case in enumerate(("p1", "p2")):
        folder = write_series(tmp_path / f"images/{case}", VALUES + 100 * seed)
        grid = read_grid(folder)
        array = np.random.default_rng(seed).integers(0, 3, VALUES.shape).astype(np.uint8)
        label = sitk.GetImageFromArray(array.T)
        label.CopyInformation(sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))))
        (tmp_path / "labels").mkdir(exist_ok=True)
        sitk.WriteImage(label, str(tmp_path / f"labels/{case}_label.{('mha', 'nrrd')[seed]}"))
    said = check_twice(tmp_path, capsys, *words(tmp_path, "--no-channels"))
    assert "as the headers say: CT" in said
    dataset = read_dataset(result(tmp_path))
    assert dataset.description.file_ending == ".nii.gz" and dataset.description.channels == ("CT",)
    for seed, files in enumerate(dataset.training):
        volume = read_volume(files.images)
        np.testing.assert_array_equal(volume.array[0], VALUES + 100 * seed)
        np.testing.assert_allclose(volume.grid.matrix, expected_affine(), atol=1e-5)
        assert nib.load(files.images[0]).get_data_dtype().kind == "i"
        assert files.label is not None and grid.shape == volume.grid.shape
        found = read_labels(files.label)
        np.testing.assert_array_equal(found.array, np.random.default_rng(seed).integers(0, 3, VALUES.shape))
        np.testing.assert_allclose(found.grid.matrix, expected_affine(), atol=1e-5)
    convert(tmp_path, *words(tmp_path, "--channels", "MRI", "--overwrite"))
    assert "the headers say CT" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["nrrd", "mha", "mhd"])
def test_other_formats_stay_what_they_are_unless_voxels_lie_beside(tmp_path: Path, ending: str, capsys: Captured) -> None:
    for kind, array in (("images", image(0)), ("labels", labels(0))):
        volume = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
        volume.SetSpacing((0.7, 0.8, 2.5))
        volume.SetOrigin((1.0, 2.0, 3.0))
        (tmp_path / kind).mkdir()
        sitk.WriteImage(volume, str(tmp_path / f"{kind}/a.{ending}"))
    check_twice(tmp_path, capsys, *words(tmp_path))
    (files,) = read_dataset(result(tmp_path)).training
    assert files.images[0].name == ("a_0000.nii.gz" if ending == "mhd" else f"a_0000.{ending}")
    np.testing.assert_array_equal(read_volume(files.images).array[0], image(0))
    before = read_grid(tmp_path / f"images/a.{ending}").matrix
    np.testing.assert_allclose(read_grid(files.images[0]).matrix, before, atol=1e-6)


def test_everything_wrong_is_listed_and_nothing_written(tmp_path: Path, source: Path, capsys: Captured) -> None:
    for seed, case in enumerate(("shape", "place", "nan", "flat", "twice"), start=40):
        save(source / f"images/{case}.nii.gz", image(seed))
        save(source / f"labels/{case}_seg.nii.gz", labels(seed))
    save(source / "labels/shape_seg.nii.gz", labels(40)[:-1])
    moved = AFFINE.copy()
    moved[0, 3] += 5
    save(source / "labels/place_seg.nii.gz", labels(41), moved)
    save(source / "images/nan.nii.gz", np.full(labels(0).shape, np.nan, np.float32))
    save(source / "images/flat.nii.gz", np.zeros(labels(0).shape, np.int16))
    save(source / "labels/twice_mask.nii.gz", labels(44))
    save(source / "labels/alone.nii.gz", labels(45))
    save(source / "images/unlabelled.nii.gz", image(46))
    whole = (source / "images/p2.nii.gz").read_bytes()
    (source / "images/p2.nii.gz").write_bytes(whole[:-60])
    message = refused(tmp_path, capsys, *words(source))
    assert "8 problem(s)" in message and "--leave-out-bad" in message and "Nothing was written" in message
    for case, problem in {
        "shape": "shapes differ",
        "place": "(--fix-geometry gives it the image's place)",
        "nan": "NaN or infinite",
        "flat": "all voxels have the same value",
        "twice": "several files could be its labels: twice_mask.nii.gz and twice_seg.nii.gz",
        "alone.nii.gz": "labels without an image",
        "unlabelled": "no labels for unlabelled.nii.gz",
        "p2": "cannot be read",
    }.items():
        assert any(line.startswith(f"  {case} ") and problem in line for line in message.splitlines()), (case, message)
    assert not (tmp_path / "raw").exists()
    said = check_twice(tmp_path, capsys, *words(source, "--leave-out-bad", "--fix-geometry"))
    assert "7 case(s) or file(s) are left out" in said and "several files could be its labels" in said
    assert "place: 1 file(s) get the place" in said
    dataset = read_dataset(result(tmp_path))
    assert [files.case for files in dataset.training] == ["p1", "p3", "place"]
    mended = dataset.training[-1].label
    assert mended is not None and same_grid(mended) and same_grid(dataset.training[-1].images[0])
    np.testing.assert_array_equal(read_labels(mended).array, labels(41))
    assert len(json.loads((result(tmp_path) / "dataset.json").read_text())["left_out"]) == 7


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["images/a_t1", "images/a_t2", "images/b_t1", "labels/a", "labels/b"], "b  lacks channel t2 (found b_t1.nii.gz)"),
        (["images/a", "images/a_img", "labels/a_seg"], "several files could be the same image: a.nii.gz and a_img.nii.gz"),
        (["images/a", "images/a_t2", "labels/a_seg"], "a.nii.gz names no channel, but a_t2.nii.gz do"),
        (["images/a_img", "images/a_mask_img", "labels/a_mask"], "a_mask.nii.gz could be the labels of a and a_mask"),
        (["images/a", "labels/a", "labels/a_seg"], "a_seg.nii.gz  labels without an image"),
        (["images/a", "images/t1/a", "labels/a"], "holds images and sub-folders with images (t1)"),
        (["images/a", "labels/b"], "b.nii.gz  labels without an image"),
        (["images/.hidden", "labels/b"], "holds no images"),
        (["labels/b"], "no such folder"),
    ],
)
def test_what_is_ambiguous_is_refused_with_the_names(tmp_path: Path, files: list[str], message: str, capsys: Captured) -> None:
    for seed, name in enumerate(files):
        save(tmp_path / f"{name}.nii.gz", labels(seed) if name.startswith("labels") else image(seed))
    assert message in refused(tmp_path, capsys, *words(tmp_path, *(["--no-channels"] if "images/a_t1" in files else [])))


def test_channels_that_do_not_fit(tmp_path: Path, source: Path, capsys: Captured) -> None:
    assert "Give --channels: 1 name(s), such as CT or MRI" in refused(tmp_path, capsys, *words(source, "--no-channels"))
    message = refused(tmp_path, capsys, *words(source, "--channels", "T1", "T2"))
    assert "names tell the channels none; --channels is T1, T2" in message


def test_another_data_set_is_never_overwritten(tmp_path: Path, source: Path, capsys: Captured) -> None:
    other = tmp_path / "other"
    for seed, case in enumerate(CASES):
        save(other / f"images/{case}.nii.gz", image(50 + seed))
        save(other / f"labels/{case}.nii.gz", labels(50 + seed))
    convert(tmp_path, *words(source))
    assert "holds another data set: 6 file(s) differ" in refused(tmp_path, capsys, *words(other))
    shutil.copytree(source / "labels", source / "second_rater")
    save(source / "second_rater/p1_seg.nii.gz", labels(61))
    rated = [word.replace("labels", "second_rater") for word in words(source)]
    assert "holds another data set" in refused(tmp_path, capsys, *rated)
    named = [word if word != "Liver" else "Spleen" for word in words(other)]
    assert "already has Dataset005_Liver" in refused(tmp_path, capsys, *named)
    inside = result(tmp_path)
    start = ["folder", "-i", str(inside / "imagesTr"), "-l", str(inside / "labelsTr"), "-d", "5", "--name", "Liver"]
    assert "which is to be written" in refused(tmp_path, capsys, *start, "--channels", "CT", "--overwrite")
    save(source / "labels/p1_seg.nii.gz.new.nii.gz", labels(60)).replace(source / "labels/p1_seg.nii.gz")
    convert(tmp_path, *words(source))  # the same source may change
    np.testing.assert_array_equal(read_labels(inside / "labelsTr/p1.nii.gz").array, labels(60))
    convert(tmp_path, *words(other, "--overwrite"))
    np.testing.assert_array_equal(read_volume([inside / "imagesTr/p1_0000.nii.gz"]).array[0], image(50))


def test_labels_that_were_corrected_are_kept(tmp_path: Path, source: Path, capsys: Captured) -> None:
    convert(tmp_path, *words(source))
    corrected = result(tmp_path) / "labelsTr/p1.nii.gz"
    corrected.unlink()  # viewers write a new file
    save(corrected, labels(60))
    save(source / "images/p4.nii.gz", image(9))
    save(source / "labels/p4_seg.nii.gz", labels(9))
    capsys.readouterr()
    convert(tmp_path, *words(source))
    said = capsys.readouterr()
    assert "1 file(s) were changed after they were converted and are kept (labelsTr/p1.nii.gz)" in said.out + said.err
    np.testing.assert_array_equal(read_labels(corrected).array, labels(60))
    assert (result(tmp_path) / "labelsTr/p4.nii.gz").is_file()
    convert(tmp_path, *words(source, "--overwrite"))
    np.testing.assert_array_equal(read_labels(corrected).array, labels(0))
