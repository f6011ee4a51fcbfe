"""Series are found however deep they lie; those that are no scans are named with the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ImplicitVRLittleEndian, generate_uid

from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.errors import ImageError, UserError
from diffatlas_pipeline.inference.earlier import digest_of_scan
from diffatlas_pipeline.inference.export import Destination, check_output
from diffatlas_pipeline.inference.inputs import Scans, find_scans, passed_over
from diffatlas_pipeline.volumes.io import read_grid, read_volume
from tests.volumes.test_dicom import VALUES, write_series

REPORT = "1.2.840.10008.5.1.4.1.1.88.11"


def write_report(path: Path, kind: str = REPORT, whole: bool = True) -> None:
    """A DICOM object without an image; one that is not ``whole`` says only before its data what it is."""
    made = Dataset()
    if whole:
        made.SOPClassUID, made.SOPInstanceUID, made.SeriesInstanceUID = kind, generate_uid(), generate_uid()
    made.Modality = "SR"
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = UID(kind), generate_uid()
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)


def tagged(folder: Path, **tags: str) -> None:
    """Change tags of all slices in a folder: ``t0008_0008="..."``."""
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for path in folder.iterdir():
        image = sitk.ReadImage(str(path))
        for name, value in tags.items():
            image.SetMetaData(name[1:].replace("_", "|"), value)
        writer.SetFileName(str(path))
        writer.Execute(image)


def moved_into(folder: Path, *others: Path) -> Path:
    """All files of several series in one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for other in others:
        for path in other.iterdir():
            path.rename(folder / f"{other.name}_{path.name}")
        other.rmdir()
    return folder


