"""What goes beside segmentations for other programs is what these programs read."""

from __future__ import annotations

import csv
import io
import re

from diffatlas_pipeline.datasets.colours import label_colours
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.inference.for_viewers import itksnap_labels, slicer_table, volumes_table

LABELS = (LabelClass("left ventricle", 500), LabelClass('the "wall"', 200))


def test_a_colour_table_of_slicer_has_six_columns() -> None:
    lines = [line.split() for line in slicer_table(LABELS).splitlines() if not line.startswith("#")]
    assert [line[0] for line in lines] == ["0", "500", "200"] and all(len(line) == 6 for line in lines)
    assert lines[1][1] == "left_ventricle" and lines[0][-1] == "0"
    assert [tuple(map(int, line[2:5])) for line in lines[1:]] == label_colours(2)
    assert all(0 <= int(value) <= 255 for line in lines for value in line[2:])


def test_a_label_file_of_itksnap_has_seven_numbers_and_a_quoted_name() -> None:
    lines = [line for line in itksnap_labels(LABELS).splitlines() if not line.startswith("#")]
    found = [re.fullmatch(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([01])\s+([01])\s+([01])\s+"([^"]+)"', line) for line in lines]
    assert [one and (one[1], one[8]) for one in found] == [
        ("0", "Clear Label"),
        ("500", "left ventricle"),
        ("200", "the 'wall'"),
    ]


def test_colours_differ_up_to_twenty_labels_and_repeat_beyond() -> None:
    for count in (1, 8, 9, 20):
        assert len(set(label_colours(count))) == count
    assert label_colours(45)[:20] == label_colours(45)[20:40] == label_colours(20)


def test_volumes_are_a_row_per_case_and_label() -> None:
    told = {"volume_ml": 2.5, "intervals_ml": {"50%": [2.3, 2.7], "90%": [2.0, 3.0]}}
    cases = {"a, b": {"volumes": {"x": told, "y": {"volume_ml": 1.0, "intervals_ml": {}}}}, "failed": {"volumes": {}}}
    rows = list(csv.DictReader(io.StringIO(volumes_table(cases))))
    assert [(row["case"], row["label"], row["volume_ml"]) for row in rows] == [("a, b", "x", "2.5"), ("a, b", "y", "1.0")]
    assert [(row["low_90_ml"], row["high_90_ml"]) for row in rows] == [("2.0", "3.0"), ("", "")]
