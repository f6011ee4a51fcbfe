"""The contact sheet and the page of generated pairs, from shapes that are known."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from diffatlas_pipeline.datasets.description import DatasetDescription, LabelClass
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.likeness import nearest, probe_of
from diffatlas_pipeline.evaluation.overlays import label_colours
from diffatlas_pipeline.evaluation.populations import LabelledImage, Population, compared
from diffatlas_pipeline.report.contact_sheet import contact_sheet
from diffatlas_pipeline.report.generated_page import nearest_text, write_generated_page
from diffatlas_pipeline.report.plots import COLOURS

LABELS = (LabelClass("left & right", 1), LabelClass("top", 5))
SPACING = (1.0, 1.0, 2.0)


def block(case: str, size: int, shape: tuple[int, int, int] = (16, 20, 12)) -> LabelledImage:
    labels = np.zeros(shape, dtype=np.int32)
    depth = slice(0, 1) if shape[2] == 1 else slice(3, 3 + size)
    labels[4 : 4 + size, 5 : 5 + size, depth] = 1
    labels[4 : 4 + size, 5 : 5 + size // 2, depth] = 2
    noise = np.random.default_rng(size).normal(0, 0.05, (2, *shape))
    return LabelledImage(case, (noise + np.where(labels > 0, 0.4, -0.6)).astype(np.float32), labels)


def statistics(generated: list[LabelledImage], real: list[LabelledImage]) -> dict[str, Any]:
    populations = []
    for cases in (generated, real):
        populations.append(Population(LABELS, ("CT", "MRI"), SPACING))
        for one in cases:
            populations[-1].add(one)
    probes, others = ([probe_of(one, 2) for one in cases] for cases in (generated, real))
    sampler = {"solver": "ddpm", "steps": 20}
    return {
        **compared(*populations),
        "training_cases": len(real) + 1,
        "nearest": [asdict(one) for one in nearest(probes, others)],
        "nearest_of_training_cases": [asdict(one) for one in nearest(others, others)],
        "made_with": {"recipe": "paper", "fold": "fold0", "sampler": sampler, "seed": 3, "shape": [16, 20, 12]},
    }


@pytest.mark.parametrize("depth", [12, 1])
def test_the_sheet_shows_each_label_of_each_pair_in_its_colour(tmp_path: Path, depth: int) -> None:
    row = (block("made", 6, (16, 20, depth)), block("$real$_1", 8, (20, 18, depth)))
    contact_sheet([row, row], LABELS, SPACING, tmp_path / "new" / "sheet.png")
    picture = mpl.image.imread(tmp_path / "new" / "sheet.png")[..., :3]
    left, right = np.array_split(picture[60:-60], 2, axis=1)
    sizes = []
    for half in (left, right):
        # In a labelled voxel, colour and grey are mixed: the two labels differ from grey in their own hue.
        grey = half.mean(axis=2, keepdims=True)
        coloured = np.abs(half - grey).max(axis=2) > 0.08
        hues = {tuple(np.round(np.asarray(colour[:3]) - np.mean(colour[:3]), 1) > 0.05) for colour in label_colours(2)}
        found = {tuple(value) for value in (half - grey)[coloured] > 0.02}
        assert hues <= found
        sizes.append(np.count_nonzero(coloured))
    assert sizes[0] < sizes[1]  # one scale for all tiles: the larger block is shown larger


def test_the_page_shows_both_populations_and_loads_nothing(tmp_path: Path) -> None:
    generated, real = [block("made_0", 6), block("made_1", 7)], [block("real_0", 6), block("real_1", 8), block("real_2", 8)]
    found = statistics(generated, real)
    contact_sheet([(generated[0], real[0])], LABELS, SPACING, tmp_path / "sheet.png")
    dataset = DatasetDescription("Dataset001_A&B", ("CT", "MRI"), LABELS, ".nii.gz")
    write_generated_page(found, dataset, tmp_path / "sheet.png", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Pairs generated from Dataset001_A&amp;B" in page and "left &amp; right" in page
    assert ">3 of these<" in page  # one training case more than was measured
    outside = re.findall(r'(?:src|href)="(?!data:|#)([^"]+)"', re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL))
    assert not outside
    plots = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(plots) == 6  # two sizes, a histogram figure per channel, spectra, nearest cases
    assert "$" not in "".join(plots)  # numbers at the axes are plain text
    for plot in plots:
        ElementTree.fromstring(plot)
        assert COLOURS[0] in plot and COLOURS[1] in plot
    assert found["volume_ml"]["top"]["generated"]["values"][0] == pytest.approx(6 * 3 * 6 * 2 / 1000, abs=1e-4)
    assert "1.000" in nearest_text(found)  # each made block lies upon a real one; real_1 and real_2 are twins
    with pytest.raises(UserError, match="cannot be written"):
        write_generated_page(found, dataset, tmp_path / "sheet.png", tmp_path / "sheet.png" / "page.html")
