"""Cases are found by name; what is missing, doubled or too much is listed."""

import os
from pathlib import Path

import pytest

from diffatlas_pipeline.datasets.cases import left_out, list_cases, segmentation_files
from diffatlas_pipeline.errors import ImageError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_channels_are_grouped_in_order(tmp_path):
    touch(tmp_path, "b_0001.nii.gz", "b_0000.nii.gz", "a_0000.nii.gz", "a_0001.nii.gz", "notes.txt", ".hidden.nii.gz")
    cases = list_cases(tmp_path, ".nii.gz", 2)
    assert [case.case for case in cases] == ["a", "b"]
    assert cases[1].images == (tmp_path / "b_0000.nii.gz", tmp_path / "b_0001.nii.gz") and cases[1].label is None


def test_one_channel_needs_no_number(tmp_path):
    touch(tmp_path, "a.nii.gz", "b_0000.nii.gz", "visit_0003.nii.gz")
    assert [case.case for case in list_cases(tmp_path, ".nii.gz", 1)] == ["a", "b", "visit_0003"]


def test_any_known_ending_is_found_without_a_given_one(tmp_path):
    touch(tmp_path, "a.nii.gz", "b.nii", "c.nrrd", "d.mha", "e.mhd", "e.zraw", "f.jpg")
    assert [case.case for case in list_cases(tmp_path, None, 1)] == ["a", "b", "c", "d", "e"]
    assert [case.case for case in list_cases(tmp_path, ".nii", 1)] == ["b"]


def test_a_single_file_is_one_case(tmp_path):
    touch(tmp_path, "a_0000.nii.gz", "b.nii.gz")
    assert [case.case for case in list_cases(tmp_path / "a_0000.nii.gz", None, 1)] == ["a"]


def test_all_problems_are_listed_at_once(tmp_path):
    touch(
        tmp_path,
        "a_0000.mha",
        "b_0001.mha",
        "c_0000.mha",
        "c_0001.mha",
        "c_0002.mha",
        "d_0000.mha",
        "d_0000.nrrd",
        "d_0001.mha",
    )
    with pytest.raises(ImageError) as caught:
        list_cases(tmp_path, None, 2)
    text = str(caught.value)
    assert "4 problem(s)" in text
    assert "a: channel _0001 missing (found a_0000.mha" in text
    assert "b: channel _0000 missing" in text
    assert "c: c_0002.mha is one channel too many" in text
    assert "d: d_0000.mha and d_0000.nrrd are the same channel" in text


def test_cases_may_lack_channels_if_names_tell_which(tmp_path):
    touch(tmp_path, "a_0000.mha", "b_0001.mha", "c_0000.mha", "c_0001.mha")
    cases = list_cases(tmp_path, None, 2, may_lack=True)
    assert [(case.case, case.missing, [path.name for path in case.images]) for case in cases] == [
        ("a", (1,), ["a_0000.mha"]),
        ("b", (0,), ["b_0001.mha"]),
        ("c", (), ["c_0000.mha", "c_0001.mha"]),
    ]
    touch(tmp_path, "d.mha", "e_0002.mha", "f_0001.mha", "f_0001.nrrd", "g.mha", "g_0001.mha")
    with pytest.raises(ImageError) as caught:
        list_cases(tmp_path, None, 2, may_lack=True, advice="Learn it.")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("3 problem(s) with its files:") and lines[-1] == "Learn it."
    assert "d: channel _0001 missing (found d.mha; their names must end in the number" in lines[1]
    assert "e: e_0002.mha is one channel too many" in lines[2]
    assert "f: f_0001.mha and f_0001.nrrd are the same channel" in lines[3]


def test_what_helps_is_said_where_channels_are_missing_only(tmp_path):
    touch(tmp_path, "a_0000.mha")
    with pytest.raises(ImageError, match=r"channel _0001 missing.*\nLearn it\.$"):
        list_cases(tmp_path, None, 2, advice="Learn it.")
    touch(tmp_path, "a_0001.mha", "a_0002.mha")
    with pytest.raises(ImageError) as caught:
        list_cases(tmp_path, None, 2, advice="Learn it.")
    assert "too many" in str(caught.value) and "Learn it" not in str(caught.value)


