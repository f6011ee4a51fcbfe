"""Scans are given as folders, files, lists of files, or several of these."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffatlas_pipeline.errors import ImageError, UserError
from diffatlas_pipeline.inference.inputs import find_scans, passed_over, read_list


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def names(cases: list) -> list[str]:
    return [files.case for files in cases]


def test_folders_files_and_both(tmp_path: Path) -> None:
    first, second = touch(tmp_path / "one", "a.nii.gz", "b_0000.nii.gz"), touch(tmp_path / "two", "c.nrrd", "d.mha")
    assert names(find_scans([first], 1).cases) == ["a", "b"]
    assert names(find_scans([first, second], 1).cases) == ["a", "b", "c", "d"]
    assert names(find_scans([first, second / "d.mha"], 1).cases) == ["a", "b", "d"]
    assert names(find_scans([second / "d.mha", second / "c.nrrd"], 1).cases) == ["c", "d"], "as a shell gives scans/*"


def test_channels_of_a_list_are_grouped(tmp_path: Path) -> None:
    folder = touch(tmp_path / "scans", "a_0000.nii.gz", "a_0001.nii.gz", "b_0001.nii.gz")
    (cases,) = [find_scans(sorted(folder.iterdir()), 2).cases]
    assert names(cases) == ["a", "b"] and cases[0].images == (folder / "a_0000.nii.gz", folder / "a_0001.nii.gz")
    assert cases[1].missing == (0,)
    with pytest.raises(ImageError, match=r"b: channel _0000 missing(.|\n)*Give both"):
        find_scans(sorted(folder.iterdir()), 2, needs_all="Give both.")


def test_a_text_file_names_scans_relative_to_itself(tmp_path: Path) -> None:
    folder = touch(tmp_path / "scans", "a.nii.gz", "b.nii.gz", "c.nii.gz")
    (tmp_path / "today.txt").write_text(f"# for Monday\n\nscans/a.nii.gz\n  {folder / 'c.nii.gz'}  \n")
    assert names(find_scans([tmp_path / "today.txt"], 1).cases) == ["a", "c"]
    (tmp_path / "both.txt").write_text("scans\n")
    assert names(find_scans([tmp_path / "both.txt"], 1).cases) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "text",
    [
        "id,image,age\n1,scans/a.nii.gz,60\n2,scans/c.nii.gz,70\n",
        "\ufeffPath,who\nscans/a.nii.gz,x\nscans/c.nii.gz,y\n",
        "scans/a.nii.gz\nscans/c.nii.gz\n",
        '"scans/a.nii.gz",1\n"scans/c.nii.gz",2\n',
    ],
)
def test_a_table_names_scans_in_a_column(tmp_path: Path, text: str) -> None:
    touch(tmp_path / "scans", "a.nii.gz", "b.nii.gz", "c.nii.gz")
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    assert names(find_scans([tmp_path / "list.csv"], 1).cases) == ["a", "c"]


def test_two_scans_of_one_name_are_refused(tmp_path: Path) -> None:
    first, second = touch(tmp_path / "one", "a.nii.gz", "b.nii.gz"), touch(tmp_path / "two", "a.nii.gz")
    with pytest.raises(ImageError, match=r"1 case.*one name(.|\n)*a: .*one/a\.nii\.gz and .*two/a\.nii\.gz\n.*Rename"):
        find_scans([first, second], 1)
    with pytest.raises(ImageError, match="are the same channel"):
        find_scans([first / "a.nii.gz", second / "a.nii.gz"], 1)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "scans", "a.nii.gz")
    (tmp_path / "list.txt").write_text("scans/a.nii.gz\nscans/b.nii.gz\n")
    with pytest.raises(ImageError, match=r"scans/b\.nii\.gz: no such file"):
        find_scans([tmp_path / "list.txt"], 1)
    for name, content in (("empty.txt", b"# nothing\n"), ("binary.txt", b"\xff\xfe\x00")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="Give one file name a line"):
            read_list(tmp_path / name)


def test_what_is_no_scan_is_told_of_each_folder(tmp_path: Path) -> None:
    first, second = touch(tmp_path / "one", "a.nii.gz", "notes.doc"), touch(tmp_path / "two", "b.nii.gz", "old.jpg")
    said = passed_over([first, second], find_scans([first, second], 1))
    assert len(said) == 2 and "notes.doc" in said[0] and "old.jpg" in said[1]
    assert passed_over([second / "b.nii.gz"], find_scans([second / "b.nii.gz"], 1)) == ()
