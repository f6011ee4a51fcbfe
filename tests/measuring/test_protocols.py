"""The fixed protocols: no test case trains or validates."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks import raw_data
from benchmarks.case_lists import few_shot_splits, lists_of, read_protocol, validation_cases
from benchmarks.raw_data import CARDIAC, HIPPOCAMPUS, TASK
from diffatlas_pipeline.datasets.compatibility import labelled_test_cases
from diffatlas_pipeline.datasets.raw import read_dataset
from diffatlas_pipeline.errors import UserError
from tests.measuring.small_task import use_lists, write_task
from tests.planning.raw_data import write_dataset


def test_few_shot_split_never_touches_other_settings_or_the_test(tmp_path: Path) -> None:
    protocol = read_protocol(write_task(tmp_path) / "protocol.json")
    splits = few_shot_splits(protocol, (0, 2))
    assert splits["2-shot"]["train"] == splits["2-shot-seed2"]["train"] == protocol["2-shot"]
    assert splits["2-shot"]["validation"] == ["ball_003", "ball_004", "ball_005"]
    assert {*splits} == {f"{count}-shot{seed}" for count in (2, 4, 8, 16, 3) for seed in ("", "-seed2")}
    assert splits["3-shot"]["train"] == ["ball_000", "ball_001", "ball_002"], "all but the validation cases"
    assert all(split["validation"] == splits["2-shot"]["validation"] for split in splits.values())


def test_at_most_sixteen_validation_cases() -> None:
    full = [f"case_{index:03d}" for index in range(160)]
    protocol = {"test": ["other"], "full": full, **{f"{k}-shot": full[:k] for k in (2, 4, 8, 16)}}
    chosen = validation_cases(protocol)
    assert len(set(chosen)) == 16 and not set(chosen) & set(full[:16])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"2-shot": ["ball_000", "ball_007"]}, "'2-shot' names ball_007, which is a test case"),
        ({"full": ["ball_000"]}, "not in 'full'"),
        ({"test": None}, "not a protocol"),
    ],
)
def test_a_protocol_that_mixes_training_and_test_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    path = write_task(tmp_path) / "protocol.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        read_protocol(path)


def test_the_hippocampus_protocol_is_sound() -> None:
    protocol = read_protocol(lists_of(HIPPOCAMPUS))
    assert {name: len({*cases}) for name, cases in protocol.items()} == {
        "test": 40, "full": 160, "2-shot": 2, "4-shot": 4, "8-shot": 8, "16-shot": 16
    }  # fmt: skip
    split = few_shot_splits(protocol, ())["2-shot"]
    assert len(split["train"]) == 2 and len(split["validation"]) == 16
    assert not set(split["validation"]) & {*protocol["test"], *protocol["16-shot"]}
    assert len(few_shot_splits(protocol, ())["144-shot"]["train"]) == 144


@pytest.mark.real_data
def test_the_decathlon_has_the_cases_of_the_protocol() -> None:
    data = os.environ.get("DIFFATLAS_TEST_DATA")
    if data is None:
        pytest.skip("DIFFATLAS_TEST_DATA is not set")
    cases = {path.name.removesuffix(".nii.gz") for path in (Path(data) / TASK / "labelsTr").iterdir()}
    protocol = read_protocol(lists_of(HIPPOCAMPUS))
    assert {*protocol["full"], *protocol["test"]} <= cases


# ---------------------------------------------------------------------------------------------------------- real hearts
def test_no_patient_of_a_cardiac_test_trains_in_either_sequence() -> None:
    bssfp, lge = (read_protocol(lists_of(protocol)) for protocol in CARDIAC)
    assert [len(lists) for lists in (bssfp["full"], bssfp["test"], lge["full"], lge["test"])] == [25, 10, 25, 10]
    assert not {*bssfp["full"], *lge["full"]} & {*bssfp["test"], *lge["test"]}
    assert set(lge["2-shot"]) < set(lge["4-shot"]) < set(lge["full"])


def write_cardiac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a small data set of all patients, and lists of them."""
    write_dataset(tmp_path / "data", cases=4, name="Dataset032_CardiacLGE")
    lists = {"full": ["case00", "case02"], "test": ["case03"], "2-shot": ["case00", "case02"]}
    (tmp_path / "lists.json").write_text(json.dumps(lists))
    use_lists(monkeypatch, tmp_path / "lists.json")
    return tmp_path / "data"


