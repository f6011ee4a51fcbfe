from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from benchmarks import hippocampus
from benchmarks.hippocampus import Places
from benchmarks.record import append_row
from diffatlas_pipeline.datasets.splits import load_splits
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.evaluate import evaluate_folders
from diffatlas_pipeline.files import to_json
from tests.benchmarks.small_task import write_task
from tests.factories import make_plan


def arguments(tmp_path: Path, *more: str):  # type: ignore[no-untyped-def]
    return hippocampus.parser().parse_args(
        ["--data", str(tmp_path / "task"), "--workspace", str(tmp_path / "ws"), "--results", str(tmp_path / "r.csv"), *more]
    )


# ------------------------------------------------------------------------------------------------------------- protocol
def test_few_shot_split_never_touches_other_settings_or_the_test(tmp_path: Path) -> None:
    protocol = hippocampus.read_protocol(write_task(tmp_path))
    split = hippocampus.few_shot_split(protocol, "2-shot")
    assert split["train"] == protocol["2-shot"]
    assert split["validation"] == ["ball_003", "ball_004", "ball_005"]
    for setting in ("4-shot", "8-shot", "16-shot"):
        assert hippocampus.few_shot_split(protocol, setting)["validation"] == split["validation"]


def test_at_most_sixteen_validation_cases_always_the_same() -> None:
    full = [f"case_{index:03d}" for index in range(160)]
    protocol = {"test": ["other"], "full": full, **{f"{k}-shot": full[:k] for k in (2, 4, 8, 16)}}
    chosen = hippocampus.few_shot_split(protocol, "8-shot")["validation"]
    assert len(set(chosen)) == 16 and not set(chosen) & set(full[:16])
    assert chosen == hippocampus.few_shot_split(protocol, "2-shot")["validation"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"2-shot": ["ball_000", "ball_007"]}, "'2-shot' names ball_007, which is a test case"),
        ({"full": ["ball_000"]}, "not in 'full'"),
        ({"test": None}, "not a protocol"),
    ],
)
def test_a_protocol_that_mixes_training_and_test_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    path = write_task(tmp_path) / "protocol.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        hippocampus.read_protocol(tmp_path)


def test_the_splits_file_is_what_training_reads(tmp_path: Path) -> None:
    protocol = hippocampus.read_protocol(write_task(tmp_path / "task"))
    places = Places.of(arguments(tmp_path, "--setting", "4-shot"))
    hippocampus.write_splits(places, protocol, "4-shot")
    splits = load_splits(places.splits_file, protocol["full"])
    assert set(splits) == {"4-shot"} and splits["4-shot"].train == ("ball_000", "ball_001", "ball_002")


@pytest.mark.real_data
def test_the_real_protocol_is_sound(real_protocol: dict[str, list[str]]) -> None:
    assert len(real_protocol["full"]) == 160 and len(real_protocol["test"]) == 40
    split = hippocampus.few_shot_split(real_protocol, "2-shot")
    assert len(split["train"]) == 2 and len(split["validation"]) == 16
    assert not set(split["validation"]) & {*real_protocol["test"], *real_protocol["16-shot"]}


@pytest.fixture
def real_protocol() -> dict[str, list[str]]:
    data = hippocampus.parser().parse_args([]).data
    if data is None:
        pytest.skip("DIFFATLAS_TEST_DATA is not set")
    return hippocampus.read_protocol(data)


# ------------------------------------------------------------------------------------------------------------- commands
def test_full_trains_on_everything_and_few_shot_on_its_own_split(tmp_path: Path) -> None:
    full, few = arguments(tmp_path), arguments(tmp_path, "--setting", "2-shot", "--recipe", "paper", "--max-time", "5m")
    commands = dict(hippocampus.preparation(full, Places.of(full)))
    assert list(commands) == ["convert", "plan_and_preprocess", "train"]
    assert commands["train"][:2] == ["4", "all"] and "--splits-file" not in commands["train"]
    convert = " ".join(commands["convert"])
    assert "protocol.json:full" in convert and "--test-from-json" in convert and "protocol.json:test" in convert
    train = dict(hippocampus.preparation(few, Places.of(few)))["train"]
    assert train[1] == "2-shot" and train[train.index("--splits-file") + 1] == str(Places.of(few).splits_file)
    assert train[train.index("--max-time") + 1] == "5m" and train[train.index("--recipe") + 1] == "paper"
    validated = arguments(tmp_path, "--validate")
    assert dict(hippocampus.preparation(validated, Places.of(validated)))["train"][1] == "fold0"


