"""The headers of the DICOM series that a segmentation belongs to: what a DICOM output refers to, and where it lies."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.volumes.dicom import files_of, slices_of
from diffatlas_pipeline.volumes.grids import Grid, default_tolerance_mm
from diffatlas_pipeline.volumes.itk import LPS_TO_RAS

if TYPE_CHECKING:
    from pydicom import Dataset

# Without these nothing can refer to a series, or lie where it does.
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
# Of these DICOM wants an element, be it empty (PS3.3, C.7.1.1 and C.7.2.1).
PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID",
)  # fmt: skip
_SEXES = ("M", "F", "O")
_LATIN = "ISO_IR 100"


@dataclass(frozen=True)
class Plane:
    """A slice: the file or frame that holds it, and in mm (DICOM's axes) where its first pixel lies, and the steps to
    the next one along a row and along a column, each (3,).

    ``frame`` counts from 1 in a file of several frames, and is None in a file of one.
    """

    header: Dataset
    frame: int | None
    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray

    def points(self, pixels: np.ndarray) -> np.ndarray:
        """Where ``pixels`` (points, 2), counted along a row and along a column, lie: (points, 3) in mm."""
        return self.position + pixels[:, :1] * self.along_row + pixels[:, 1:] * self.along_column


@dataclass(frozen=True)
class Source:
    """A series: the ``headers`` of its files, and its ``planes``, both in the order of the volume's last axis."""

    headers: tuple[Dataset, ...]
    planes: tuple[Plane, ...]
    name: str

    @property
    def first(self) -> Dataset:
        return self.headers[0]

    def check_lies_on(self, grid: Grid) -> None:
        """ImageError unless each slice of ``grid`` is the plane of its number: else labels would be displaced."""
        x, y, z = grid.shape
        to_mm = LPS_TO_RAS @ grid.matrix
        reason = f"it has {len(self.planes)} slices, and the segmentation {z}" if len(self.planes) != z else ""
        for k, plane in enumerate(self.planes if not reason else ()):
            corners = np.array([[0, 0], [x - 1, 0], [0, y - 1], [x - 1, y - 1]], float)
            expected = (np.c_[corners, np.full(4, k), np.ones(4)] @ to_mm.T)[:, :3]
            away = plane.points(corners) - expected
            within = away - away[0]  # slices may be a little unevenly spaced, but their planes may not differ
            if np.abs(within).max() > default_tolerance_mm(grid) or np.linalg.norm(away[0]) > grid.spacing_mm[2] / 2:
                reason = f"slice {k + 1} lies {np.linalg.norm(away, axis=1).max():.3g} mm beside that of the segmentation"
                break
        if reason:
            raise ImageError(
                f"{self.name}: no DICOM can be written for it: {reason}. Export the series again, one file per slice, or "
                "leave out `dicom`."
            )


def read_source(path: Path) -> Source:
    """The headers of the series at ``path``, a folder or one of its files. Raises ImageError."""
    try:
        headers = [_complete(_header(file)) for file in slices_of(path)]
        planes = _frames(headers[0]) if _frame_count(headers[0]) > 1 else [_plane(header) for header in headers]
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise ImageError(
            f"{path}: its headers are incomplete ({error}). Export the series again, or leave out `dicom`."
        ) from error
    return Source(tuple(headers), tuple(planes), str(path))


def what_is_missing(path: Path) -> str:
    """Why no DICOM output can refer to the series at ``path``, "" if one can. Raises ImageError if it is damaged."""
    header = _header(files_of(path)[0])
    missing = [name for name in _NEEDED if not header.get(name)]
    return f"its headers have no {', '.join(missing)}" if missing else ""


def series_number(source: Source, kind: int) -> int:
    """A number for the series of an output: those of series 7 are 7001, 7002, ... by ``kind``."""
    try:
        number = int(source.first.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        number = 0
    return (number if 0 <= number < 1_000_000 else 0) * 1000 + kind


def character_set(source: Source, texts: Sequence[str]) -> str:
    """How an output writes text: in UTF-8, or as the source where that is Latin-1 and ``texts`` are plain ASCII."""
    own = source.first.get("SpecificCharacterSet")
    return _LATIN if own == _LATIN and all(text.isascii() for text in texts) else "ISO_IR 192"


def text_of(text: str, most: int = 64) -> str:
    """``text`` as DICOM's short texts hold it: of ``most`` characters, without backslashes and control characters."""
    return "".join(c if c.isprintable() and c != "\\" else "_" for c in text)[:most].strip() or "_"


def _header(file: Path) -> Dataset:
    import pydicom

    try:
        return pydicom.dcmread(file, stop_before_pixels=True)
    except Exception as error:  # pydicom raises many kinds
        raise ImageError(f"{file}: its header cannot be read ({error}). Export the series again.") from error


def _complete(header: Dataset) -> Dataset:
    """``header`` with an empty element where DICOM wants one and there is none."""
    made = copy.copy(header)
    for name in PATIENT_AND_STUDY:
        if name not in made:
            setattr(made, name, "")
    if made.PatientSex not in _SEXES:
        made.PatientSex = ""
    return made


def _frame_count(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _plane(header: Dataset) -> Plane:
    return _placed(header, None, header.ImagePositionPatient, header.ImageOrientationPatient, header.PixelSpacing)


def _frames(header: Dataset) -> list[Plane]:
    """The planes of a file with several frames (enhanced CT and MR)."""
    shared, planes = header.SharedFunctionalGroupsSequence[0], []
    for number, own in enumerate(header.PerFrameFunctionalGroupsSequence, start=1):
        position = own.PlanePositionSequence[0].ImagePositionPatient
        orientation = (own if "PlaneOrientationSequence" in own else shared).PlaneOrientationSequence[0].ImageOrientationPatient
        spacing = (own if "PixelMeasuresSequence" in own else shared).PixelMeasuresSequence[0].PixelSpacing
        planes.append(_placed(header, number, position, orientation, spacing))
    return planes


def _placed(
    header: Dataset, frame: int | None, position: Sequence[float], orientation: Sequence[float], spacing: Sequence[float]
) -> Plane:
    row, column = np.asarray(orientation, dtype=float).reshape(2, 3)
    between_rows, between_columns = (float(value) for value in spacing)
    return Plane(header, frame, np.asarray(position, dtype=float), row * between_columns, column * between_rows)
