from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffatlas_pipeline.datasets.splits import Split, load_splits, make_splits, write_splits
from diffatlas_pipeline.errors import UserError

NAMES = st.sets(st.text("abcdef0123456789_", min_size=1, max_size=8), min_size=1, max_size=30)


@given(names=NAMES)
def test_folds_partition_the_cases(names: set[str]) -> None:
    splits = make_splits(sorted(names))
    folds = [split for name, split in splits.items() if name.startswith("fold")]
    assert splits["all"] == Split(tuple(sorted(names)), ())
    if len(names) == 1:
        assert folds == [splits["all"]]
        return
    assert len(folds) == min(5, len(names))
    assert sorted(case for fold in folds for case in fold.validation) == sorted(names)
    sizes = [len(fold.validation) for fold in folds]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1
    for fold in folds:
        assert set(fold.train) | set(fold.validation) == names and not set(fold.train) & set(fold.validation)


@given(names=NAMES, seed=st.integers(0, 3))
def test_order_of_the_names_does_not_matter(names: set[str], seed: int) -> None:
    assert make_splits(sorted(names), seed=seed) == make_splits(sorted(names, reverse=True), seed=seed)


@given(names=NAMES)
def test_few_shot_splits_can_be_tested_on_fold0(names: set[str]) -> None:
    splits = make_splits(sorted(names))
    shots = {name: split for name, split in splits.items() if "-shot" in name}
    for name, split in shots.items():
        assert len(split.train) == int(name.partition("-")[0])
        assert set(split.train) <= set(splits["fold0"].train)
        assert set(split.validation) <= set(splits["fold0"].validation)
    assert ("2-shot" in shots) == ("2-shot-seed1" in shots) == (len(names) > 2)


def test_few_shot_splits_differ_by_seed_and_grow_with_the_shots() -> None:
    splits = make_splits([f"case{i}" for i in range(40)])
    assert {name for name in splits if name.endswith("-shot")} == {"2-shot", "4-shot", "8-shot", "16-shot"}
    assert len({splits[name].train for name in ("4-shot", "4-shot-seed1", "4-shot-seed2")}) == 3
    assert set(splits["2-shot-seed1"].train) < set(splits["16-shot-seed1"].train)
    assert len(splits["2-shot"].validation) == 8


def test_round_trip(tmp_path: Path) -> None:
    splits = make_splits([f"case{i}" for i in range(12)])
    write_splits(tmp_path / "splits.json", splits)
    assert load_splits(tmp_path / "splits.json", [f"case{i}" for i in range(12)]) == splits


def test_the_list_layout_of_nnunet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]))
    assert load_splits(path, ["a", "b"]) == {"fold0": Split(("a",), ("b",)), "fold1": Split(("b",), ("a",))}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("{}", "no split"),
        ('{"mine": {"validation": []}}', "no list 'train'"),
        ('{"../../mine": {"train": ["a"]}}', r"'\.\./\.\./mine' cannot be the name of a split"),
        ('{"": {"train": ["a"]}}', "'' cannot be the name of a split"),
        ('{"mine": {"train": [1], "validation": []}}', "as text"),
        ('{"mine": {"train": ["a", "zz"], "validation": []}}', "names zz"),
        ('{"mine": {"train": [], "validation": ["a"]}}', "no training case"),
        ('{"mine": {"train": ["a"], "validation": ["a"]}}', "both trains and validates on a"),
    ],
)
def test_wrong_files_are_explained(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "splits.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        load_splits(path, ["a", "b"])
    assert str(path) in str(error.value)


def test_missing_file_and_no_case(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_splits(tmp_path / "splits.json", ["a"])
    with pytest.raises(UserError, match="No case"):
        make_splits([])
