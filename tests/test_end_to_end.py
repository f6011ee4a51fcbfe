"""All kinds of data sets through the real commands: plan, train, predict, evaluate; results lie on exactly the input's
grid.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from benchmarks.case_lists import lists_of
from diffatlas_pipeline.atlases.late_fusion import SHARES
from diffatlas_pipeline.commands import convert, evaluate, plan_and_preprocess, predict, train
from tests.planning.raw_data import write_dataset

KINDS = {
    "two channels": {"channels": ("T1", "T2"), "shape": (26, 30, 22)},
    "thick slices": {"spacing_mm": (0.7, 0.7, 5.0), "shape": (64, 72, 12)},
    "two-dimensional": {"dimensions": 2, "shape": (64, 72, 1)},
}


def run_all(workspace: Path, dataset: str, images: Path, output: Path, iterations: int = 2) -> None:
    shared = ["--workspace", str(workspace), "--device", "cpu"]
    plan_and_preprocess.main(["-d", dataset, "--workers", "1", *shared])
    train.main([dataset, "all", "--iterations", str(iterations), "--workers", "0", *shared])
    predict.main(["-i", str(images), "-o", str(output), *shared])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_set_goes_all_the_way(kind: str, tmp_path: Path) -> None:
    raw = write_dataset(tmp_path / "raw", cases=3, **KINDS[kind])  # type: ignore[arg-type]
    run_all(tmp_path, "7", raw / "imagesTr", tmp_path / "out")
    evaluate.main(["-p", str(tmp_path / "out"), "-r", str(raw / "labelsTr"), "--workers", "1"])
    assert len(pd.read_csv(tmp_path / "out" / "evaluation" / "cases.csv")) == 3 * 2
    for case in ("case00", "case01", "case02"):
        found, given = nib.load(tmp_path / "out" / f"{case}.nii.gz"), nib.load(raw / "imagesTr" / f"{case}_0000.nii.gz")
        assert found.shape == given.shape and np.array_equal(found.affine, given.affine)
        assert found.get_data_dtype() == np.uint8 and set(np.unique(found.dataobj)) <= {0, 3, 7}
    # The scans are the training cases, which the model keeps; they are registered, so they have a say unless that is
    # refused.
    words = ["-i", str(raw / "imagesTr"), "-o", str(tmp_path / "atlases"), "--adapt-contrast", "atlases"]
    predict.main([*words, "--save-uncertainty", "--workspace", str(tmp_path), "--device", "cpu"])
    evaluate.main(["-p", str(tmp_path / "atlases"), "-r", str(raw / "labelsTr"), "--workers", "1"])
    assert json.loads((tmp_path / "atlases" / "evaluation" / "summary.json").read_text())["mean"]["dice"] > 0.5
    assert len(list((tmp_path / "atlases" / "uncertainty").iterdir())) == 3
    record = json.loads((tmp_path / "atlases" / "prediction.json").read_text())
    assert record["with_atlases"] is True and record["adapt_contrast"] == "atlases"
    assert {case["network_share"] for case in record["cases"].values()} <= set(SHARES)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif("DIFFATLAS_TEST_DATA" not in os.environ, reason="DIFFATLAS_TEST_DATA is not set")
def test_real_scans_and_dicom_series(tmp_path: Path) -> None:
    data = Path(os.environ["DIFFATLAS_TEST_DATA"])
    source = data / "Task04_Hippocampus"
    chosen = json.loads(lists_of("hippocampus").read_text(encoding="utf-8"))
    few = tmp_path / "few.json"
    few.write_text(json.dumps({"train": chosen["full"][:4], "test": chosen["test"][:3]}))
    lists = ["--cases-from-json", f"{few}:train", "--test-from-json", f"{few}:test"]
    convert.main(["msd", "-i", str(source), "-d", "4", *lists, "--workspace", str(tmp_path)])
    raw = tmp_path / "raw" / "Dataset004_Hippocampus"
    run_all(tmp_path, "4", raw / "imagesTs", tmp_path / "out")
    for case in chosen["test"][:3]:
        given = nib.load(source / "imagesTr" / f"{case}.nii.gz")
        found = nib.load(tmp_path / "out" / f"{case}.nii.gz")
        assert found.shape == given.shape and np.array_equal(found.affine, given.affine)
        assert [int(found.header[code]) for code in ("qform_code", "sform_code")] == [
            int(given.header[code]) for code in ("qform_code", "sform_code")
        ]
    evaluate.main(["-p", str(tmp_path / "out"), "-r", str(raw / "labelsTs"), "--workers", "1"])
    assert (tmp_path / "out" / "evaluation" / "summary.json").is_file()
    series = tmp_path / "series"
    for folder in sorted(path for path in (data / "hippocampus_dicom").rglob("*") if path.is_dir()):
        if any(folder.glob("*.dcm")):
            shutil.copytree(folder, series / f"scan{len(list(series.glob('*')))}")
    predict.main(["-i", str(series), "-o", str(tmp_path / "dicom"), "--workspace", str(tmp_path), "--device", "cpu"])
    for folder in sorted(series.iterdir()):
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        given, found = reader.Execute(), sitk.ReadImage(str(tmp_path / "dicom" / f"{folder.name}.nii.gz"))
        assert found.GetSize() == given.GetSize()
        assert np.allclose(found.GetOrigin(), given.GetOrigin(), atol=1e-3)
        assert np.allclose(found.GetDirection(), given.GetDirection(), atol=1e-4)
