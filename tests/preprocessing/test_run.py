from __future__ import annotations

import multiprocessing
import os
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline.datasets.description import CaseFiles, RawDataset
from diffatlas_pipeline.errors import DatasetError
from diffatlas_pipeline.planning.plan import ChannelPlan
from diffatlas_pipeline.preprocessing.case import prepare_image
from diffatlas_pipeline.preprocessing.run import preprocess_dataset
from diffatlas_pipeline.preprocessing.store import list_stored, open_case
from diffatlas_pipeline.volumes.io import read_volume, write_labels, write_scalars
from tests.factories import make_case, make_plan


def make_raw(folder: Path, labelled: int, unlabelled: int = 0) -> RawDataset:
    cases = []
    for n in range(labelled + unlabelled):
        volume, labels = make_case((18, 20 + n, 16), seed=n)
        image, label = folder / f"case_{n}_0000.nii.gz", folder / f"case_{n}.nii.gz"
        folder.mkdir(parents=True, exist_ok=True)
        write_scalars(image, volume.array[0], volume.grid)
        write_labels(label, labels.array, labels.grid)
        cases.append(CaseFiles(f"case_{n}", (image,), label if n < labelled else None))
    return RawDataset(folder, make_plan().dataset, tuple(cases[:labelled]), (), tuple(cases[labelled:]))


def written_at(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "cases").iterdir()}


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    return {name.split(".")[0] for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_parallel_equals_sequential_and_unlabelled_cases_are_stored(tmp_path: Path) -> None:
    dataset, plan = make_raw(tmp_path / "raw", labelled=2, unlabelled=1), make_plan()
    preprocess_dataset(dataset, plan, tmp_path / "one", workers=1, overwrite=False)
    preprocess_dataset(dataset, plan, tmp_path / "two", workers=2, overwrite=False)
    assert list_stored(tmp_path / "one") == list_stored(tmp_path / "two") == ["case_0", "case_1", "case_2"]
    for case in list_stored(tmp_path / "one"):
        a, b = open_case(tmp_path / "one", case), open_case(tmp_path / "two", case)
        assert a.facts.foreground == b.facts.foreground and a.verify() and b.verify()
        np.testing.assert_array_equal(a.image[:], b.image[:])
        assert (a.distances is None) == (case == "case_2")


def test_an_unlabelled_scan_of_another_modality_is_scaled_as_such(tmp_path: Path) -> None:
    plan, out = make_plan(channels=(ChannelPlan("CT", "ct", -1000.0, 1000.0),)), tmp_path / "out"
    dataset = make_raw(tmp_path / "raw", labelled=1, unlabelled=1)
    preprocess_dataset(dataset, plan, out, workers=1, overwrite=False)
    first, bounded = written_at(out), open_case(out, "case_1").image[:]
    foreign = replace(dataset, unlabelled=(replace(dataset.unlabelled[0], modality="MRI"),))
    preprocess_dataset(foreign, plan, out, workers=1, overwrite=False)
    assert changed(first, written_at(out)) == {"case_1"}
    stored = open_case(out, "case_1")
    assert stored.facts.modality == "MRI" and open_case(out, "case_0").facts.modality is None
    wanted, _ = prepare_image(read_volume(dataset.unlabelled[0].images), plan, "MRI")
    np.testing.assert_allclose(stored.image[:], wanted, atol=1e-3)
    assert np.ptp(wanted) > 1.9 > 0.5 > np.ptp(bounded)
    preprocess_dataset(foreign, plan, out, workers=1, overwrite=False)
    assert open_case(out, "case_1").facts == stored.facts


def test_only_what_must_be_redone_is_redone(tmp_path: Path) -> None:
    dataset, plan, out = make_raw(tmp_path / "raw", labelled=3), make_plan(), tmp_path / "out"
    preprocess = partial(preprocess_dataset, dataset, folder=out, workers=1)
    preprocess(plan, overwrite=False)
    first = written_at(out)
    preprocess(make_plan(patch_size=(64, 64, 64)), overwrite=False)  # stored cases do not depend on the patch
    assert changed(first, written_at(out)) == set()

    damaged = out / "cases" / "case_1.image.b2nd"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (out / "cases" / "case_2.json").write_bytes(b"\xff\xfe{")
    preprocess(plan, overwrite=False)
    second = written_at(out)
    assert changed(first, second) == {"case_1", "case_2"} and all(open_case(out, c).verify() for c in list_stored(out))

    source = dataset.training[0].images[0]
    os.utime(source, ns=(1, 1))  # another file under the same name
    preprocess(plan, overwrite=False)
    third = written_at(out)
    assert changed(second, third) == {"case_0"}

    preprocess(make_plan(spacing_mm=(2.0, 2.0, 2.0)), overwrite=False)
    assert changed(third, fourth := written_at(out)) == {"case_0", "case_1", "case_2"}
    preprocess(make_plan(spacing_mm=(2.0, 2.0, 2.0)), overwrite=True)
    assert changed(fourth, written_at(out)) == {"case_0", "case_1", "case_2"}


def test_bad_cases_are_listed_together_and_the_others_done(tmp_path: Path) -> None:
    dataset = make_raw(tmp_path / "raw", labelled=4)
    dataset.training[1].images[0].write_bytes(b"not an image")
    dataset.training[3].images[0].unlink()
    with pytest.raises(DatasetError, match="2 of 4 cases cannot be used") as caught:
        preprocess_dataset(dataset, make_plan(), tmp_path / "out", workers=1, overwrite=False)
    assert "case_1_0000.nii.gz" in str(caught.value) and "case_3_0000.nii.gz" in str(caught.value)
    assert list_stored(tmp_path / "out") == ["case_0", "case_2"]


def test_same_name_labelled_and_unlabelled(tmp_path: Path) -> None:
    dataset = make_raw(tmp_path / "raw", labelled=1)
    twice = RawDataset(dataset.folder, dataset.description, dataset.training, (), dataset.training)
    with pytest.raises(DatasetError, match="named twice: case_0"):
        preprocess_dataset(twice, make_plan(), tmp_path / "out", workers=1, overwrite=False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_killed_worker_is_named_with_its_case_and_memory_in_bounded_time(tmp_path: Path) -> None:
    """The second case's second channel is a pipe that nobody writes to: its worker waits there until it is killed."""
    dataset, out = make_raw(tmp_path / "raw", labelled=2), tmp_path / "out"
    first, second = dataset.training
    pipe = tmp_path / "raw" / "case_1_0001.nii.gz"
    os.mkfifo(pipe)
    cases = (replace(first, images=first.images * 2), replace(second, images=(*second.images, pipe)))
    plan = make_plan(channels=make_plan().channels * 2)

    def kill_the_other() -> None:
        while list_stored(out) != ["case_0"]:
            time.sleep(0.05)
        for process in multiprocessing.active_children():
            process.kill()

    killer = threading.Thread(target=kill_the_other, daemon=True)
    started = time.monotonic()
    killer.start()
    with pytest.raises(
        DatasetError, match=r"^case_1, preprocessing: .*killed.* 0\.2 GB \(18 x 21 x 16 voxels\)\. Finished cases are kept"
    ):
        preprocess_dataset(replace(dataset, training=cases), plan, out, workers=2, overwrite=False)
    assert time.monotonic() - started < 60
    assert list_stored(out) == ["case_0"]
