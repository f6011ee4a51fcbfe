"""Scans as a model makes them, through the real commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline import UserError, load_model
from diffatlas_pipeline.api.model import Model
from diffatlas_pipeline.commands import plan_and_preprocess, predict, train
from diffatlas_pipeline.volumes.io import read_grid, read_volume
from tests.planning.raw_data import write_dataset

FOLDERS = ("reconstruction", "residual")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Balls in two channels, planned, and short trainings of the joint model and of feed-forward segmentation."""
    place = tmp_path_factory.mktemp("workspace")
    write_dataset(place / "raw", cases=4, channels=("CT", "MRI"))
    shared = ["--workspace", str(place), "--device", "cpu"]
    plan_and_preprocess.main(["-d", "7", "--workers", "1", *shared])
    for method in ("diffatlas", "icf"):
        made = ["--method", method, "--iterations", "4", "--workers", "0", "--precision", "float32", "--no-validation"]
        train.main(["7", "fold0", *made, *shared])
    return place


def scans(workspace: Path) -> Path:
    return workspace / "raw" / "Dataset007_Balls" / "imagesTr"


def predicted(workspace: Path, out: Path, *options: str, method: str = "diffatlas") -> Path:
    model = ["-d", "7", "--method", method, "--workspace", str(workspace), "--device", "cpu", "--precision", "float32"]
    predict.main(["-i", str(scans(workspace)), "-o", str(out), "--save-reconstruction", *model, *options])
    return out


def loaded(workspace: Path, method: str) -> Model:
    return load_model(workspace / "results" / "Dataset007_Balls" / f"{method}__default", "cpu", precision="float32")


def array(path: Path) -> np.ndarray:
    return read_volume([path]).array[0]


def test_a_scan_is_its_reconstruction_and_what_is_left(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = predicted(workspace, tmp_path / "out")
    assert "reconstruct " in capsys.readouterr().out, "the time that it takes"
    for source in sorted(scans(workspace).iterdir()):
        made, left = (out / folder / source.name for folder in FOLDERS)
        np.testing.assert_allclose(read_grid(made).matrix, read_grid(source).matrix, atol=1e-5)
        scan, both = array(source), array(made) + array(left)
        assert both.shape == scan.shape and np.isfinite(both).all()
        ends = (both.min(), both.max()) if source.name.endswith("_0000.nii.gz") else np.percentile(scan, (0.5, 99.5))
        assert np.corrcoef(both.ravel(), np.clip(scan, *ends).ravel())[0, 1] > 0.95, "cut off at the plan's bounds"
    assert len(list((out / "residual").iterdir())) == 8
    model = loaded(workspace, "diffatlas")
    paths = [scans(workspace) / f"case00_000{c}.nii.gz" for c in (0, 1)]
    found = model.segment(paths)
    for c, name in enumerate(("CT", "MRI")):
        for folder, maps in zip(FOLDERS, (found.reconstruction, found.residual), strict=True):
            np.testing.assert_allclose(maps[name], array(out / folder / paths[c].name), atol=1e-3)


def test_only_channels_that_are_there_are_reconstructed(workspace: Path, tmp_path: Path) -> None:
    model = loaded(workspace, "diffatlas")
    found = model.segment([None, scans(workspace) / "case00_0001.nii.gz"])
    assert list(found.reconstruction) == list(found.residual) == ["MRI"]
    assert np.isfinite(found.reconstruction["MRI"]).all()


def test_it_is_refused_where_it_would_mean_nothing(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*options: str, method: str = "diffatlas") -> str:
        with pytest.raises(SystemExit) as stopped:
            predicted(workspace, tmp_path / "never", *options, method=method)
        assert stopped.value.code == 2 and not (tmp_path / "never" / "case00.nii.gz").exists()
        return capsys.readouterr().err

    assert "--save-reconstruction: a model of icf learns no images" in refused(method="icf")
    assert "--adapt-contrast" in refused("--adapt-contrast", "curve")
    model = loaded(workspace, "icf")
    found = model.segment([scans(workspace) / f"case00_000{c}.nii.gz" for c in (0, 1)])
    with pytest.raises(UserError, match="learns no images"):
        _ = found.reconstruction
