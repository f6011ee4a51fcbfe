"""All problems of a data set are listed; geometry is mended on request, in a copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline.commands import plan_and_preprocess
from diffatlas_pipeline.commands.check import main
from diffatlas_pipeline.volumes.io import read_grid, read_labels, read_volume
from tests.planning.raw_data import change_description, write_dataset, write_nifti


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "raw", cases=30)


def check(raw: Path, *options: str) -> None:
    main(["-d", str(raw), "--workers", "1", *options])


def refused(raw: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[str, str]:
    with pytest.raises(SystemExit) as stopped:
        check(raw, *options)
    assert stopped.value.code == 2
    found = capsys.readouterr()
    return found.out, found.err


def test_a_good_data_set(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(raw)
    printed = capsys.readouterr().out
    assert "no problem in 30 cases" in printed and "note" not in printed
    assert printed.splitlines()[-1] == f"Next: DiffAtlas_plan_and_preprocess -d {raw}"


def test_every_problem_of_every_case_and_what_is_unusual(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(25):
        (raw / "labelsTr" / f"case{index:02d}.nii.gz").write_bytes(b"damaged")
    image = read_labels(raw / "labelsTr" / "case26.nii.gz").array.astype(np.float32)
    sheared = np.eye(4)
    sheared[1, 2] = 0.5
    write_nifti(raw / "imagesTr" / "case26_0000.nii.gz", image, sheared)
    for index in (27, 28):
        write_nifti(raw / "imagesTr" / f"case{index}_0000.nii.gz", image + 1, np.eye(4))
    (raw / "imagesTr" / "notes.txt").touch()
    printed, error = refused(raw, capsys)
    assert "26 of 30 cases cannot be used" in error and "more" not in error
    assert all(f"case{index:02d}" in error for index in (*range(25), 26)) and "can mend it in a copy" in error
    assert "case26" in printed and "axes are not perpendicular" in printed
    assert "case27" in printed and "the same image as case28" in printed
    assert "1 file(s) are left out" in printed and "imagesTr/notes.txt" in printed


def test_geometry_is_mended_in_a_copy(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = read_labels(raw / "labelsTr" / "case03.nii.gz").array
    shifted = np.diag([1.0, 1.0, 1.3, 1.0])
    shifted[0, 3] = 7
    write_nifti(raw / "labelsTr" / "case03.nii.gz", labels.astype(np.uint8), shifted)
    before = {path: path.read_bytes() for path in raw.rglob("*.nii.gz")}
    refused(raw, capsys)
    mended = tmp_path / "mended" / raw.name
    check(raw, "--fix-geometry", str(mended))
    printed = capsys.readouterr().out
    assert "1 file(s) got the geometry" in printed and "labelsTr/case03.nii.gz" in printed
    check(mended)
    assert {path: path.read_bytes() for path in raw.rglob("*.nii.gz")} == before, "the source stays as it is"
    np.testing.assert_array_equal(read_labels(mended / "labelsTr" / "case03.nii.gz").array, labels)
    assert read_grid(mended / "labelsTr" / "case03.nii.gz") == read_grid(raw / "imagesTr" / "case03_0000.nii.gz")
    _, error = refused(raw, capsys, "--fix-geometry", str(mended))
    assert "is not empty. Give a new folder" in error


def test_files_that_lack_and_files_that_are_bad_are_in_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_dataset(tmp_path / "raw", cases=8, channels=("T1", "T2"))
    (raw / "imagesTr" / "case01_0001.nii.gz").unlink()
    (raw / "labelsTr" / "case02.nii.gz").unlink()
    (raw / "labelsTr" / "case03.nii.gz").write_bytes(b"damaged")
    values = read_labels(raw / "labelsTr" / "case04.nii.gz").array.astype(np.uint8)
    write_nifti(raw / "labelsTr" / "case04.nii.gz", (values + 90 * (values > 0)).astype(np.uint8), np.eye(4))
    write_nifti(raw / "imagesTr" / "case05_0000.nii.gz", np.full(values.shape, np.inf, np.float32), np.eye(4))
    write_nifti(raw / "imagesTr" / "case06_0001.nii.gz", np.ones((*values.shape, 2), np.float32), np.eye(4))
    printed, error = refused(raw, capsys)
    assert "6 of 8 cases cannot be used" in error and "left out" not in printed
    rows = {line.split()[0]: line for line in error.splitlines() if line.startswith("  case")}
    said = ("_0001 missing", "no label file", "case03.nii.gz", "93, 97", "case05_0000", "case06_0001")
    assert all(words in rows[f"case{number:02d}"] for number, words in enumerate(said, start=1)), rows
    with pytest.raises(SystemExit):  # planning says the same
        plan_and_preprocess.main(["-d", str(raw), "--device", "cpu", "--workers", "1", "--workspace", str(tmp_path)])
    assert "6 of 8 cases cannot be used" in capsys.readouterr().err


def test_a_channel_elsewhere_is_mended_in_a_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_dataset(tmp_path / "raw", cases=2, channels=("T1", "T2"))
    path = raw / "imagesTr" / "case01_0001.nii.gz"
    moved = np.eye(4)
    moved[0, 3] = 9
    write_nifti(path, read_volume([path]).array[0], moved)
    refused(raw, capsys)
    check(raw, "--fix-geometry", str(tmp_path / "mended" / raw.name))
    check(tmp_path / "mended" / raw.name)
    assert "no problem in 2 cases" in capsys.readouterr().out


def test_a_label_file_of_several_channels_and_one_image_with_two_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write_dataset(tmp_path / "raw", cases=4)
    image = read_volume([raw / "imagesTr" / "case01_0000.nii.gz"]).array[0]
    labels = read_labels(raw / "labelsTr" / "case01.nii.gz").array.astype(np.uint8)
    write_nifti(raw / "imagesTr" / "case02_0000.nii.gz", image, np.eye(4))
    write_nifti(raw / "labelsTr" / "case02.nii.gz", np.where(labels == 7, 3, labels).astype(np.uint8), np.eye(4))
    check(raw)
    assert "the same image as case02, with other labels" in " ".join(capsys.readouterr().out.split())
    write_nifti(raw / "labelsTr" / "case00.nii.gz", np.stack([labels, labels], axis=-1), np.eye(4))
    _, error = refused(raw, capsys)
    assert "1 of 4 cases cannot be used" in error and "case00" in error


def test_voxels_of_an_unusual_size_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A header in metres or centimetres that does not say so."""
    raw = write_dataset(tmp_path / "raw", cases=4)
    for case, edge in (("case01", 0.001), ("case02", 0.1)):
        for path in (raw / "imagesTr" / f"{case}_0000.nii.gz", raw / "labelsTr" / f"{case}.nii.gz"):
            array = read_volume([path]).array[0]
            write_nifti(path, array.astype(np.uint8 if "labelsTr" in str(path) else np.float32), np.diag([edge] * 3 + [1]))
    check(raw)
    said = " ".join(capsys.readouterr().out.split())
    assert "case01 its voxels are 0.001 x 0.001 x 0.001 mm, which is unusual: look at the units of its header" in said
    assert "case02 its voxels are 0.1 x 0.1 x 0.1 mm, 0.182 times as long" in said
    assert "case00 its voxels" not in said


def test_files_elsewhere_are_not_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_dataset(tmp_path / "raw", cases=2)
    for name in ("imagesTr/case00_0000.nii.gz", "labelsTr/case00.nii.gz"):
        (tmp_path / Path(name).name).write_bytes((raw / name).read_bytes())
    for image in ("../../case00_0000.nii.gz", str(tmp_path / "case00_0000.nii.gz")):
        entry = {"images": [image], "label": "../../case00.nii.gz"}
        change_description(raw, dataset={"one": entry}, numTraining=1)
        _, error = refused(raw, capsys, "--fix-geometry", str(tmp_path / "new" / "Dataset007_Balls"))
        assert "so a copy would lack it" in error and not (tmp_path / "new").exists()


def test_a_label_in_no_case_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_dataset(tmp_path / "raw", cases=2)
    change_description(raw, labels={"background": 0, "large": 3, "small": 7, "rare": 9})
    check(raw)
    assert "no case has label rare: it is learnt as absent" in capsys.readouterr().out
