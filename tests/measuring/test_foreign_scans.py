"""The benchmark makes scans that differ from the own ones, and counts by the limit."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from benchmarks.foreign_scans import KINDS, MADE, OWN, counted, scans
from benchmarks.raw_data import HEARTS
from benchmarks.tables import foreign_table
from diffatlas_pipeline.commands import convert

SCAN = "heart_test_0001_0000.nii.gz"


def test_scans_are_made_of_the_own_ones(tmp_path: Path) -> None:
    for modality, number in HEARTS.values():
        size = ["--cases", "1", "--test-cases", "2", "--size", "32", "--workspace", str(tmp_path)]
        convert.main(["phantom", "-d", str(number), "--modality", modality, *size])
    own = tmp_path / "raw" / "Dataset011_HeartPhantomCT"
    folders = scans(own, None, tmp_path / "scans", 1)
    assert set(folders) == {OWN, "mri", *MADE} and set(folders) < set(KINDS)
    images = {kind: nib.load(folder / SCAN).get_fdata() for kind, folder in folders.items()}
    given = images.pop(OWN)
    assert not any(np.allclose(image, given) for image in images.values())
    for axis, name in enumerate("xyz"):
        assert np.allclose(np.flip(images[f"mirrored_{name}"], axis), given)
    assert np.corrcoef(images["inverted"].ravel(), given.ravel())[0, 1] < -0.999
    assert abs(images["noise"].std() / given.std() - 1) < 0.05


def test_scans_beyond_the_limit_are_counted_and_shown() -> None:
    cases = {f"case{score}": {"familiarity": {"score": score, "limit": 1.5}} for score in (0.5, 1.0, 1.5, 2.0)}
    row = counted("noise", {"cases": cases})
    assert row == {"noise_scans": 4, "noise_flagged": 1, "noise_score": 1.25}
    table = foreign_table(pd.DataFrame([{"method": "diffatlas", "recipe": "default", **row}]))
    assert "| noise | 1 of 4 (1.2) |" in table and "`diffatlas`, default" in table
