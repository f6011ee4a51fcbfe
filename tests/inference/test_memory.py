"""Memory: told before, kept within its limit, and what does not fit fails alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from diffatlas_pipeline.atlases.segmenter import Segmenter
from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.inference import batch, memory
from diffatlas_pipeline.inference.batch import Wanted, predict_cases
from diffatlas_pipeline.inference.export import Destination
from diffatlas_pipeline.inference.inputs import find_scans
from diffatlas_pipeline.inference.memory import Need, in_words, largest_scan, need_of, need_of_scan, scratch_for
from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.machine import available_bytes, limit_memory, resident_bytes
from diffatlas_pipeline.methods.joint_recipe import DEFAULT
from diffatlas_pipeline.methods.registry import create_method
from diffatlas_pipeline.models.folder import TrainedFold
from diffatlas_pipeline.volumes.grids import Volume
from diffatlas_pipeline.volumes.io import write_scalars
from tests.factories import make_grid, with_options
from tests.inference.closed_form import ready, write_scans
from tests.model_files import plan

MB = 10**6


@pytest.fixture(autouse=True)
def _no_limit_stays() -> Iterator[None]:
    yield
    limit_memory(None)


def test_a_limit_leaves_what_is_not_taken_yet() -> None:
    limit_memory(resident_bytes() + 50 * MB)
    free = available_bytes()
    assert free is not None and free < 60 * MB
    limit_memory(1000)
    assert available_bytes() == 0
    limit_memory(None)
    assert (available_bytes() or 10**12) > 60 * MB


def test_what_is_needed_grows_with_voxels_and_only_in_files_not_with_length() -> None:
    small, long = (need_of(plan(), DEFAULT, (x, 64, 64), (x, 64, 64)) for x in (64, 6400))
    assert long.in_memory > 50 * small.in_memory
    restored = 24 * 6400 * 64 * 64
    assert long.in_files == restored and long.disk == 100 * small.disk
    sampler = [with_options(DEFAULT, **options) for options in ({"draws": 5}, {"eta": 1.0}, {"solver": "dpmpp_2m"})]
    assert all(need_of(plan(), one, (64, 64, 64), (64, 64, 64)).in_memory > small.in_memory for one in sampler)


def test_the_largest_scan_is_told(tmp_path: Path) -> None:
    write_scans(tmp_path, "a.nii.gz")
    random = np.random.default_rng(0)
    write_scalars(tmp_path / "b.nii.gz", random.normal(size=(60, 50, 40)).astype(np.float32), make_grid((60, 50, 40)))
    (tmp_path / "bad.nii.gz").write_bytes(random.bytes(10**6))
    found = largest_scan(find_scans([tmp_path], 1).cases)
    assert found is not None and (found[0].case, found[1].shape) == ("b", (60, 50, 40))
    assert largest_scan([CaseFiles("gone", (tmp_path / "gone.nii.gz",), None)]) is None
    need = need_of_scan(plan(), DEFAULT, found[1])
    assert need.in_memory > 11 * 4 * 60 * 50 * 40
    text = in_words("b", found[1], need)
    assert text.startswith("Largest scan: b, 60 x 50 x 40 voxels. To segment it takes up to ") and "files" not in text
    limit_memory(resident_bytes() + 1 * MB)
    assert "would take up to" in in_words("b", found[1], need) and "files of the temporary folder" in in_words(
        "b", found[1], need
    )


def test_files_are_used_where_the_memory_does_not_suffice_and_too_little_is_said() -> None:
    limit_memory(resident_bytes() + 400 * MB)
    assert not scratch_for(Need(100 * MB, 10 * MB, 90 * MB), "scan").on_disk
    assert scratch_for(Need(1000 * MB, 10 * MB, 90 * MB), "scan").on_disk
    with pytest.raises(ImageError, match=r"scan\.nii\.gz: to segment it takes 0\.9 GB, though .* Crop it"):
        scratch_for(Need(1000 * MB, 900 * MB, 90 * MB), "scan.nii.gz")


def test_a_scan_too_large_for_the_memory_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scans(tmp_path / "in", "a.nii.gz", "b.nii.gz", "c.nii.gz")
    predictor, needed = ready(), []

    def need(prepared: object) -> Need:
        needed.append(prepared)
        return Need(10**15, 10**15 if len({id(one) for one in needed}) == 2 else 1, 10**4)

    monkeypatch.setattr(predictor, "_need", need)
    outcomes = predict_cases(
        Segmenter(predictor),
        find_scans([tmp_path / "in"], 1).cases,
        Wanted(Destination(tmp_path / "out", ".nii.gz")),
        quiet=True,
    )
    assert [outcome.status for outcome in outcomes] == ["segmented", "failed", "segmented"]
    assert "b.nii.gz: to segment it takes 1000000.0 GB" in outcomes[1].message


def test_nothing_is_read_or_written_beside_a_large_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scans(tmp_path / "in", "a.nii.gz", "b.nii.gz", "c.nii.gz")
    segmenter, running, most = Segmenter(ready()), threading.Semaphore(0), []
    monkeypatch.setattr(segmenter, "is_large", lambda scan: True)
    lock, now = threading.Lock(), []

    def watched(name: str) -> None:
        whole = getattr(batch, name)

        def work(*arguments: object) -> object:
            with lock:
                now.append(name)
                most.append(len(now))
            try:
                return whole(*arguments)
            finally:
                running.acquire(timeout=0.02)
                with lock:
                    now.remove(name)

        monkeypatch.setattr(batch, name, work)

    for name in ("_load", "_make", "_finish"):
        watched(name)
    cases = find_scans([tmp_path / "in"], 1).cases
    outcomes = predict_cases(segmenter, cases, Wanted(Destination(tmp_path / "out", ".nii.gz")), quiet=True)
    assert [outcome.status for outcome in outcomes] == ["segmented"] * 3 and set(most) == {1} and len(most) == 9
    monkeypatch.setattr(segmenter, "is_large", lambda scan: False)
    most.clear()
    predict_cases(segmenter, cases, Wanted(Destination(tmp_path / "again", ".nii.gz")), quiet=True)
    assert max(most) > 1, "the next is read meanwhile"


def test_files_change_nothing_in_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = with_options(DEFAULT, steps=2)
    method = create_method("diffatlas", plan(), recipe)
    torch.manual_seed(0)
    state = method.build_network().state_dict()  # type: ignore[attr-defined]
    fold = TrainedFold(plan(), "diffatlas", "default", "fold0", state, {})
    predictor = Predictor([fold], torch.device("cpu"), recipe, precision="float32")
    image = np.random.default_rng(0).normal(size=(1, 90, 24, 20)).astype(np.float32)
    prepared = predictor.prepare(Volume(image, make_grid((90, 24, 20)), "scan"))
    need, found = predictor._need(prepared), []
    assert need.in_files < need.in_memory
    for free in (need.in_memory, need.in_memory - 1):
        monkeypatch.setattr(memory, "available_bytes", lambda free=free: free)
        found.append(predictor.segment(prepared))
        assert predictor.stitch.scratch.on_disk == (free < need.in_memory)
    assert torch.equal(found[0].distances, found[1].distances) and found[0].distances.std() > 0
    assert np.array_equal(*[predictor.restore(one, prepared).labels for one in found])
    assert predictor.describe(prepared, found[0]) == predictor.describe(prepared, found[1])
