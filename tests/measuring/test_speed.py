"""What the planned networks cost: counts by hand, and the smallest one really timed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import speed, tables
from benchmarks.record import read_rows
from benchmarks.speed import CPU, CUBE, GPU, Stopwatch, Subject
from diffatlas_pipeline.methods.joint_recipe import DEFAULT


@pytest.fixture(scope="module")
def subjects() -> list[Subject]:
    return speed.subjects()


def at_64(subjects: list[Subject], name: str) -> Subject:
    (subject,) = [one for one in subjects if one.name == name and one.volume == CUBE]
    return subject


@pytest.fixture(scope="module")
def small(subjects: list[Subject]) -> Subject:
    return replace(at_64(subjects, CPU), volume=(16, 16, 16), patch=(16, 16, 16))


@pytest.mark.parametrize(("name", "times"), [(CPU, 500), (GPU, 50)])
def test_a_case_needs_far_fewer_flops_than_in_the_authors_setting(subjects: list[Subject], name: str, times: int) -> None:
    row = speed.row(at_64(subjects, name), None, None)
    assert row["forwards_per_case"] == DEFAULT.sampler.steps > 0
    assert row["flops_ratio"] >= times == speed.CLAIMS[name]
    shown = read_rows(tables.RESULTS / "speed.csv").set_index(["network", "input"])
    assert row["forward_gflop"] == pytest.approx(shown.loc[(name, "64 x 64 x 64"), "forward_gflop"], rel=1e-2)


class Pointwise(torch.nn.Module):
    """A network whose FLOPs are known by hand: one product of 6 x 6 per voxel."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv3d(6, 6, 1)

    def forward(self, x: torch.Tensor, image_level: torch.Tensor, mask_level: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class PointwiseSubject(Subject):
    def build(self) -> torch.nn.Module:
        return Pointwise()


def test_flops_are_counted_as_two_per_multiply_add(small: Subject) -> None:
    pointwise = PointwiseSubject("pointwise", small.plan, 6, CUBE, (32, 64, 64), 2)
    assert speed.forward_flops(pointwise) == (2 * 6 * 6 * 32 * 64 * 64, 42)


def test_a_case_of_several_windows_costs_all_of_them(subjects: list[Subject]) -> None:
    whole = at_64(subjects, CPU)
    assert replace(whole, patch=(32, 64, 64)).forwards == 3 * whole.forwards  # half a window of overlap


def test_no_ratio_on_another_input(subjects: list[Subject]) -> None:
    (other,) = [subject for subject in subjects if subject.volume != CUBE]
    assert other.batch > 1 and speed.row(other, None, None)["flops_ratio"] is None


def test_a_failed_claim_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"network": CPU, "flops_ratio": 501.0}, {"network": GPU, "flops_ratio": 50.0}]
    assert speed.report_claims(rows)
    assert not speed.report_claims([{**rows[0], "flops_ratio": 499.0}, rows[1]])
    assert "499 times, FAILS" in capsys.readouterr().out


def test_steps_are_timed_and_training_changes_the_weights(small: Subject) -> None:
    sampling, training = speed.measure([small], torch.device("cpu"), repeats=3)[small]
    assert len(sampling) == len(training) == 3 and all(value > 0 for value in (*sampling, *training))
    made = speed.row(small, (sampling, training), 0.5)
    assert made["sampling_ms_low"] <= made["sampling_ms"] <= made["sampling_ms_high"]
    watch = Stopwatch(small, torch.device("cpu"), "float32")
    before = [parameter.detach().clone() for parameter in watch.network.parameters()]
    watch.training_ms()
    assert any(not torch.equal(a, b) for a, b in zip(before, watch.network.parameters(), strict=True))


def test_a_tiny_run_writes_the_table(small: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole command on one network with a small window; the claims are about 64^3 and left out."""
    monkeypatch.setattr(speed, "subjects", lambda: [small])
    monkeypatch.setattr(speed, "CLAIMS", {})
    speed.main(["--repeats", "1", "--results", str(tmp_path / "speed.csv")])
    table = read_rows(tmp_path / "speed.csv")
    assert table["network"].tolist() == [CPU, speed.AUTHORS] and table["commit"].notna().all()
    assert 0.1 < table["peak_training_gb"].iloc[0] < 8
    assert "16 x 16 x 16, 6 channels" in tables.table_of("speed", tmp_path)


@pytest.mark.parametrize("words", [["--repeats", "0"], ["--device", "abacus"]])
def test_wrong_options(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        speed.main(words)
    assert stopped.value.code == 2