def test_sampling_options_reach_prediction_and_have_a_folder_of_their_own(tmp_path: Path) -> None:
    plain, changed = arguments(tmp_path), arguments(tmp_path, "--steps", "0", "--solver", "ddpm", "--guidance-level", "0.5")
    assert Places.of(plain).model == Places.of(changed).model
    assert Places.of(plain).predictions != Places.of(changed).predictions
    predict = dict(hippocampus.scoring(changed, Places.of(changed)))["predict"]
    for flag, value in (("--steps", "0"), ("--solver", "ddpm"), ("--guidance-level", "0.5"), ("-f", "all")):
        assert predict[predict.index(flag) + 1] == value
    assert not {"--steps", "--overwrite"} & set(dict(hippocampus.scoring(plain, Places.of(plain)))["predict"])


def test_the_recorded_command_repeats_the_run_and_names_no_folder(tmp_path: Path) -> None:
    made = arguments(tmp_path, "--setting", "8-shot", "--steps", "0", "--guidance-level", "0", "--seed", "3")
    line = hippocampus.command_line(made)
    assert str(tmp_path) not in line
    again = hippocampus.parser().parse_args(line.split()[3:])
    for name in ("setting", "recipe", "max_time", "seed", "validate", "steps", "solver", "guidance_level", "draws"):
        assert getattr(again, name) == getattr(made, name), name


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        hippocampus.main(["--data", str(tmp_path), "--workspace", str(tmp_path / "ws")])
    assert stopped.value.code == 2 and "no protocol.json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        hippocampus.main(["--setting", "3-shot"])


# ------------------------------------------------------------------------------------------------------------------ row
def write_run(tmp_path: Path, places: Places) -> None:
    """What the commands leave behind, as far as the row reads it; the evaluation is a real one."""
    places.fold.mkdir(parents=True)
    trained = {"recipe": "default", "seed": 0, "max_time_s": 1800.0, "training_cases": ["a", "b"], "versions": {"torch": "2"}}
    (places.fold / "checkpoint_final.json").write_text(json.dumps(trained))
    (places.fold / "log.csv").write_text("iteration,seconds\n100,60.5\n200,120.4\n")
    (places.model / "plans.json").write_text(to_json(make_plan()))
    references = tmp_path / "references"
    for folder in (references, places.predictions):
        folder.mkdir(parents=True, exist_ok=True)
    (references / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "one": 1, "two": 2}}))
    for case, shift in (("a", 0), ("b", 1)):
        labels = np.zeros((12, 12, 12), np.uint8)
        labels[2:6, 2:6, 2:6], labels[7:11, 7:11, 7:11] = 1, 2
        nib.save(nib.Nifti1Image(labels, np.eye(4)), references / f"{case}.nii.gz")
        nib.save(nib.Nifti1Image(np.roll(labels, shift, 0), np.eye(4)), places.predictions / f"{case}.nii.gz")
    evaluate_folders(places.predictions, references).write(places.predictions / "evaluation")
    settings = {"solver": "ddpm", "steps": 0, "guidance_level": 1.0, "draws": 1}
    cases = {
        "a": {"status": "segmented", "seconds": {"prepare": 0.25, "sample": 1.0}},
        "b": {"status": "segmented", "seconds": {"prepare": 0.25, "sample": 2.0}},
    }
    record = {"settings": settings, "cases": cases, "device": "cpu", "precision": "float32"}
    (places.predictions / "prediction.json").write_text(json.dumps(record))


def test_row(tmp_path: Path) -> None:
    made = arguments(tmp_path)
    places = Places.of(made)
    write_run(tmp_path, places)
    hippocampus.check_trained_as_asked(places, made)
    row = hippocampus.row(made, places)
    # A 4-voxel cube shifted by one voxel overlaps by 3/4: Dice 1 and 0.75.
    assert row["dice_one"] == row["dice_mean"] == 0.875
    assert row["dice_mean_std"] == pytest.approx(np.std([1, 0.75], ddof=1), abs=1e-4)
    assert row["cases"] == 2 and row["train_seconds"] == 120 and row["iterations"] == 200 and row["training_cases"] == 2
    assert row["steps"] == make_plan().diffusion.training_steps  # 0 in the settings means all
    assert row["seconds_per_case"] == 1.75 and row["seconds_longest"] == 2.25
    assert row["cores"] >= 1 and row["torch"] and row["cpu"]
    assert not [value for value in row.values() if str(tmp_path) in str(value)]


