"""Commands whose work the workers of a cluster do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.phantom import write_phantom_dataset
from diffatlas_pipeline.api.preparation import plan_and_preprocess
from diffatlas_pipeline.commands import _cluster, benchmark, train
from diffatlas_pipeline.commands import plan_and_preprocess as command
from diffatlas_pipeline.volumes.io import read_volume, write_scalars
from tests.commands.test_predict import GRID, failing, predict, train_one
from tests.dask_cluster import Dask
from tests.planning.raw_data import write_dataset

pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    made = Dask(tmp_path_factory.mktemp("dask"))
    made.add_worker()
    made.add_worker()
    made.wait_for_workers()
    yield made
    made.close()


def test_a_prediction_in_parts_is_that_of_one_machine(
    dask: Dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_cluster, "PARTS_PER_SLOT", 1)
    monkeypatch.setenv("DIFFATLAS_WORKSPACE", str(tmp_path / "workspace"))
    train_one(tmp_path / "workspace", "Dataset001_A")
    for seed, name in enumerate("abcde"):
        write_scalars(
            tmp_path / "in" / f"{name}.nii.gz", np.random.default_rng(seed).random(GRID.shape).astype(np.float32), GRID
        )
    (tmp_path / "in" / "bad.nii.gz").write_bytes(b"no scan" * 100)
    failing_here = failing(tmp_path, capsys, "-o", str(tmp_path / "here"), code=1)
    assert "bad" in failing_here
    found = failing(tmp_path, capsys, "--scheduler", str(dask.file), code=1)
    assert "bad" in found and "Traceback" not in found
    record = json.loads((tmp_path / "out" / "prediction.json").read_text(encoding="utf-8"))
    statuses = {case: entry["status"] for case, entry in record["cases"].items()}
    assert statuses == {**dict.fromkeys("abcde", "segmented"), "bad": "failed"}
    for name in "abcde":
        one, other = (read_volume([tmp_path / side / f"{name}.nii.gz"]).array for side in ("here", "out"))
        np.testing.assert_array_equal(one, other)
    (tmp_path / "in" / "bad.nii.gz").unlink()
    capsys.readouterr()
    predict(tmp_path, "--scheduler", str(dask.file))
    assert "0 segmentation(s) written in 2 parts" in capsys.readouterr().out, "all were there"


def test_the_cells_of_a_benchmark(
    dask: Dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its workers plan, train, segment and score; a failure costs its own cell, and is tried again."""
    monkeypatch.setenv("DIFFATLAS_WORKSPACE", str(tmp_path))
    write_phantom_dataset(tmp_path / "raw", 1, training_cases=3, test_cases=1, size=(16,))
    folder = tmp_path / "benchmarks" / "Dataset001_HeartPhantomCT_1s"
    blocked = folder / "cells" / "2-shot" / "mean__default__seed0" / "predictions"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way of a folder")
    words = ["-d", "1", "--methods", "mean", "--settings", "2-shot", "--max-time", "1s"]
    words += ["--device", "cpu", "--scheduler", str(dask.file)]
    with pytest.raises(SystemExit):
        benchmark.main(words)
    said = capsys.readouterr()
    assert "mean, seed 0: FAILED: DiffAtlas_predict" in said.out and "Traceback" not in said.out + said.err
    blocked.unlink()
    benchmark.main(words)
    assert "1 cells; 0 model(s) to make" in capsys.readouterr().out
    (cell,) = json.loads((folder / "benchmark.json").read_text(encoding="utf-8"))["cells"]
    log = (folder / cell["log"]).read_text(encoding="utf-8")
    assert cell["status"] == "done" and "$ DiffAtlas_predict" in log and "$ DiffAtlas_train" not in log


def test_preprocessing_and_all_folds(dask: Dask, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for side in ("here", "cluster"):
        write_dataset(tmp_path / side / "raw", cases=4)
    plan_and_preprocess(7, workspace=tmp_path / "here", device="cpu", workers=1)
    words = ["-d", "7", "--workspace", str(tmp_path / "cluster"), "--device", "cpu", "--scheduler", str(dask.file)]
    command.main(words)
    one, other = (tmp_path / side / "preprocessed" / "Dataset007_Balls" for side in ("here", "cluster"))
    names = sorted(path.name for path in (one / "cases").iterdir())
    assert names and names == sorted(path.name for path in (other / "cases").iterdir())
    assert (one / "plans.json").read_bytes() == (other / "plans.json").read_bytes()
    folds = {name: {"train": ["case00", "case01"], "validation": ["case02"]} for name in ("fold0", "fold1")}
    (tmp_path / "two.json").write_text(json.dumps(folds), encoding="utf-8")
    words = ["7", "all-folds", "--iterations", "2", "--no-validation", "--splits-file", str(tmp_path / "two.json")]
    words += ["--workers", "0", "--precision", "float32"]
    words += ["--device", "cpu", "--workspace", str(tmp_path / "cluster"), "--scheduler", str(dask.file)]
    capsys.readouterr()
    train.main(words)
    assert "it averages all folds" in capsys.readouterr().out
    model = tmp_path / "cluster" / "results" / "Dataset007_Balls" / "diffatlas__default"
    assert sorted(path.parent.name for path in model.glob("*/checkpoint_final.safetensors")) == ["fold0", "fold1"]
    with pytest.raises(SystemExit) as stop:
        train.main(["7", "fold0", *words[2:]])
    assert stop.value.code == 2 and "give all-folds instead of fold0" in capsys.readouterr().err
