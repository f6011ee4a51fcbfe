from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import ModelError
from diffatlas_pipeline.models.find import find_model
from diffatlas_pipeline.models.folder import WEIGHTS, ModelFolder
from tests.factories import make_recipes
from tests.model_files import add_fold, plan, recipe


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.resolve(tmp_path)


def make(
    workspace: Workspace, dataset: str, method: str = "diffatlas", recipe: str = "default", folds: tuple = ("fold0",)
) -> Path:
    path = ModelFolder.location(workspace, dataset, method, recipe)
    ModelFolder.create(path, plan())
    for fold in folds:
        add_fold(path, fold, method, recipe)
    return path


def test_the_only_model_needs_no_flags_and_loads(workspace: Workspace) -> None:
    path = make(workspace, "Dataset001_A")
    model = find_model(workspace)
    assert (model.path, model.dataset, model.method, model.recipe) == (path, "Dataset001_A", "diffatlas", "default")
    trained = model.load("0")
    assert trained.plan == plan()
    assert torch.equal(trained.state["weight"], torch.arange(6.0).reshape(2, 3))
    assert (trained.method, trained.recipe, trained.fold) == ("diffatlas", "default", "fold0")


def test_folder_describes_itself(workspace: Workspace) -> None:
    path = make(workspace, "Dataset001_A")
    dataset = json.loads((path / "dataset.json").read_text())
    assert dataset["labels"] == {"background": 0, "small": 2, "large": 7}
    assert dataset["channel_names"] == {"0": "MRI"}
    assert json.loads((path / "versions.json").read_text())["torch"].startswith("2.")


def test_several_models_are_listed_with_their_flags_and_each_flag_chooses(workspace: Workspace) -> None:
    make(workspace, "Dataset001_A")
    make(workspace, "Dataset001_A", recipe="paper")
    make(workspace, "Dataset002_B", method="icf")
    with pytest.raises(ModelError) as error:
        find_model(workspace)
    for line in (
        "`dataset` Dataset001_A `method` diffatlas `recipe` paper",
        "`dataset` Dataset002_B `method` icf `recipe` default",
    ):
        assert line in str(error.value)
    assert find_model(workspace, dataset="2").dataset == "Dataset002_B"
    assert find_model(workspace, dataset="Dataset002_B").dataset == "Dataset002_B"
    assert find_model(workspace, recipe="paper").recipe == "paper"
    assert find_model(workspace, method="icf").method == "icf"
    with pytest.raises(ModelError, match="`recipe` default"):
        find_model(workspace, dataset="001")


def test_untrained_models_do_not_count(workspace: Workspace) -> None:
    make(workspace, "Dataset001_A")
    make(workspace, "Dataset002_B", folds=())
    assert find_model(workspace).dataset == "Dataset001_A"
    with pytest.raises(ModelError, match="no trained fold"):
        find_model(workspace, dataset="2")


def test_no_model_says_what_to_do(workspace: Workspace) -> None:
    with pytest.raises(ModelError, match="`train`"):
        find_model(workspace)
    make(workspace, "Dataset001_A")
    with pytest.raises(ModelError, match=r"No trained model for `dataset` 5(.|\n)*Dataset001_A"):
        find_model(workspace, dataset="5")


def test_explicit_path(workspace: Workspace, tmp_path: Path) -> None:
    path = make(workspace, "Dataset001_A")
    moved = path.rename(tmp_path / "shared_model")
    assert find_model(workspace, path=moved).method == "diffatlas"
    with pytest.raises(ModelError, match="one fold of a model"):
        find_model(workspace, path=moved / "fold0")
    with pytest.raises(ModelError, match="not a model folder"):
        find_model(workspace, path=tmp_path)


