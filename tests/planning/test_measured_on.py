from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from diffatlas_pipeline.datasets.description import CaseFiles, LabelClass, RawDataset
from diffatlas_pipeline.errors import DatasetError
from diffatlas_pipeline.planning.measured_on import file_states, source_digest
from tests.factories import make_plan


@pytest.fixture
def dataset(tmp_path: Path) -> RawDataset:
    paths = [tmp_path / f"{name}.nii" for name in ("a_0000", "a", "b_0000", "b")]
    for path in paths:
        path.write_bytes(b"1234")
        os.utime(path, ns=(10, 10))
    training = CaseFiles("a", (paths[0],), paths[1])
    return RawDataset(tmp_path, make_plan().dataset, (training,), (), (CaseFiles("b", (paths[2],), None),))


def test_digest_sees_every_change(dataset: RawDataset, tmp_path: Path) -> None:
    seen = {source_digest(dataset)}
    assert source_digest(dataset) in seen

    def is_new(changed: RawDataset = dataset) -> bool:
        before = len(seen)
        seen.add(source_digest(changed))
        return len(seen) > before

    (tmp_path / "a.nii").write_bytes(b"12345")
    os.utime(tmp_path / "a.nii", ns=(10, 10))
    assert is_new()  # size
    os.utime(tmp_path / "b_0000.nii", ns=(10, 11))
    assert is_new()  # time
    assert is_new(replace(dataset, unlabelled=()))
    assert is_new(replace(dataset, unlabelled=(CaseFiles("b", dataset.unlabelled[0].images, tmp_path / "b.nii"),)))
    assert is_new(replace(dataset, description=replace(dataset.description, labels=(LabelClass("heart", 1),))))
    assert not is_new(replace(dataset, test=dataset.training))  # test images are never measured


def test_a_series_is_all_of_its_files_and_a_missing_file_is_named(dataset: RawDataset, tmp_path: Path) -> None:
    series = tmp_path / "series"
    series.mkdir()
    for name in ("2.dcm", "1.dcm"):
        (series / name).write_bytes(b"1")
    assert [name for name, _, _ in file_states(CaseFiles("s", (series,), None))] == ["1.dcm", "2.dcm"]
    (tmp_path / "a.nii").unlink()
    with pytest.raises(DatasetError, match=r"a\.nii: no such file"):
        source_digest(dataset)
