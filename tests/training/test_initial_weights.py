"""A training begins with another model's weights: what has the same name is taken, and few cases gain by it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffatlas_pipeline.api.preparation import plan_and_preprocess
from diffatlas_pipeline.api.training import train
from diffatlas_pipeline.datasets.description import DatasetDescription, LabelClass
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.methods.base import LearnedMethod
from diffatlas_pipeline.methods.registry import create_method, recipe_of
from diffatlas_pipeline.models.folder import TrainedFold
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.training.initial_weights import initial_weights, read_initial_fold
from tests.model_files import add_fold, plan
from tests.planning.raw_data import write_dataset


def planned(*labels: str, channels: tuple[str, ...] = ("CT",), stride: int = 1) -> Plan:
    classes = tuple(LabelClass(name, value) for value, name in enumerate(labels, 1))
    small = plan(channels=len(channels))
    network = replace(small.network, strides=((stride,) * 3, (2, 2, 2)))
    return replace(small, dataset=DatasetDescription("Test", channels, classes, ".nii.gz"), network=network)


def of(made: Plan, name: str = "diffatlas") -> LearnedMethod:
    method = create_method(name, made, recipe_of(made, name, "default"))
    assert isinstance(method, LearnedMethod)
    return method


def fold_of(made: Plan, name: str = "diffatlas") -> TrainedFold:
    torch.manual_seed(7)
    state = {key: torch.randn_like(tensor) for key, tensor in of(made, name).build_network().state_dict().items()}
    return TrainedFold(made, name, "default", "fold0", state, {})


def fresh(method: LearnedMethod) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return method.build_network().state_dict()


@pytest.mark.parametrize("name", ["diffatlas", "icf", "icmd"])
def test_the_same_labels_take_all(name: str) -> None:
    fold = fold_of(planned("a", "b"), name)
    found = initial_weights(of(planned("a", "b"), name), fold, seed=0)
    assert found.share == 1 and (found.taken, found.afresh) == (("a", "b"), ())
    assert all(torch.equal(found.state[key], fold.state[key]) for key in fold.state)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["diffatlas", "icf", "icmd"])
def test_labels_are_matched_by_name_and_new_ones_begin_afresh(name: str, stride: int) -> None:
    before, now = planned("a", "b", "c", stride=stride), of(planned("c", "new", "a", stride=stride), name)
    fold = fold_of(before, name)
    found = initial_weights(now, fold, seed=0)
    assert (found.taken, found.afresh) == (("c", "a"), ("new",)) and 0.5 < found.share < 1
    old, random = of(before, name), fresh(now)
    axis = 1 if stride == 2 else 0  # of a transposed convolution
    for key, at, ours, theirs in (
        ("stem.weight", 1, now.input_names, old.input_names),
        ("head.weight", axis, now.output_names, old.output_names),
        ("head.bias", 0, now.output_names, old.output_names),
    ):
        for place, channel in enumerate(ours):
            source = (fold.state, theirs.index(channel)) if channel in theirs else (random, place)
            assert torch.equal(found.state[key].select(at, place), source[0][key].select(at, source[1])), (key, channel)
    assert torch.equal(found.state["encoder.0.0.conv1.weight"], fold.state["encoder.0.0.conv1.weight"])


def test_a_single_channel_begins_any_other_and_several_are_matched_by_name() -> None:
    fold = fold_of(planned("a", channels=("CT",)))
    found = initial_weights(of(planned("a", channels=("MRI",))), fold, seed=0)
    assert torch.equal(found.state["stem.weight"], fold.state["stem.weight"])
    two = fold_of(planned("a", channels=("T1", "T2")))
    turned = initial_weights(of(planned("a", channels=("T2", "FLAIR"))), two, seed=0)
    assert torch.equal(turned.state["stem.weight"][:, 0], two.state["stem.weight"][:, 1])
    assert not torch.equal(turned.state["stem.weight"][:, 1], two.state["stem.weight"][:, 0])


def test_what_cannot_help_is_refused() -> None:
    with pytest.raises(UserError, match=r"of icf, this training of diffatlas.*same method"):
        initial_weights(of(planned("a")), fold_of(planned("a"), "icf"), seed=0)
    wider = replace(planned("a"), network=replace(planned("a").network, widths=(16, 16)))
    with pytest.raises(
        UserError, match=r"only \d+% of its weights fit .*widths \(8, 8\).*there widths \(16, 16\).*leave it out"
    ):
        initial_weights(of(planned("a")), fold_of(wider), seed=0)


def test_the_model_must_be_one_fold(tmp_path: Path) -> None:
    from diffatlas_pipeline.models.folder import ModelFolder

    ModelFolder.create(tmp_path / "model", planned("a"))
    with pytest.raises(UserError, match=r"`init_from` .*model: 0 trained folds \(none\)"):
        read_initial_fold(tmp_path / "model")
    for fold in ("fold0", "fold1"):
        add_fold(tmp_path / "model", fold)
    with pytest.raises(UserError, match=r"2 trained folds \(fold0, fold1\)\. Give the folder of one of them"):
        read_initial_fold(tmp_path / "model")
    assert read_initial_fold(tmp_path / "model" / "fold1").fold == "fold1"
    shutil.rmtree(tmp_path / "model" / "fold0")
    assert read_initial_fold(tmp_path / "model").fold == "fold1"
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "model")
    assert read_initial_fold(Path(packed)).fold == "fold1"


@pytest.mark.slow
def test_four_cases_gain_by_a_model_of_others_in_the_same_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other cases teach it what a ball is; then so many steps on four cases, with and without that."""
    write_dataset(tmp_path / "raw", cases=8)
    write_dataset(tmp_path / "raw", cases=6, name="Dataset008_Others", shape=(26, 30, 22))
    for number in (7, 8):
        plan_and_preprocess(number, workspace=tmp_path, device="cpu", workers=1)
    common = {"device": "cpu", "precision": "float32", "workers": 0, "workspace": tmp_path}
    model = train(7, "fold0", iterations=50, validation=False, **common)
    dice = {}
    for initial in (None, model):
        capsys.readouterr()
        made = train(8, "fold0", num_cases=4, iterations=10, init_from=initial, overwrite=True, **common)
        said = "100% of the weights are taken, with labels large, small."
        assert (said in capsys.readouterr().out) == (initial is not None)
        summary = json.loads((made / "fold0_4cases" / "validation" / "summary.json").read_text())
        dice[initial is not None] = summary["mean"]["dice"]
        described = json.loads((made / "fold0_4cases" / "checkpoint_final.json").read_text())
        assert ("init_from" in described) == (initial is not None)
    assert 1 - dice[True] < 0.7 * (1 - dice[False]), dice