def test_choice_of_folds(workspace: Workspace) -> None:
    model = ModelFolder(make(workspace, "Dataset001_A", folds=("fold0", "fold2")))
    assert model.choose_folds() == ("fold0", "fold2")
    assert model.choose_folds(["2", "fold2", "0"]) == ("fold2", "fold0")
    with pytest.raises(ModelError, match=r"fold1: not trained .*trained: fold0, fold2"):
        model.choose_folds(["0", "1"])
    add_fold(model.path, "2-shot")
    with pytest.raises(ModelError, match="`folds`"):
        model.choose_folds()
    assert model.choose_folds(["2-shot"]) == ("2-shot",)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-4] + b"bits",
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"no weights at all",
    ],
)
def test_damaged_weights_are_said(workspace: Workspace, damage: object) -> None:
    path = make(workspace, "Dataset001_A") / "fold0" / WEIGHTS
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ModelError, match=r"checkpoint_final\.safetensors: damaged"):
        find_model(workspace).load("fold0")


def test_damaged_metadata_is_said(workspace: Workspace) -> None:
    path = make(workspace, "Dataset001_A") / "fold0" / "checkpoint_final.json"
    path.write_text("{")
    with pytest.raises(ModelError, match=r"checkpoint_final\.json"):
        find_model(workspace).load("fold0")


def test_trained_folds_are_not_given_another_plan(workspace: Workspace) -> None:
    path = make(workspace, "Dataset001_A")
    ModelFolder.create(path, plan())
    with pytest.raises(ModelError, match="another plan"):
        ModelFolder.create(path, plan(patch=(32, 16, 16)))
    with pytest.raises(ModelError, match="another plan"):
        ModelFolder.create(path, plan(patch=(32, 16, 16)), replacing="fold1")
    ModelFolder.create(path, plan(patch=(32, 16, 16)), replacing="fold0")


def test_the_recipes_of_others_do_not_make_it_another_plan(workspace: Workspace) -> None:
    path = make(workspace, "Dataset001_A")
    ModelFolder.create(path, replace(plan(), recipes=make_recipes(diffatlas={"default": recipe(), "paper": recipe(steps=7)})))
    with pytest.raises(ModelError, match="another plan"):
        ModelFolder.create(
            path, replace(plan(), recipes=make_recipes(diffatlas={"default": recipe(segmentation_weight=0.123)}))
        )


def test_a_plan_that_was_changed_after_the_training_is_refused(workspace: Workspace) -> None:
    """Spacing, scale or tau other than those of the training segment something else, without a word."""
    path = make(workspace, "Dataset001_A")
    text = (path / "plans.json").read_text(encoding="utf-8")
    changes = {'"scale": 1.0': '"scale": 1.5', " 99.5": " 98.5", '"iterations": 10': '"iterations": 11'}
    for before, after in changes.items():
        assert before in text
        (path / "plans.json").write_text(text.replace(before, after, 1), encoding="utf-8")
        with pytest.raises(ModelError, match=r"plans\.json was changed after fold0 was trained.*Restore"):
            find_model(workspace).load("fold0")
    for encoding in ("utf-8-sig", "utf-8"):  # some editors begin a file with a byte order mark
        (path / "plans.json").write_text(text, encoding=encoding)
        assert find_model(workspace).load("fold0").plan == plan()


def test_a_second_fold_leaves_the_first_its_plan(workspace: Workspace) -> None:
    path = make(workspace, "Dataset001_A")
    written = (path / "plans.json").read_bytes()
    others = make_recipes(diffatlas={"default": recipe(), "paper": recipe(steps=7)})
    ModelFolder.create(path, replace(plan(), recipes=others, why={"patch_size": "a reason"}))
    add_fold(path, "fold1")
    assert (path / "plans.json").read_bytes() == written
    assert [ModelFolder(path).load(fold).fold for fold in ("fold0", "fold1")] == ["fold0", "fold1"]


def test_a_fold_that_does_not_say_its_plan_is_used_as_before(workspace: Workspace) -> None:
    """As release 1 wrote it."""
    path = make(workspace, "Dataset001_A")
    described = path / "fold0" / "checkpoint_final.json"
    metadata = json.loads(described.read_text(encoding="utf-8"))
    del metadata["plans.json"]
    described.write_text(json.dumps(metadata), encoding="utf-8")
    assert ModelFolder(path).load("fold0").fold == "fold0"
