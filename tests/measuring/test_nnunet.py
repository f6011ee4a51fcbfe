"""nnU-Net beside ours: its cases, its learning rate over time, its environment's commands, and the rows kept."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import nnunet, tables
from benchmarks.commands import CommandFailed
from benchmarks.nnunet_environment import VERSION, call, installed, installing, site_packages
from benchmarks.nnunet_trainer import SECONDS, THREADS, learning_rate
from benchmarks.protocols import Prepared
from benchmarks.record import read_rows
from diffatlas_pipeline.datasets.splits import Split, make_splits, write_splits
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError
from tests.planning.raw_data import change_description, write_dataset

CASES = ("case00", "case01", "case02", "case03")


# -------------------------------------------------------------------------------------------------------------- trainer
def test_the_learning_rate_decays_over_the_time_to_zero() -> None:
    assert learning_rate(0.01, 0, 600) == 0.01
    assert learning_rate(0.01, 300, 600) == pytest.approx(0.01 * 0.5**0.9) == pytest.approx(learning_rate(0.01, 30, 60))
    rates = [learning_rate(0.01, second, 600) for second in range(601)]
    assert rates == sorted(set(rates), reverse=True) and rates[-1] == 0
    assert learning_rate(0.01, 700, 600) == 0, "the last iteration may begin late"


# ---------------------------------------------------------------------------------------------------------------- cases
@pytest.fixture
def places(tmp_path: Path) -> Workspace:
    """Two data sets of four balls, the first one planned; without test cases, fold0 holds out."""
    places = Workspace(tmp_path / "raw", tmp_path / "preprocessed", tmp_path / "results")
    for name in ("Dataset007_Balls", "Dataset008_Others"):
        folder = write_dataset(places.raw, cases=4, name=name, shape=(8, 8, 8))
        change_description(folder, labels={"background": 0, "large": 1, "small": 2})
    (places.preprocessed / "Dataset007_Balls").mkdir(parents=True)
    write_splits(places.preprocessed / "Dataset007_Balls" / "splits.json", make_splits(CASES))
    return places


def test_it_trains_and_tests_on_the_cases_of_our_benchmark(places: Workspace) -> None:
    texts = ["full", "2-shot", "zero-shot:8", "zero-shot-unadapted:8"]
    settings, splits = nnunet.cases_of(Prepared(7), texts, places)
    assert [one.text for one in settings] == ["full", "2-shot", "zero-shot-unadapted:Dataset008_Others"], "it adapts nothing"
    assert [one.pools[0].split for one in settings] == ["fold0", "2-shot", "fold0"]
    (fold,) = nnunet.as_fold(splits["fold0"])
    assert sorted([*fold["train"], *settings[0].test.names]) == [*CASES] and set(settings[0].test.names) == {*fold["val"]}
    assert settings[2].test.names == CASES and settings[2].test.dataset == "Dataset008_Others"


def test_with_test_cases_all_the_others_train(places: Workspace) -> None:
    folder = places.raw / "Dataset007_Balls"
    for kind, ending in (("images", "_0000.nii.gz"), ("labels", ".nii.gz")):
        (folder / f"{kind}Ts").mkdir()
        shutil.copy(folder / f"{kind}Tr" / f"case00{ending}", folder / f"{kind}Ts" / f"test{ending}")
    (setting,), splits = nnunet.cases_of(Prepared(7), ["full"], places)
    assert setting.test.names == ("test",)
    assert nnunet.as_fold(splits[setting.pools[0].split]) == [{"train": [*CASES], "val": ["case00"]}]


def test_the_protocol_s_own_splits_come_first(places: Workspace, tmp_path: Path) -> None:
    write_splits(tmp_path / "own.json", {"2-shot": Split(("case03",), ("case01",))})
    prepared = Prepared(7, ("--splits-file", str(tmp_path / "own.json")))
    _, splits = nnunet.cases_of(replace(prepared), ["full"], places)
    assert nnunet.as_fold(splits["2-shot"]) == [{"train": ["case03"], "val": ["case01"]}]


def test_what_nnunet_cannot_read_is_said_before_it_starts(places: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    change_description(places.raw / "Dataset007_Balls", labels={"background": 0, "large": 3, "small": 7})
    with pytest.raises(UserError, match=r"labels \[3, 7\], but nnU-Net takes 1, 2, ... without a gap"):
        nnunet.cases_of(Prepared(7), ["full"], places)
    mistakes = {"not a duration": ["--max-time", "soon"], "no Task04_Hippocampus/dataset.json there": ["--data", "nowhere"]}
    for said, words in mistakes.items():
        with pytest.raises(SystemExit) as stop:
            nnunet.main(["hippocampus", *words])
        assert stop.value.code == 2 and said in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- environment
def test_it_is_installed_apart_from_ours_with_our_torch(tmp_path: Path) -> None:
    install, remove = installing(tmp_path)
    assert install[0].startswith(str(tmp_path)) and f"nnunetv2=={VERSION}" in install
    assert install[install.index("-c") + 1] == str(tmp_path / "constraints.txt")
    assert remove[0] == install[0] and remove[-3:] == ["uninstall", "-y", "torchvision"]
    assert f"torch=={torch.__version__}" in installed() and not [line for line in installed() if "diffatlas" in line]
    assert (site_packages() / "torch" / "__init__.py").is_file()


def test_its_commands_are_told_folders_time_and_threads(tmp_path: Path) -> None:
    theirs = nnunet.NnUnet(tmp_path / "nnunet", tmp_path / "raw", "cpu", 60.0)
    variables = theirs.variables(tmp_path / "trained")
    assert variables["nnUNet_raw"] == str(tmp_path / "raw") and variables["nnUNet_results"] == str(tmp_path / "trained")
    assert variables[SECONDS] == "60.0" and variables[THREADS] == str(torch.get_num_threads())
    assert 1 <= int(variables["nnUNet_n_proc_DA"]) <= 12


def test_a_command_that_fails_ends_the_benchmark_with_its_code() -> None:
    with pytest.raises(CommandFailed) as failed:
        call([sys.executable, "-c", "raise SystemExit(3)"])
    assert failed.value.code == 3


def test_seconds_per_case_leave_out_the_start() -> None:
    assert nnunet.seconds_per_case(0.0, [30.0, 20.0, 24.0]) == 5.0
    assert nnunet.seconds_per_case(10.0, [30.0]) == 20.0, "a single case has its start"
    with pytest.raises(UserError, match="predicted no case"):
        nnunet.seconds_per_case(0.0, [])


# ----------------------------------------------------------------------------------------------------------------- rows
def row(method: str, dice: float, **changes: object) -> dict[str, object]:
    key = {"protocol": "heart-ct", "setting": "full", "method": method, "minutes": 10.0, "device": "cpu"}
    scores = {"dice": dice, "nsd": 0.5, "iterations": 80, "seconds_per_iteration": 7.5, "seconds_per_case": 8.0}
    return key | scores | {"peak_gb": 1.4, "accelerator": "", "date": "2026-01-01"} | changes


def test_rows_are_replaced_by_their_key_and_unchanged_ones_stay(tmp_path: Path) -> None:
    file = tmp_path / "nnunet.csv"
    nnunet.keep([row("nnunet", 0.5), row("icf", 0.8), row("rba", 0.9, iterations=None)], file)
    nnunet.keep([row("nnunet", 0.5, minutes=20.0)], file)
    again = [row("nnunet", 0.5), row("icf", 0.81), row("rba", 0.9, iterations=None)]
    nnunet.keep([one | {"date": "2026-02-02"} for one in again], file)
    rows = read_rows(file)
    assert rows[["method", "minutes", "dice"]].to_numpy().tolist() == [
        ["nnunet", 10, 0.5],
        ["icf", 10, 0.81],
        ["rba", 10, 0.9],
        ["nnunet", 20, 0.5],
    ]
    assert rows["date"].tolist() == ["2026-01-01", "2026-02-02", "2026-01-01", "2026-01-01"]


def test_our_rows_are_those_of_our_benchmark_s_table(tmp_path: Path) -> None:
    table = {"setting": "full", "method": ["icf", "rba", "icmd"], "recipe": ["default", "staple", "default"]}
    table |= {"seeds": [1, 1, 0], "dice_average": 0.8123456789, "nsd_average": 0.9, "seconds_per_case": 0.25}
    pd.DataFrame(table | {"iterations": [600, None, None], "train_seconds": [603.0, 0, 0]}).to_csv(tmp_path / "table.csv")
    icf, rba = nnunet.our_rows(tmp_path / "table.csv")
    assert (icf["method"], rba["method"]) == ("icf", "rba:staple"), "what has not been run is no row"
    assert icf["dice"] == 0.812346 and icf["iterations"] == 600 and icf["seconds_per_iteration"] == 1.005
    assert "iterations" not in rba and icf["torch"] == torch.__version__


def test_the_table_sets_them_beside_each_other(tmp_path: Path) -> None:
    mri = "Dataset012_HeartPhantomMRI"
    adapted = [row("icf", 0.7, setting=f"zero-shot:{mri}", peak_gb=None)]
    unadapted = [row(method, dice, setting=f"zero-shot-unadapted:{mri}") for method, dice in (("icf", 0.3), ("nnunet", 0.31))]
    nnunet.keep([row("nnunet", 0.4), row("icf", 0.8), *adapted, *unadapted], tmp_path / "nnunet.csv")
    lines = tables.table_of("nnunet", tmp_path).splitlines()[2:]
    assert lines == [
        "| heart-ct | full | `icf` | 10 | cpu | **0.800 (0.500)** | 80 | 7.50 | 8.0 | 1.4 |",
        "| heart-ct | full | `nnunet` | 10 | cpu | 0.400 (0.500) | 80 | 7.50 | 8.0 | 1.4 |",
        "| heart-ct | on HeartPhantomMRI, adapted | `icf` | 10 | cpu | **0.700 (0.500)** | 80 | 7.50 | 8.0 |  |",
        "| heart-ct | on HeartPhantomMRI, as it is | `nnunet` | 10 | cpu | **0.310 (0.500)** | 80 | 7.50 | 8.0 | 1.4 |",
        "| heart-ct | on HeartPhantomMRI, as it is | `icf` | 10 | cpu | 0.300 (0.500) | 80 | 7.50 | 8.0 | 1.4 |",
    ]
