from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import costs, speed, tables
from benchmarks.authors_network import STATED_FLOPS, STATED_PARAMETERS, AuthorsNetwork
from benchmarks.costs import Counts, Stopwatch, Subject
from diffatlas_pipeline.networks.memory import training_bytes
from diffatlas_pipeline.planning.recipes import default_recipes

CPU, GPU = "planned for a CPU", "planned for an 8 GB GPU"


@pytest.fixture(scope="module")
def counts() -> dict[Subject, Counts]:
    return {subject: costs.count(subject) for subject in speed.subjects()}


def at_64(counts: dict[Subject, Counts], name: str) -> Subject:
    (subject,) = [one for one in counts if one.name == name and one.volume == (64, 64, 64) and one.channels == 6]
    return subject


def test_the_authors_shape_has_the_size_that_they_state(counts: dict[Subject, Counts]) -> None:
    counted = counts[at_64(counts, speed.AUTHORS)]
    assert counted.parameters == pytest.approx(STATED_PARAMETERS, rel=0.1)
    assert counted.forward_flops == pytest.approx(STATED_FLOPS, rel=0.1)


def test_the_authors_shape_runs() -> None:
    network = AuthorsNetwork(6, base=8)
    level = torch.tensor([0.3, 0.7])
    state = torch.randn(2, 6, 3, 16, 8)
    with torch.no_grad():
        found = network(state, level, level)
        # Convolutions stay within slices, but attention reaches across them.
        state[:, :, 0] += 1
        changed = network(state, level, level)
    assert found.shape == state.shape and found.isfinite().all()
    assert not torch.allclose(found[:, :, 2], changed[:, :, 2])


@pytest.mark.parametrize(("name", "times"), [(CPU, 500), (GPU, 50)])
def test_a_case_needs_far_fewer_flops_than_in_the_authors_setting(counts: dict[Subject, Counts], name: str, times: int) -> None:
    assert speed.CLAIMS[name] == times
    subject = at_64(counts, name)
    assert subject.steps == default_recipes()[0].steps > 0
    ratio = speed.flops_ratio(subject, counts)
    assert ratio is not None and ratio >= times


class Pointwise(torch.nn.Module):
    """A network whose FLOPs are known by hand: one product of 6 x 6 per voxel."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv3d(6, 6, 1)

    def forward(self, state: torch.Tensor, *levels: torch.Tensor) -> torch.Tensor:
        return self.layer(state)


class PointwiseSubject(Subject):
    def build(self) -> torch.nn.Module:
        return Pointwise()


def test_flops_are_counted_as_two_per_multiply_add() -> None:
    counted = costs.count(PointwiseSubject("pointwise", None, 6, (64, 64, 64), (32, 64, 64), 2, 4))
    forward = 2 * 6 * 6 * 32 * 64 * 64
    assert counted.forward_flops == forward
    assert counted.training_flops == 2 * 2 * forward  # of two samples; no gradient of the input, as in real training
    assert counted.parameters == 42


def test_a_case_of_several_windows_costs_all_of_them(counts: dict[Subject, Counts]) -> None:
    subject = at_64(counts, CPU)
    assert subject.windows == 1
    halves = replace(subject, patch=(32, 64, 64))
    assert halves.windows == 3  # half a window of overlap
    made = speed.row(halves, {**counts, halves: counts[subject]}, None, None)
    assert made["forwards_per_case"] == 3 * subject.steps
    assert made["flops_ratio"] == pytest.approx(speed.flops_ratio(subject, counts) / 3)  # type: ignore[operator]


def test_no_ratio_on_another_input(counts: dict[Subject, Counts]) -> None:
    others = [subject for subject in counts if subject.volume != (64, 64, 64)]
    assert len(others) == 2 and all(speed.flops_ratio(subject, counts) is None for subject in others)


def test_training_memory_is_counted_as_the_planner_counts_it(counts: dict[Subject, Counts]) -> None:
    for subject in counts:
        if subject.plan is not None:
            planned = training_bytes(subject.plan, subject.channels, subject.patch, subject.batch)
            assert counts[subject].training_bytes == pytest.approx(planned, rel=0.1)


def test_a_failed_claim_is_reported(counts: dict[Subject, Counts], capsys: pytest.CaptureFixture[str]) -> None:
    rows = [speed.row(subject, counts, None, None) for subject in counts]
    assert speed.report_claims(rows)
    for one in rows:
        if one["network"] == CPU and one["flops_ratio"]:
            one["flops_ratio"] = 499.0
    assert not speed.report_claims(rows)
    assert "499 times, FAILS" in capsys.readouterr().out


def test_times_are_interleaved_and_summarised(counts: dict[Subject, Counts], tmp_path: Path) -> None:
    """The CPU's network on a small window really runs; its row and both files are written and read back."""
    small = replace(at_64(counts, CPU), volume=(16, 16, 16), patch=(16, 16, 16))
    counted = {**counts, small: costs.count(small)}
    times = speed.measure([small], counted, torch.device("cpu"), repeats=3)
    assert len(times[small].sampling) == len(times[small].training) == 3
    assert all(value > 0 for value in (*times[small].sampling, *times[small].training))
    made = speed.row(small, counted, times[small], {"peak_sampling_gb": 0.5})
    assert made["sampling_ms_low"] <= made["sampling_ms"] <= made["sampling_ms_high"]
    assert made["case_s"] == pytest.approx(small.steps * made["sampling_ms"] / 1000)
    compared = [small, at_64(counts, speed.AUTHORS)]
    rows = [made, speed.row(compared[1], counted, None, None)]
    csv, described = speed.write(pd.DataFrame(rows), compared, "cpu", tmp_path / "results" / "speed.csv")
    text = tables.table_of("speed", csv.parent)
    assert text.count("\n") == 3 and "16 x 16 x 16, 6 ch" in text and "1,050" in text
    content = json.loads(described.read_text())
    assert content["machine"]["device"] == "cpu" and content["machine"]["torch"] and "meta device" in content["flops"]
    assert [one["network"] for one in content["rows"]] == [CPU, speed.AUTHORS]


def test_a_stopwatch_trains(counts: dict[Subject, Counts]) -> None:
    small = replace(at_64(counts, CPU), volume=(16, 16, 16), patch=(16, 16, 16))
    watch = Stopwatch(small, torch.device("cpu"), "float32")
    before = [parameter.detach().clone() for parameter in watch.network.parameters()]
    assert watch.training_ms() > 0 and watch.precision(True) == "float32"
    assert any(not torch.equal(a, b) for a, b in zip(before, watch.network.parameters(), strict=True))


def test_a_training_step_too_large_for_the_machine_is_not_timed(counts: dict[Subject, Counts]) -> None:
    counted = counts[at_64(counts, CPU)]
    assert speed.fits(counted, torch.device("cpu"))
    assert not speed.fits(replace(counted, training_bytes=10**15), torch.device("cpu"))


def test_options() -> None:
    quick = speed.parser().parse_args(["--quick"])
    timed = [(one.name, one.volume) for one in speed.subjects() if speed.is_timed(one, quick)]
    assert {name for name, _ in timed} == {CPU} and len(timed) == 2
    everything = speed.parser().parse_args(["--time-authors"])
    assert all(speed.is_timed(one, everything) for one in speed.subjects())
    with pytest.raises(SystemExit) as stopped:
        speed.main(["--repeats", "0"])
    assert stopped.value.code == 2
    with pytest.raises(SystemExit) as stopped:
        speed.main(["--device", "abacus"])
    assert stopped.value.code == 2
