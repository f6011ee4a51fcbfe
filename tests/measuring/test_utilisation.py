"""Where a training step's time goes: a real run on the plan of a tiny data set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import utilisation
from benchmarks.feature_tables import utilisation_table
from benchmarks.record import read_rows
from diffatlas_pipeline.api.preparation import plan_and_preprocess
from diffatlas_pipeline.files import to_json
from tests.model_files import plan
from tests.planning.raw_data import write_dataset


@pytest.fixture
def planned(tmp_path: Path) -> Path:
    folder = tmp_path / "Dataset001_Tiny"
    folder.mkdir()
    (folder / "plans.json").write_text(to_json(plan()), encoding="utf-8")
    return folder


def test_a_row_of_each_precision_tells_all_parts(planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "utilisation.csv"
    precisions = ["float32", "bfloat16"]
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    utilisation.main(
        ["--preprocessed", str(planned), "--precision", *precisions, "--busy", "1", "--repeats", "1", "--results", str(results)]
    )
    rows = read_rows(results).to_dict("records")
    assert [row["precision"] for row in rows] == precisions
    for row in rows:
        assert row["dataset"] == "Dataset001_Tiny" and row["device"] == "cpu"
        assert all(row[f"{name}_ms"] > 0 for name in ("product", "convolutions", "network", "loss", "step"))
        assert row["peak_gflops"] > 0 and row["convolutions_gflops"] > 0
    assert (
        utilisation_table(read_rows(results))
        .splitlines()[-2]
        .startswith("| `Dataset001_Tiny`, float32, beside 1 busy, `GOMP_SPINCOUNT=7` | 1 |")
    )


@pytest.mark.slow
def test_a_training_tells_how_long_it_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "raw")
    stored = plan_and_preprocess(7, workspace=tmp_path, device="cpu", workers=1)
    results = tmp_path / "utilisation.csv"
    utilisation.main(["--preprocessed", str(stored), "--repeats", "1", "--train-for", "2s", "--results", str(results)])
    (row,) = read_rows(results).to_dict("records")
    assert row["train_for"] == "2s" and 0 <= row["waiting_share"] < 1
    assert utilisation_table(read_rows(results)).endswith(f"| {100 * row['waiting_share']:.1f} % |")
    assert not (tmp_path / "results").exists()


def test_the_rows_shown_reach_half_of_what_convolutions_alone_do() -> None:
    rows = read_rows(utilisation.RESULTS / "utilisation.csv")
    rows = rows[rows["busy"].fillna(0) == 0] if "busy" in rows else rows
    assert len(rows) >= 2 and (rows["convolutions_ms"] >= 0.5 * rows["step_ms"]).all()
    assert (rows["waiting_share"].dropna() < 0.05).all()


def test_the_convolutions_are_those_of_the_network(planned: Path) -> None:
    """Alone they give the gradients of a loss that is the sum of their outputs, of each weight of each of them."""
    step = utilisation.Step(planned, torch.device("cpu"), "float32")
    convolutions = [one for one in step.network.modules() if utilisation.is_convolution(one)]
    assert {layer for layer, _, _ in step.layers} == {*convolutions} and len(step.layers) == len(convolutions)
    step.network.zero_grad()
    step.convolutions()
    assert all(parameter.grad is not None for one in convolutions for parameter in one.parameters())
    others = {*step.network.parameters()} - {one for layer in convolutions for one in layer.parameters()}
    assert others and all(parameter.grad is None for parameter in others)