def test_training_and_test_cases_lie_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_cardiac(tmp_path, monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    folder = raw_data.place_cardiac("cardiac-lge", data, tmp_path / "w")
    assert folder == tmp_path / "w" / "raw" / "Dataset032_CardiacLGE"
    dataset = read_dataset(folder)
    assert [files.case for files in dataset.training] == ["case00", "case02"]
    assert [files.case for files in labelled_test_cases(dataset)] == ["case03"]
    assert dataset.description == read_dataset(data / folder.name).description
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert raw_data.place_cardiac("cardiac-lge", data, tmp_path / "w") == folder
    assert written == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}, "nothing is written twice"
    assert before == {path: path.stat().st_mtime_ns for path in data.rglob("*")}, "the source stays as it was"


def test_a_patient_who_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_cardiac(tmp_path, monkeypatch)
    (data / "Dataset032_CardiacLGE" / "labelsTr" / "case02.nii.gz").unlink()
    with pytest.raises(UserError, match=r"1 file\(s\) of the protocol are not there, such as .*case02"):
        raw_data.place_cardiac("cardiac-lge", data, tmp_path / "w")
    with pytest.raises(UserError, match=r"no Dataset031_CardiacBSSFP/dataset\.json there"):
        raw_data.place_cardiac("cardiac-bssfp", data, tmp_path / "w")


@pytest.mark.real_data
def test_a_heart_is_as_wide_in_both_sequences(tmp_path: Path) -> None:
    """The published headers of bSSFP make the left ventricle 123 mm wide, where LGE of the same patient has 73 mm."""
    data = os.environ.get("DIFFATLAS_TEST_DATA")
    if data is None:
        pytest.skip("DIFFATLAS_TEST_DATA is not set")

    def widths_mm(folder: Path) -> np.ndarray:
        """Of the left ventricle with its muscle, in the three slices where it is widest."""
        found = []
        for case in read_protocol(lists_of("cardiac-lge"))["full"]:
            labels = nib.load(folder / "labelsTr" / f"{case}.nii.gz")
            pixels = np.sort(np.isin(np.asarray(labels.dataobj), (1, 2)).sum(axis=(0, 1)))[-3:].mean()
            found.append(2 * np.sqrt(pixels * np.prod(labels.header.get_zooms()[:2]) / np.pi))
        return np.array(found)

    folders = [raw_data.place_cardiac(protocol, Path(data), tmp_path) for protocol in CARDIAC]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}
    bssfp, lge = map(widths_mm, folders)
    as_published = widths_mm(Path(data) / folders[0].name)
    assert np.median(as_published) == pytest.approx(123, abs=0.5) and np.median(lge) == pytest.approx(73, abs=0.5)
    assert np.median(lge / as_published) == pytest.approx(raw_data.IN_PLANE["cardiac-bssfp"], abs=1e-3)
    assert np.allclose(bssfp, lge, rtol=0.12)
    published = nib.load(Path(data) / folders[0].name / "imagesTr" / "patient03_0000.nii.gz")
    placed = nib.load(folders[0] / "imagesTr" / "patient03_0000.nii.gz")
    np.testing.assert_array_equal(np.asarray(placed.dataobj), np.asarray(published.dataobj))
    assert placed.header.get_zooms()[2] == pytest.approx(published.header.get_zooms()[2])
    raw_data.place_cardiac("cardiac-bssfp", Path(data), tmp_path)
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}, "nothing is written twice"


@pytest.mark.real_data
@pytest.mark.parametrize("protocol", CARDIAC)
def test_the_hearts_have_the_cases_of_the_protocol(protocol: str, tmp_path: Path) -> None:
    data = os.environ.get("DIFFATLAS_TEST_DATA")
    if data is None:
        pytest.skip("DIFFATLAS_TEST_DATA is not set")
    folder = raw_data.place_cardiac(protocol, Path(data), tmp_path)
    dataset, lists = read_dataset(folder), read_protocol(lists_of(protocol))
    given = json.loads((Path(data) / folder.name / "protocol.json").read_text())
    assert all(given[name] == cases for name, cases in lists.items())
    assert [files.case for files in dataset.training] == sorted(lists["full"])
    assert [files.case for files in labelled_test_cases(dataset)] == sorted(lists["test"])
