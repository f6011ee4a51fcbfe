"""The ablation: options by name, and a run from stored cases to rows of a results file."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import ablation
from benchmarks.record import RESULTS
from diffatlas_pipeline.datasets.splits import Split, write_splits
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import to_json, write_text_atomically
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.training import loop
from tests.factories import make_plan, make_recipe, make_recipes, store_cases, with_options

NETWORK = NetworkPlan((8, 8), ((1, 1, 1), (2, 2, 2)), ((3, 3, 3),) * 2, (1, 1), (False, False), 16)
PLAN = make_plan(patch_size=(16, 16, 16), network=NETWORK, recipes=make_recipes(diffatlas={"default": make_recipe(steps=1)}))


def test_the_rows_of_the_documentation_name_options_that_can_be_set() -> None:
    rows = pd.read_csv(RESULTS / "ablation.csv", dtype=str, keep_default_na=False)
    options = {option for text in rows["options"] for option in text.split()}
    options |= {option for text in rows["sampling"] for option in text.split(",") if option}
    assert len(options) > 15
    for option in options - {"random_contrast=0.5"}:  # which is gone
        if option.startswith(("augmentation.", "distance.", "network.", "training.")):  # of the plan
            ablation.replanned(PLAN, [option])
        else:
            ablation.changed(make_recipe(), [option])


def test_a_switch_is_on_or_off_as_it_says() -> None:
    assert ablation.replanned(PLAN, ["network.smooth_output=true"]).network.smooth_output is True
    assert ablation.replanned(PLAN, ["network.smooth_output=False"]).network.smooth_output is False
    with pytest.raises(UserError, match="'no' is not a bool"):
        ablation.replanned(PLAN, ["network.smooth_output=no"])


def test_options_are_set_by_name_and_kind() -> None:
    options = ["levels.start=0.5", "sampler.steps=3", "sampler.solver=ddpm", "unlabelled_fraction=0.25"]
    recipe = ablation.changed(make_recipe(), options)
    assert recipe == with_options(make_recipe(), start=0.5, steps=3, solver="ddpm", unlabelled_fraction=0.25)
    for wrong, said in [
        ("speed=1", "no option of a JointRecipe; there are any_contrast, given_labels, levels"),
        ("levels=1", "no option of a JointRecipe"),
        ("sampler.speed=1", "no option of a Sampler; there are solver, steps"),
        ("sampler.steps=few", "'few' is not a int"),
    ]:
        with pytest.raises(UserError, match=said):
            ablation.changed(make_recipe(), [wrong])


def test_parts_of_the_plan_are_changed_but_not_what_cases_were_stored_with() -> None:
    plan = ablation.replanned(PLAN, ["distance.scale=0.5", "network.widths=16:24", "training.batch_size=3"])
    assert (plan.distance.scale, plan.network.widths, plan.training.batch_size) == (0.5, (16, 24), 3)
    for wrong, said in [
        ("distance.tau_mm=2", "write network"),
        ("widths=3", "write network"),
        ("network.depth=3", "NetworkPlan"),
    ]:
        with pytest.raises(UserError, match=said):
            ablation.replanned(PLAN, [wrong])


def test_it_trains_and_scores_validation_cases_only(tmp_path: Path) -> None:
    names = store_cases(tmp_path, PLAN, [(18, 20, 16)] * 4)
    write_text_atomically(tmp_path / "plans.json", to_json(PLAN))
    write_splits(tmp_path / "splits.json", {"fold0": Split(tuple(names[:2]), (names[2],))})
    results = tmp_path / "r.csv"
    words = ["--preprocessed", str(tmp_path), "--also", str(tmp_path), "--iterations", "2", "--results", str(results)]
    words += ["--plan", "augmentation.elastic=0.5", "--set", "objective.input_scaling=signal"]
    ablation.main([*words, "--sample", "sampler.steps=1", "--sample", "sampler.steps=2,sampler.draws=2"])
    rows = pd.read_csv(results)
    assert rows["sampling"].tolist() == ["sampler.steps=1"] * 2 + ["sampler.steps=2,sampler.draws=2"] * 2
    assert set(rows["cases"]) == {1} and set(rows["iterations"]) == {2} and set(rows["training_cases"]) == {2}
    assert set(rows["options"]) == {"objective.input_scaling=signal augmentation.elastic=0.5"}
    assert rows["dice_mean"].between(0, 1).all() and rows["dice_mean"].iloc[0] == rows["dice_mean"].iloc[1]
    named = rows[[f"dice_{label.name}" for label in PLAN.dataset.labels]].mean(axis=1)
    assert (named - rows["dice_mean"]).abs().max() < 1e-3


def test_a_recipe_of_any_contrast_learns_from_synthetic_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "faster_precision", lambda *_: "float32")  # a stopwatch chooses it otherwise
    names = store_cases(tmp_path, PLAN, [(18, 20, 16)] * 3)
    write_text_atomically(tmp_path / "plans.json", to_json(PLAN))
    write_splits(tmp_path / "splits.json", {"fold0": Split(tuple(names[:2]), (names[2],))})
    losses = []
    for share in (0, 0, 1):
        kept = tmp_path / f"kept_{len(losses)}"
        places = ["--preprocessed", str(tmp_path), "--results", str(tmp_path / "r.csv"), "--keep", str(kept)]
        ablation.main([*places, "--iterations", "2", "--set", f"any_contrast={share}"])
        losses.append(pd.read_csv(kept / "log.csv")["loss"].tolist())
    assert losses[0] == losses[1] != losses[2]


def test_a_split_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = store_cases(tmp_path, PLAN, [(18, 20, 16)] * 2)
    write_text_atomically(tmp_path / "plans.json", to_json(PLAN))
    write_splits(tmp_path / "splits.json", {"fold0": Split((names[0],), (names[1],))})
    with pytest.raises(SystemExit):
        ablation.main(["--preprocessed", str(tmp_path), "--split", "fold7"])
    assert "there are fold0" in capsys.readouterr().err