def by_name(scans: Scans) -> dict[str, Path]:
    return {files.case: files.images[0] for files in scans.cases}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two patients: one with a study of folders, one whose series lie in one folder with a localizer and a report."""
    tree = tmp_path / "tree"
    write_series(tree / "p1" / "study" / "t1", VALUES, uid="1.2.1")
    write_series(tree / "p1" / "study" / "t2", VALUES + 2, uid="1.2.2")
    write_series(tree / "p1" / "study" / "scout", VALUES[:, :, :3], uid="1.2.3")
    tagged(tree / "p1" / "study" / "scout", t0008_0008="ORIGINAL\\PRIMARY\\LOCALIZER")
    write_series(tree / "p1" / "single", VALUES[:, :, :1], uid="1.2.4")
    flat = [write_series(tmp_path / name, VALUES + 10 * k, uid=f"1.2.5.{k}") for k, name in enumerate("ab")]
    for number, folder in enumerate(flat):
        tagged(folder, t0020_0011=str(number + 3))
    planes = [write_series(tmp_path / f"plane{k}", VALUES[:, :, :1], uid="1.2.6") for k in range(3)]
    for k, directions in enumerate(("1\\0\\0\\0\\1\\0", "0\\1\\0\\0\\0\\-1", "1\\0\\0\\0\\0\\-1")):
        tagged(planes[k], t0020_0037=directions)
    moved_into(tree / "p2", *flat, *planes)
    write_report(tree / "p2" / "report")
    write_report(tree / "p1" / "reports" / "one.dcm")
    return tree


def test_series_are_found_in_all_folders_and_told_apart(tree: Path) -> None:
    scans = find_scans([tree], 1, flat=False)
    assert list(by_name(scans)) == ["p1_study_t1", "p1_study_t2", "p2_series3", "p2_series4"]
    for name, added in {"p1_study_t1": 0, "p1_study_t2": 2, "p2_series3": 0, "p2_series4": 10}.items():
        np.testing.assert_allclose(read_volume([by_name(scans)[name]]).array[0], VALUES + added)
    first, second = scans.cases[2:]
    assert read_grid(first.images[0]).shape == VALUES.shape and digest_of_scan(first) != digest_of_scan(second)


def test_what_is_skipped_is_named_with_its_reason(tree: Path) -> None:
    scans = find_scans([tree], 1, flat=False)
    reasons = {str(one.path.relative_to(tree)): (one.reason, len(one.files)) for one in scans.skipped}
    assert reasons.pop("p1/study/scout") == ("a localizer", 3)
    assert reasons.pop("p1/single") == ("a single slice, and the model needs volumes", 1)
    assert reasons.pop("p1/reports/one.dcm") == reasons.pop("p2/report") == ("a structured report", 1)
    ((path, (reason, count)),) = reasons.items()
    assert path.startswith("p2/plane0") and count == 3 and "not parallel, as those of a localizer" in reason
    said = passed_over([tree], scans)
    assert len(said) == 5 and f"{tree / 'p1/study/scout'}: is left out: a localizer (3 files)" in said
    assert "p1_single" in by_name(find_scans([tree], 1, flat=True)), "where scans are slices, it is one"


def test_a_slice_that_is_lost_is_no_reason_to_pass_over_a_scan(tree: Path) -> None:
    path = next((tree / "p1" / "study" / "t1").glob("*_3.dcm"))
    path.unlink()
    scans = find_scans([tree], 1, flat=False)
    with pytest.raises(ImageError, match=r"2\.5 to 5 mm apart"):
        read_volume([by_name(scans)["p1_study_t1"]])


@pytest.mark.parametrize(
    ("kind", "whole", "named"),
    [
        (REPORT, False, "a structured report"),
        ("1.3.46.670589.11.0.0.12.2", True, "an object of a maker's own kind, without an image"),
    ],
)
def test_an_object_without_an_image_does_not_hide_the_series_beside_it(
    tmp_path: Path, kind: str, whole: bool, named: str
) -> None:
    write_series(tmp_path / "in" / "a", VALUES)
    write_report(tmp_path / "in" / "a" / "other", kind, whole)
    scans = find_scans([tmp_path / "in"], 1, flat=False)
    np.testing.assert_allclose(read_volume(scans.cases[0].images).array[0], VALUES)
    assert [one.reason for one in scans.skipped] == [named]


def test_a_folder_without_a_scan_says_what_is_in_it(tree: Path) -> None:
    with pytest.raises(ImageError, match=r"holds no scan(.|\n)*scout: a localizer \(3 files\)\nGive a folder"):
        find_scans([tree / "p1" / "study" / "scout"], 1, flat=False)


def test_names_stay_unlike(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a_b" / "c", VALUES, uid="1.2.1")
    write_series(tmp_path / "in" / "a" / "b_c", VALUES, uid="1.2.2")
    write_series(tmp_path / "in" / ("long" * 50) / "x", VALUES, uid="1.2.3")
    write_series(tmp_path / "in" / ("long" * 50) / "y", VALUES, uid="1.2.4")
    names = [*by_name(find_scans([tmp_path / "in"], 1))]
    assert names[:2] == ["a_b_c_1.2.1", "a_b_c_1.2.2"] and len(set(names)) == 4 and max(map(len, names)) <= 150


def test_headers_choose_no_folder(tmp_path: Path) -> None:
    """A number or UID of a stranger's header goes into the name of a file."""
    write_series(tmp_path / "one", VALUES, uid="1.2.1")
    write_series(tmp_path / "two", VALUES, uid="1.2.2")
    tagged(tmp_path / "one", t0020_0011="/../../evl")
    tagged(tmp_path / "two", t0020_0011="7")
    moved_into(tmp_path / "in" / "both", tmp_path / "one", tmp_path / "two")
    scans = find_scans([tmp_path / "in"], 1)
    assert set(by_name(scans)) == {"both_1.2.1", "both_1.2.2"}
    harmful = [replace(files, case="../../x") for files in scans.cases[:1]]
    with pytest.raises(UserError, match="cannot be the name of a case"):
        check_output(Destination(tmp_path / "out", ".nii.gz"), harmful)


def test_notes_beside_slices_are_no_part_of_a_scan(tmp_path: Path) -> None:
    write_series(tmp_path / "one", VALUES, uid="1.2.1")
    files = CaseFiles("one", (tmp_path / "one",), None)
    before = digest_of_scan(files)
    (tmp_path / "one" / ".DS_Store").write_bytes(b"x")
    assert digest_of_scan(files) == before != digest_of_scan(files, all_beside=True)


def test_channels_in_nested_folders_are_grouped(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        for channel in ("t_0000", "t_0001"):
            write_series(tmp_path / "in" / patient / channel, VALUES, uid=f"1.2.{patient[1]}.{channel[-1]}")
    cases = find_scans([tmp_path / "in"], 2, flat=False).cases
    assert [(files.case, len(files.images)) for files in cases] == [("p1_t", 2), ("p2_t", 2)]
    assert [files.case for files in find_scans([tmp_path / "in" / "p1"], 2).cases] == ["t"]
    assert len(find_scans([tmp_path / "in"], 1, flat=False).cases) == 4


def test_parts_or_copies_of_one_series_are_said(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_series(tmp_path / "in" / name, VALUES, uid="1.2.1")
    scans = find_scans([tmp_path / "in"], 1)
    assert list(by_name(scans)) == ["one", "two"]
    (said,) = passed_over([tmp_path / "in"], scans)
    assert f"{tmp_path / 'in/one'} and {tmp_path / 'in/two'} hold files of one DICOM series" in said