def test_a_model_trained_with_other_options_is_not_passed_off(tmp_path: Path) -> None:
    write_run(tmp_path, Places.of(arguments(tmp_path)))
    other = arguments(tmp_path, "--seed", "1", "--max-time", "60m")
    with pytest.raises(UserError, match=r"seed 0, not 1; max_time_s 1800\.0, not 3600\.0"):
        hippocampus.check_trained_as_asked(Places.of(other), other)


def test_a_newer_model_segments_again(tmp_path: Path) -> None:
    made = arguments(tmp_path)
    places = Places.of(made)
    write_run(tmp_path, places)
    weights = places.fold / "checkpoint_final.safetensors"
    weights.write_bytes(b"")
    written = (places.predictions / "prediction.json").stat().st_mtime
    for shift, again in ((-10, False), (10, True)):
        os.utime(weights, (written + shift, written + shift))
        assert ("--overwrite" in dict(hippocampus.scoring(made, places))["predict"]) == again


def test_rows_are_added_and_earlier_ones_kept_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "results" / "rows.csv"
    append_row(path, {"setting": "full", "dice": 0.10, "seed": 0})
    path.write_text(path.read_text().replace("0.1", "0.100"))
    append_row(path, {"setting": "2-shot", "dice": None, "seed": 1, "note": "a, b"})
    assert path.read_text() == 'setting,dice,seed,note\nfull,0.100,0,\n2-shot,,1,"a, b"\n'
    assert pd.read_csv(path)["seed"].tolist() == [0, 1]


# ----------------------------------------------------------------------------------------------------------- everything
@pytest.mark.slow
def test_end_to_end(tmp_path: Path) -> None:
    """Both benchmarks on a task small enough to train on in seconds, through the real commands."""
    from benchmarks import atlas_choice, atlas_share, steps_curve, tables

    write_task(tmp_path / "task")
    options = ("--setting", "2-shot", "--max-time", "5s", "--device", "cpu")
    made = arguments(tmp_path, *options)
    hippocampus.run(made)
    hippocampus.run(arguments(tmp_path, *options, "--steps", "1"))  # the model is kept
    table = pd.read_csv(made.results)
    assert table["steps"].tolist()[1] == 1 and table["cases"].tolist() == [2, 2]
    assert table["dice_mean"].between(0, 1).all() and (table["seconds_per_case"] > 0).all()
    assert table["validation_dice_mean"].notna().all()
    output = tmp_path / "curve.csv"
    model = str(Places.of(made).model)
    chosen = ["--steps", "1", "2", "--guidance-levels", "0", "--device", "cpu", "--cases", "2", "--output", str(output)]
    steps_curve.main(["-m", model, "-f", "2-shot", *chosen])
    curve = pd.read_csv(output)
    assert curve["steps"].tolist() == [1, 2] and curve["cases"].tolist() == [2, 2]
    assert output.with_suffix(".png").stat().st_size > 1000
    output = tmp_path / "shares.csv"
    shares = ["--shares", "0", "0.4", "1", "--device", "cpu", "--cases", "2", "--output", str(output)]
    atlas_share.main(["-m", model, "-f", "2-shot", *shares])
    (row,) = pd.read_csv(output).to_dict("records")
    assert row["share_0"] > 0.5 and 0 <= row["share_1"] <= 1 and row["atlases"] == 2
    assert min(row["share_0"], row["share_1"]) <= row["share_fitting"] <= 1
    assert "2-shot, diffatlas | its own | 2 | 2 |" in tables.shares_table(pd.read_csv(output))
    kept = tmp_path / "registrations"
    atlas_share.main(["-m", model, "-f", "2-shot", *shares, "--unseen", "--registrations", str(kept)])
    assert pd.read_csv(output)["cases"].tolist() == [2, 2] and len(list(kept.iterdir())) == 2
    output = tmp_path / "choice.csv"
    preprocessed = Places.of(made).workspace.preprocessed / hippocampus.DATASET
    atlas_choice.main(["--atlases", str(preprocessed), "--cases", "1", "--output", str(output)])
    choice = pd.read_csv(output)
    assert choice["way"].tolist() == list(atlas_choice.WAYS.values()) and choice["offered"].between(2, 6).all()
    assert choice["votes"].between(0.5, 1).all() and (choice["astray"] == 0).all()  # the balls lie about the same
    assert len(tables.choice_table(choice).splitlines()) == 2 + 4
    assert "| 2 |" in tables.steps_table(curve) and "2-shot" in tables.hippocampus_table(table)
