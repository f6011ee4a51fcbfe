from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffatlas_pipeline.datasets.description import DatasetDescription, LabelClass
from diffatlas_pipeline.datasets.label_entries import labels_entry, read_labels_entry
from diffatlas_pipeline.errors import DatasetError

PATH = Path("dataset.json")
BRATS: dict[str, Any] = {
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "enhancing": [3]},
    "regions_class_order": [2, 1, 3],
}


def test_regions_and_the_ignore_label_are_read_and_written_back() -> None:
    raw = {**BRATS, "labels": {**BRATS["labels"], "ignore": 4}}
    found = read_labels_entry(raw, PATH)
    assert found.labels == (LabelClass("whole", 2, (1, 2, 3)), LabelClass("core", 1, (1, 3)), LabelClass("enhancing", 3))
    assert found.ignore == 4
    described = DatasetDescription("d", ("MRI",), found.labels, ".nii.gz", found.ignore)
    assert list(described.problems()) == [] and described.label_values == (0, 1, 2, 3)
    written = labels_entry(described)
    assert written["regions_class_order"] == [2, 1, 3] and read_labels_entry(written, PATH) == found


def test_lists_of_one_number_are_plain_labels() -> None:
    found = read_labels_entry({"labels": {"background": 0, "a": [1], "b": 2}}, PATH)
    assert found.labels == (LabelClass("a", 1), LabelClass("b", 2)) and found.ignore is None
    assert labels_entry(DatasetDescription("d", ("MRI",), found.labels, ".nii.gz")) == {
        "labels": {"background": 0, "a": 1, "b": 2}
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"regions_class_order": None}, r"that may be \[2, 1, 3\]"),
        ({"regions_class_order": [2, 1]}, "name, for each of whole, core, enhancing"),
        ({"regions_class_order": [2, 2, 3]}, "one of its numbers"),
        ({"regions_class_order": [3, 1, 3]}, "own number in regions_class_order"),
        ({"labels": {"background": 0, "a": [1, 2], "b": [2, 1]}, "regions_class_order": [1, 2]}, "same numbers"),
        ({"labels": {"background": 0, "a": [0, 2], "b": 1}, "regions_class_order": [2, 1]}, "foreground label"),
        ({"labels": {"background": 0, "a": 1, "ignore": 1}}, "number that no other label has"),
        ({"labels": {"background": 0, "a": 1, "ignore": [2, 3]}}, "single number is needed"),
        ({"labels": {"background": 0, "a": [1, 2.5]}}, "whole number"),
        ({"labels": {"background": 0, "a": []}}, "whole number"),
    ],
)
def test_what_cannot_be_used_is_said(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read_labels_entry({**BRATS, **changes}, PATH)
