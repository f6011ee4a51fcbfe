"""Registration-based segmentation through the real commands: nothing is trained, the training cases are the model."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from diffatlas_pipeline.commands import plan_and_preprocess, predict, train
from tests.planning.raw_data import write_dataset

NAME = "Dataset007_Balls"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five cases, planned, and registration-based models: fold0 of four atlases, and one of a single atlas."""
    workspace = tmp_path_factory.mktemp("workspace")
    write_dataset(workspace / "raw", cases=5)
    shared = ["--workspace", str(workspace), "--device", "cpu"]
    plan_and_preprocess.main(["-d", "7", "--workers", "1", *shared])
    for options in ([], ["--num-cases", "1"]):
        train.main(["7", "fold0", "--method", "rba", "--no-validation", *options, *shared])
    return workspace


def run(workspace: Path, scans: Path, output: Path, *options: str) -> None:
    shared = ["--workspace", str(workspace), "--device", "cpu", "--method", "rba"]
    predict.main(["-i", str(scans), "-o", str(output), *options, *shared])


def test_a_scan_that_cannot_be_aligned_fails_alone(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans = tmp_path / "in"
    scans.mkdir()
    given = sorted((workspace / "raw" / NAME / "imagesTr").iterdir())
    for path in given[:2]:
        (scans / path.name).write_bytes(path.read_bytes())
    image = nib.load(given[2])
    empty = np.zeros(image.shape, np.float32)
    nib.save(nib.Nifti1Image(empty, image.affine), scans / "aempty_0000.nii.gz")
    with pytest.raises(SystemExit) as stop:
        run(workspace, scans, tmp_path / "out", "-f", "fold0")
    assert stop.value.code not in (0, None)
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert "aempty: none of 4 atlas(es) could be aligned to it" in said.err + said.out
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    written = sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz"))
    assert len(written) == 2 and not any(name.startswith("aempty") for name in written)
    assert "aempty" in json.dumps(record)


def test_registration_tells_where_it_may_be_wrong(workspace: Path, tmp_path: Path) -> None:
    scan = sorted((workspace / "raw" / NAME / "imagesTr").iterdir())[0]
    run(workspace, scan, tmp_path, "-f", "fold0", "--save-uncertainty")
    (errors,) = (tmp_path / "uncertainty").iterdir()
    values = np.asarray(nib.load(errors).dataobj)
    assert values.min() >= 0 and 0.1 < values.max() < 1
