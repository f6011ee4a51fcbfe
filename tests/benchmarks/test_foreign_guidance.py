"""The benchmark of guidance levels for scans of another modality, on small generated hearts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import foreign_guidance
from diffatlas_pipeline.commands import convert, plan_and_preprocess, train


def test_each_level_is_measured_in_three_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["--workspace", str(tmp_path)]
    for number, modality, seed in (("1", "CT", "0"), ("2", "MRI", "7")):
        made = ["phantom", "-d", number, "--modality", modality, "--cases", "2", "--test-cases", "0", "--size", "24"]
        convert.main([*made, "--seed", seed, *shared])
    plan_and_preprocess.main(["-d", "1", "--workers", "1", "--device", "cpu", *shared])
    train.main(["1", "all", "--iterations", "2", "--workers", "0", "--device", "cpu", "--precision", "float32", *shared])
    model = tmp_path / "results" / "Dataset001_HeartPhantomCT" / "diffatlas__default"
    words = ["-m", str(model), "--raw", str(tmp_path / "raw" / "Dataset002_HeartPhantomMRI"), "--cases", "1", "--device", "cpu"]
    words += ["--output", str(tmp_path / "out.csv"), "--guidance-levels", "0", "0.5"]
    foreign_guidance.main([*words, "--modality", "MRI"])
    table = pd.read_csv(tmp_path / "out.csv")
    assert list(table["guidance_level"]) == [0.0, 0.5] and set(table["steps"]) == {1}
    assert (table["dice_with_atlases"] > 0.5).all()  # the network has learnt nothing, the atlases need not
    with pytest.raises(SystemExit):
        foreign_guidance.main([*words, "--modality", "CT"])
    assert "the model has learnt it" in capsys.readouterr().err
