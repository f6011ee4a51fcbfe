"""A model as teacher of another training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffatlas_pipeline.atlases.policy import AtlasUse
from diffatlas_pipeline.atlases.segmenter import Segmenter
from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.methods.registry import create_method
from diffatlas_pipeline.models.folder import TrainedFold
from diffatlas_pipeline.planning.plan import ChannelPlan, Plan
from diffatlas_pipeline.preprocessing.distance_maps import decode_labels
from diffatlas_pipeline.preprocessing.store import list_stored, open_case, write_case
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.training.pseudo_labels import label_scans
from tests.factories import make_plan, make_recipe, store_cases

PLAN = make_plan(patch_size=(16, 24, 16))


def teacher(source: Path, atlas: str, plan: Plan = PLAN, learnt: tuple[str, ...] = ()) -> tuple[Predictor, list[Atlas]]:
    """A real network with random weights, and one training case that it keeps."""
    torch.manual_seed(0)
    state = create_method("diffatlas", plan, make_recipe()).build_network().state_dict()
    stored = open_case(source, atlas)
    kept = Atlas(atlas, np.asarray(stored.image[:]), np.asarray(stored.distances[:]))  # type: ignore[index]
    fold = TrainedFold(plan, "diffatlas", "default", "few", state, {"learnt_modalities": learnt})
    return Predictor([fold], torch.device("cpu"), make_recipe(), precision="float32"), [kept]


def test_scans_are_stored_with_the_teacher_s_labels(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "labelled"
    known, *others = store_cases(source, PLAN, [(20, 26, 18), (18, 28, 18), (20, 24, 20)])
    model = teacher(source, known)
    label_scans(*model, source, others, folder, quiet=True)
    assert list_stored(folder) == sorted(others)
    for case in others:
        image = np.asarray(open_case(source, case).image[:], np.float32)
        segmenter = Segmenter(*model, AtlasUse(late_fusion=True))
        prepared = segmenter.prepare_stored(image, open_case(source, case).record)
        assert prepared.atlases is not None
        wanted = decode_labels(segmenter.segment(prepared).distances.numpy(), [1, 2])
        stored = open_case(folder, case)
        assert stored.distances is not None
        assert np.array_equal(decode_labels(np.asarray(stored.distances[:], np.float32), [1, 2]), wanted)
        assert np.array_equal(stored.image[:], open_case(source, case).image[:])


@pytest.mark.parametrize(("modality", "learnt", "adapt"), [(None, (), "off"), ("MRI", (), "atlases"), ("MRI", ("MRI",), "off")])
def test_a_scan_out_of_domain_is_shown_adapted_and_stored_as_it_is(
    tmp_path: Path, modality: str | None, learnt: tuple[str, ...], adapt: str
) -> None:
    source, folder = tmp_path / "source", tmp_path / "labelled"
    plan = replace(PLAN, channels=(ChannelPlan("CT", "ct", 0.0, 200.0),))
    known, other = store_cases(source, plan, [(20, 26, 18), (18, 28, 18)])
    stored = open_case(source, other)
    write_case(source, other, -np.asarray(stored.image[:]), None, stored.record, modality=modality)
    model = teacher(source, known, plan, learnt)
    label_scans(*model, source, [other], folder, quiet=True)
    scan, labelled = open_case(source, other), open_case(folder, other)
    image = np.asarray(scan.image[:], np.float32)
    segmenter = Segmenter(*model, AtlasUse(adapt, late_fusion=True))
    prepared = segmenter.prepare_stored(image, scan.record)
    assert np.array_equal(prepared.shown.image, image) == (adapt == "off")
    assert labelled.distances is not None and labelled.facts.modality == modality
    wanted = decode_labels(segmenter.segment(prepared).distances.numpy(), [1, 2])
    assert np.array_equal(decode_labels(np.asarray(labelled.distances[:], np.float32), [1, 2]), wanted)
    assert np.array_equal(labelled.image[:], scan.image[:])


def test_kept_registrations_give_the_same_labels(tmp_path: Path) -> None:
    source = tmp_path / "source"
    known, other = store_cases(source, PLAN, [(20, 26, 18), (18, 28, 18)])
    for name in ("one", "two"):
        label_scans(*teacher(source, known), source, [other], tmp_path / name, tmp_path / "registrations", quiet=True)
    one, two = (open_case(tmp_path / name, other).distances for name in ("one", "two"))
    assert one is not None and two is not None and np.array_equal(one[:], two[:])
    assert len(list((tmp_path / "registrations").glob("*.npz"))) == 1


def test_what_is_labelled_already_stays(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "labelled"
    known, first, second = store_cases(source, PLAN, [(20, 26, 18), (18, 28, 18), (20, 24, 20)])
    label_scans(*teacher(source, known), source, [first], folder, quiet=True)
    before = (folder / "cases" / f"{first}.json").stat().st_mtime_ns
    label_scans(*teacher(source, known), source, [first, second], folder, quiet=True)
    assert (folder / "cases" / f"{first}.json").stat().st_mtime_ns == before
    assert list_stored(folder) == sorted([first, second])
