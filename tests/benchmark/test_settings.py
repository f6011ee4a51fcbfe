"""Settings: what they train on, what tests them, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from diffatlas_pipeline.benchmark.choices import MethodChoice, Setting
from diffatlas_pipeline.benchmark.settings import check_settings, known_splits, prepare_settings
from diffatlas_pipeline.datasets.compatibility import modality_of
from diffatlas_pipeline.datasets.description import RawDataset
from diffatlas_pipeline.datasets.splits import Split, make_splits
from diffatlas_pipeline.errors import UserError
from tests.benchmark.content import case_files, raw_dataset


def splits_of(dataset: RawDataset, **more: Split) -> dict[str, tuple[Split, Path | None]]:
    planned = make_splits([files.case for files in dataset.training])
    return {name: (split, None) for name, split in {**planned, **more}.items()}


def with_tests(dataset: RawDataset, *labelled: str) -> RawDataset:
    """``dataset`` with test images t1, t2, t3, of which ``labelled`` have labels on disk."""
    (dataset.folder / "labelsTs").mkdir(parents=True)
    for name in labelled:
        (dataset.folder / "labelsTs" / f"{name}.nii.gz").touch()
    return replace(dataset, test=tuple(replace(files, label=None) for files in case_files("t1", "t2", "t3")))


@pytest.mark.parametrize("text", ["full", "2-shot", "16-shot", "zero-shot:3", "zero-shot:a/b@c", "zero-shot:X@4-shot"])
def test_a_setting_is_written_as_it_is_read(text: str) -> None:
    assert Setting.parse(text).text == text


def test_parts_of_a_zero_shot_setting() -> None:
    assert Setting.parse("zero-shot:X@4-shot") == Setting("4-shot", "X")
    assert Setting.parse("zero-shot:X@full") == Setting.parse("zero-shot:X") == Setting("full", "X")
    assert Setting.parse("zero-shot:a/b@c").dataset == "a/b@c"
    assert Setting.parse("zero-shot-unadapted:X@2-shot") == Setting("2-shot", "X", adapted=False)
    assert Setting.parse("zero-shot-unadapted:X").text == "zero-shot-unadapted:X"
    assert Setting.parse("16-shot").shots == 16 and Setting.parse("full").shots is None


@pytest.mark.parametrize("text", ["few", "0-shot", "shot", "2shot", "zero-shot:", "zero-shot", "@2-shot", ""])
def test_an_unknown_setting_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="write full, K-shot"):
        Setting.parse(text)


def test_a_method_carries_its_recipe() -> None:
    assert MethodChoice.parse("diffatlas:paper") == MethodChoice("diffatlas", "paper")
    assert MethodChoice.parse("icf").text == MethodChoice.parse("icf:default").text == "icf"
    both = MethodChoice.parse("diffatlas:paper+atlases")
    assert (both.name, both.trained, both.with_atlases, both.text) == ("diffatlas", "paper", True, "diffatlas:paper+atlases")
    assert MethodChoice.parse("icf+atlases").text == "icf+atlases" and not MethodChoice("icf").with_atlases
    for wrong in (":paper", "icf:", "", "+atlases", "icf+votes", "icf+atlases:paper"):
        with pytest.raises(UserError, match="write a method"):
            MethodChoice.parse(wrong)


def test_zero_shot_data_sets_must_fit(tmp_path: Path) -> None:
    own = raw_dataset(tmp_path / "Dataset001_A")
    others = {
        "same": own,
        "channels": raw_dataset(tmp_path / "Dataset002_B", channels=("T1", "T2")),
        "labels": raw_dataset(tmp_path / "Dataset003_C", front=1, back=3),
        "good": raw_dataset(tmp_path / "Dataset004_D", channels=("T1",), back=2, front=1),
    }
    for name, said in (
        ("same", "that is trained on"),
        ("channels", "2 channel.*has 1"),
        ("labels", "'back': 3.*'back': 2"),
    ):
        with pytest.raises(UserError, match=said):
            check_settings([f"zero-shot:{name}"], own, others.__getitem__)
    assert check_settings(["zero-shot:good", "full"], own, others.__getitem__) == {
        Setting("full", "Dataset004_D"): others["good"],
        Setting("full"): own,
    }


def test_more_shots_than_cases(tmp_path: Path) -> None:
    own = raw_dataset(tmp_path / "Dataset001_A", training=3)
    with pytest.raises(UserError, match="4 training cases are asked for, but Dataset001_A has 3"):
        check_settings(["4-shot"], own, {}.__getitem__)


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (("CT",), ("CT",), None),
        (("CT",), ("ct",), None),
        (("MRI",), ("T2",), None),
        (("CT",), ("MRI",), "MRI"),
        (("MRI",), ("CT",), "CT"),
        (("CT", "PET"), ("T1", "T2"), "MRI"),
    ],
)
def test_modality_is_named_where_it_differs(own: tuple[str, ...], other: tuple[str, ...], expected: str | None) -> None:
    assert modality_of(raw_dataset(Path("a"), channels=own), raw_dataset(Path("b"), channels=other)) == expected


def test_mixed_channels_in_another_order_are_refused() -> None:
    with pytest.raises(UserError, match="same order"):
        modality_of(raw_dataset(Path("a"), channels=("CT", "PET")), raw_dataset(Path("b"), channels=("PET", "CT")))


def test_with_labelled_test_cases_everything_trains(tmp_path: Path) -> None:
    own = with_tests(raw_dataset(tmp_path / "Dataset001_A"), "t1", "t2", "t3")
    full, shot = prepare_settings({Setting("full"): own, Setting("2-shot"): own}, own, splits_of(own), [0, 1], 2)
    assert full.pools[0].split == full.pools[1].split == "all" and len(full.pools[0].cases) == 4
    assert (shot.pools[0].split, shot.pools[1].split) == ("2-shot", "2-shot-seed1")
    assert full.test == shot.test and full.test.names == ("t1", "t2")
    assert full.test.cases[0].label == own.folder / "labelsTs" / "t1.nii.gz"


def test_without_test_labels_the_first_fold_is_held_out(tmp_path: Path) -> None:
    own = raw_dataset(tmp_path / "Dataset001_A", training=10)
    splits = splits_of(own)
    full, shot = prepare_settings({Setting("full"): own, Setting("2-shot"): own}, own, splits, [0])
    assert full.pools[0].split == "fold0"
    assert full.test.names == shot.test.names == splits["fold0"][0].validation
    assert "validation cases of fold0" in full.notes[0]
    assert not set(full.test.names) & {*full.pools[0].cases, *shot.pools[0].cases}


def test_a_seed_without_a_split_of_its_own_shares_the_cases(tmp_path: Path) -> None:
    own = raw_dataset(tmp_path / "Dataset001_A", training=10)
    (shot,) = prepare_settings({Setting("2-shot"): own}, own, splits_of(own), [0, 7])
    assert shot.pools[7] == shot.pools[0] and "only their training differs" in shot.notes[0]
    (drawn,) = prepare_settings({Setting("2-shot"): own}, own, splits_of(own), [0, 1])
    assert drawn.pools[1].cases != drawn.pools[0].cases and "only their training differs" not in drawn.notes[0]


def test_one_case_on_both_sides_is_refused(tmp_path: Path) -> None:
    own = raw_dataset(tmp_path / "Dataset001_A", training=10)
    splits = splits_of(own)
    tested = splits["fold0"][0].validation[0]
    leaky = splits_of(own, **{"2-shot": Split((tested,), ())})
    with pytest.raises(UserError, match=f"trains on cases that are tested on.*{tested}"):
        prepare_settings({Setting("2-shot"): own}, own, leaky, [0])


def test_missing_test_labels_and_missing_splits(tmp_path: Path) -> None:
    own = with_tests(raw_dataset(tmp_path / "Dataset001_A"), "t1")
    with pytest.raises(UserError, match="no label for 2 of the 3 test cases: t2, t3"):
        prepare_settings({Setting("full"): own}, own, splits_of(own), [0])
    other = raw_dataset(tmp_path / "Dataset002_B")
    with pytest.raises(UserError, match=r"no split '3-shot'.*`splits_file`"):
        prepare_settings({Setting("3-shot"): other}, other, splits_of(other), [0])
    nine = raw_dataset(tmp_path / "Dataset004_D", training=9)  # seven of them train in fold0
    with pytest.raises(UserError, match=r"drawn from the 7 training cases of fold0: 2, 4 of them.*`splits_file`"):
        prepare_settings({Setting("8-shot"): nine}, nine, splits_of(nine), [0])
    single = raw_dataset(tmp_path / "Dataset003_C", training=1)
    with pytest.raises(UserError, match="nothing to test on"):
        prepare_settings({Setting("full"): single}, single, splits_of(single), [0])


def test_zero_shot_tests_the_other_data_set(tmp_path: Path) -> None:
    own = raw_dataset(tmp_path / "Dataset001_A", training=10)
    other = raw_dataset(tmp_path / "Dataset002_B", training=3, channels=("MRI",))
    (prepared,) = prepare_settings({Setting("2-shot", "Dataset002_B"): other}, own, splits_of(own), [0])
    assert prepared.text == "zero-shot:Dataset002_B@2-shot" and prepared.pools[0].split == "2-shot"
    assert prepared.test.names == ("c0", "c1", "c2") and prepared.test.modality == "MRI"
    assert prepared.test.place == "imagesTr"
    (tested,) = prepare_settings(
        {Setting("full", "Dataset002_B"): with_tests(other, "t1", "t2", "t3")}, own, splits_of(own), [0]
    )
    assert tested.test.names == ("t1", "t2", "t3") and len(tested.notes) == 1


def test_equal_names_in_a_zero_shot_data_set_are_noted(tmp_path: Path) -> None:
    own, other = raw_dataset(tmp_path / "Dataset001_A", training=10), raw_dataset(tmp_path / "Dataset002_B", training=10)
    (prepared,) = prepare_settings({Setting("full", "Dataset002_B"): other}, own, splits_of(own), [0])
    assert "named like training cases" in prepared.notes[1]


def test_own_splits_win_over_planned_ones(tmp_path: Path) -> None:
    names = [f"c{index}" for index in range(6)]
    (tmp_path / "splits.json").write_text(json.dumps({"2-shot": {"train": names[:2]}, "all": {"train": names}}))
    (tmp_path / "own.json").write_text(json.dumps({"2-shot": {"train": names[2:4]}}))
    splits = known_splits(tmp_path / "splits.json", tmp_path / "own.json", names)
    assert splits["2-shot"] == (Split(("c2", "c3"), ()), tmp_path / "own.json")
    assert splits["all"][1] is None
