"""What DICOM headers say of the modality is believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline.datasets.cases import list_cases
from diffatlas_pipeline.datasets.header_modality import believed_modality
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import modality_in_header, write_scalars
from tests.volumes.test_dicom import VALUES, write_series

GRID = Grid.of((4, 4, 4), np.eye(4))


def folder_of(place: Path, **modalities: str) -> Path:
    for index, (case, modality) in enumerate(modalities.items()):
        write_series(place / case, VALUES, uid=f"1.2.3.{index}", modality=modality)
    return place


@pytest.mark.parametrize(("tag", "said"), [("CT", "CT"), ("MR", "MRI"), ("PT", "PT")])
def test_the_tag_is_read(tmp_path: Path, tag: str, said: str) -> None:
    assert modality_in_header(folder_of(tmp_path, scan=tag) / "scan") == said


def test_other_formats_say_nothing(tmp_path: Path) -> None:
    write_scalars(tmp_path / "scan.nii.gz", np.zeros((4, 4, 4)), GRID)
    assert modality_in_header(tmp_path / "scan.nii.gz") is None
    assert modality_in_header(tmp_path) is None, "no series"
    assert believed_modality(list_cases(tmp_path, None, 1), [True]) == (None, ())


@pytest.mark.parametrize(("tag", "learnt_ct", "taken"), [("CT", True, None), ("MR", False, None), ("MR", True, "MRI"),
                                                         ("PT", True, "MRI"), ("CT", False, "CT")])  # fmt: skip
def test_a_scan_is_taken_for_what_its_header_says(tmp_path: Path, tag: str, learnt_ct: bool, taken: str | None) -> None:
    modality, warnings = believed_modality(list_cases(folder_of(tmp_path, a=tag, b=tag), None, 1), [learnt_ct])
    assert modality == taken and len(warnings) == (taken is not None)
    assert taken is None or f"`modality` {taken}" in warnings[0]


def test_what_is_given_counts(tmp_path: Path) -> None:
    cases = list_cases(folder_of(tmp_path, a="MR"), None, 1)
    modality, (warning,) = believed_modality(cases, [True], "CT")
    assert modality == "CT" and "headers say MRI: a" in warning
    assert believed_modality(cases, [True], "mri") == ("mri", ())


def test_a_mixed_folder_is_refused(tmp_path: Path) -> None:
    cases = list_cases(folder_of(tmp_path, a="MR", b="CT"), None, 1)
    with pytest.raises(UserError, match=r"headers of 1 of 2 scans say MRI, and the model has learnt CT: a\."):
        believed_modality(cases, [True])
    assert believed_modality(cases, [True], "MRI")[0] == "MRI"


def test_a_channel_is_compared_with_what_that_channel_should_be(tmp_path: Path) -> None:
    cases = list_cases(folder_of(tmp_path, a_0001="MR", b_0000="CT", b_0001="MR"), None, 2, may_lack=True)
    assert [files.missing for files in cases] == [(0,), ()]
    assert believed_modality(cases, [True, False]) == (None, ())
    with pytest.raises(UserError, match=r"headers of 1 of 2 scans say MRI.*: a\."):
        believed_modality(cases, [True, True])