def test_a_second_channel_is_not_taken_for_a_case(tmp_path):
    touch(tmp_path, "a_0000.mha", "a_0001.mha")
    with pytest.raises(ImageError, match=r"a_0001\.mha is one channel too many"):
        list_cases(tmp_path, None, 1)


def test_case_numbers_of_four_digits_before_the_channel_are_kept(tmp_path):
    touch(tmp_path, "img_0000_0000.mha", "img_0001_0000.mha")
    assert [case.case for case in list_cases(tmp_path, None, 1)] == ["img_0000", "img_0001"]


def test_same_case_with_and_without_number_is_doubled(tmp_path):
    touch(tmp_path, "a.mha", "a_0000.mha")
    with pytest.raises(ImageError, match="same channel"):
        list_cases(tmp_path, None, 1)


def test_empty_or_absent_folder_is_named(tmp_path):
    with pytest.raises(ImageError, match=rf"{tmp_path.name}: holds no images.*\.nii\.gz"):
        list_cases(tmp_path, None, 1)
    with pytest.raises(ImageError, match=r"files ending in \.mha"):
        list_cases(touch(tmp_path, "a.nii.gz"), ".mha", 1)
    with pytest.raises(ImageError, match="absent: no such folder"):
        list_cases(tmp_path / "absent", None, 1)


@pytest.mark.real_data
@pytest.mark.skipif("DIFFATLAS_TEST_DATA" not in os.environ, reason="DIFFATLAS_TEST_DATA is not set")
def test_real_folder():
    cases = list_cases(Path(os.environ["DIFFATLAS_TEST_DATA"]) / "Task04_Hippocampus" / "imagesTr", ".nii.gz", 1)
    assert len(cases) == 200 and cases[0].case == "hippocampus_001"


def test_segmentations_have_no_channels(tmp_path):
    """A case may be called scan_0001: its segmentation is scan_0001.nii.gz, whatever lies beside it."""
    touch(tmp_path, "scan_0000.nii.gz", "scan_0001.nii.gz", "1.2.840.5.nii.gz", "B.NII.GZ", "prediction.json", ".x.nii.gz")
    (tmp_path / "uncertainty").mkdir()
    assert list(segmentation_files(tmp_path)) == ["1.2.840.5", "B", "scan_0000", "scan_0001"]
    assert segmentation_files(tmp_path / "B.NII.GZ") == {"B": tmp_path / "B.NII.GZ"}
    touch(tmp_path, "scan_0000.mha")
    with pytest.raises(
        ImageError, match=r"1 case\(s\) with several files.*\n  scan_0000: scan_0000\.mha and scan_0000\.nii\.gz"
    ):
        segmentation_files(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="empty: holds no segmentations"):
        segmentation_files(tmp_path / "empty")
    with pytest.raises(ImageError, match="absent: no such folder"):
        segmentation_files(tmp_path / "absent")


def test_endings_are_found_in_capitals_and_the_rest_is_named(tmp_path):
    touch(tmp_path, "a.nii.gz", "B.NII.GZ", "c.nii.GZ", "D.Nii", "e.img", "notes.txt", ".hidden")
    (tmp_path / "patient").mkdir()
    assert [case.case for case in list_cases(tmp_path, None, 1)] == ["B", "D", "a", "c"]
    assert left_out(tmp_path, images_of(tmp_path, None)) == ("e.img", "notes.txt", "patient")
    assert [case.case for case in list_cases(tmp_path, ".nii.gz", 1)] == ["B", "a", "c"]
    assert left_out(tmp_path, images_of(tmp_path, ".nii.gz")) == ("D.Nii", "e.img", "notes.txt", "patient")
    assert left_out(tmp_path / "a.nii.gz", [tmp_path / "a.nii.gz"]) == left_out(tmp_path, [tmp_path]) == ()


def test_voxels_beside_their_header_are_not_left_out(tmp_path):
    touch(tmp_path, "a.mhd", "a.zraw", "B.MHD", "B.raw", "c.raw")
    assert left_out(tmp_path, images_of(tmp_path, None)) == ("c.raw",)


def images_of(folder: Path, file_ending: str | None) -> list[Path]:
    return [image for case in list_cases(folder, file_ending, 1) for image in case.images]
