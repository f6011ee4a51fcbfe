"""Which DICOM series lie in a folder, and which of them are no scans, with the reason."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.volumes.dicom_elements import begins_as_dicom, class_of
from diffatlas_pipeline.volumes.itk import open_header

if TYPE_CHECKING:
    import SimpleITK as sitk

POSITION, ORIENTATION = "0020|0032", "0020|0037"  # of a slice, in mm and as direction cosines
NUMBER, _SERIES = "0020|0011", "0020|000e"  # of the series: its number, its UID
_CLASS, _IMAGE_TYPE, _SAMPLES, _NUMBER_OF_FRAMES = "0008|0016", "0008|0008", "0028|0002", "0028|0008"
_INDEX = "DICOMDIR"

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_STANDARD = "1.2.840.10008."  # what is not of the standard, makers have added
# By how the UID of their class begins (PS3.6, annex A): objects that hold no image, and images that are no scans.
_NO_SCANS = {
    f"{_STORAGE}88.": "a structured report",
    f"{_STORAGE}11.": "a presentation state",
    f"{_STORAGE}104.": "an encapsulated document",
    f"{_STORAGE}9.": "a waveform",
    f"{_STORAGE}481.3": "contours (RTSTRUCT)",
    f"{_STORAGE}481.": "an object of radiotherapy",
    f"{_STORAGE}66.1": "a registration",
    f"{_STORAGE}66.2": "fiducials",
    f"{_STORAGE}66.3": "a registration",
    f"{_STORAGE}66.5": "a surface segmentation",
    f"{_STORAGE}66.6": "a tractography",
    f"{_STORAGE}66": "raw data",
    f"{_STORAGE}4.2": "raw spectra",
    f"{_STORAGE}67": "a mapping of values",
    f"{_STORAGE}66.4": "a segmentation (DICOM SEG)",
    f"{_STORAGE}66.7": "a segmentation (DICOM SEG)",
    f"{_STORAGE}30": "a parametric map",
    f"{_STORAGE}481.1": "an image of radiotherapy",
    f"{_STORAGE}481.2": "a dose distribution (RTDOSE)",
    "1.2.840.10008.5.1.4.34.": "a work list",
    "1.2.840.10008.1.3.10": "the index of a disc",
}


@dataclass(frozen=True)
class Content:
    """The DICOM files in a folder, not in its sub-folders.

    ``series``: files by SeriesInstanceUID. ``others``: files that hold no image, by what they are. ``lost``: files that
    should belong to a series and do not, as those that are empty or damaged.
    """

    series: Mapping[str, tuple[Path, ...]]
    others: Mapping[str, tuple[Path, ...]]
    lost: tuple[Path, ...]


def content_of(folder: Path) -> Content:
    """What DICOM files lie in ``folder``. Raises ImageError for a damaged file, OSError for one that cannot be read."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    stats = [path.stat() for path in files]
    return _content_of(folder, tuple((path.name, s.st_size, s.st_mtime_ns) for path, s in zip(files, stats, strict=True)))


def has_series(folder: Path) -> bool:
    """Whether ``folder`` itself (not its sub-folders) holds DICOM images, be they damaged."""
    try:
        return bool(content_of(folder).series)
    except ImageError:
        return True
    except OSError:
        return False


def stands_for_series(path: Path) -> bool:
    """Whether an image's ``path`` is a DICOM series: the folder of one, or a file of it, where others lie beside it."""
    try:
        return path.is_dir() or (path.is_file() and begins_as_dicom(path))
    except (ImageError, OSError):
        return False


def why_no_scan(files: Sequence[Path], flat: bool = False) -> str:
    """Why the series of ``files`` is not meant to be segmented, as "a localizer"; "" if it may be a scan.

    A single slice is one only where scans may be ``flat``. What is wrong with a scan, such as a missing slice or a
    damaged file, is found when it is read, and is no reason to pass over it.
    """
    try:
        headers = [open_header(path) for path in files]
    except ImageError:
        return ""
    first = headers[0]
    if reason := _kind(_text(first, _CLASS)):
        return reason
    if any("LOCALIZER" in _text(header, _IMAGE_TYPE).upper() for header in headers):
        return "a localizer"
    if _text(first, _SAMPLES) not in ("", "1"):
        return "an image in colour"
    if len(headers) == 1 and not flat and (_text(first, _NUMBER_OF_FRAMES) or "1") == "1":
        return "a single slice, and the model needs volumes"
    if len(headers) > 1:
        if not any(_text(header, POSITION) for header in headers):
            return "no volume: its images do not say where they lie"
        directions = Counter(tuple(round(v, 2) for v in numbers(header, ORIENTATION)) for header in headers)
        if 2 * max(directions.values()) <= len(headers):
            return "no volume: its slices are not parallel, as those of a localizer"
    return ""


def numbers(header: sitk.ImageFileReader, tag: str) -> list[float]:
    """The numbers of a tag; none if it is missing or holds anything else."""
    try:
        return [float(number) for number in header.GetMetaData(tag).split("\\")] if header.HasMetaDataKey(tag) else []
    except ValueError:
        return []


@contextmanager
def quiet() -> Iterator[None]:
    """Without ITK's own warnings about uneven or absent slices: those are checked here, and are errors."""
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


@functools.lru_cache(maxsize=256)
def _content_of(folder: Path, listed: tuple[tuple[str, int, int], ...]) -> Content:
    """:func:`content_of`, remembered until a file that is ``listed`` (name, bytes, time of change) changes."""
    should = [folder / name for name, size, _ in listed if name != _INDEX and (size == 0 or begins_as_dicom(folder / name))]
    if not should:
        return Content({}, {}, ())
    series = _grouped(folder, should)
    known = {path.name for found in series.values() for path in found}
    others: dict[str, list[Path]] = {}
    lost = []
    for path in should:
        if path.name in known:
            continue
        kind = _kind(uid := class_of(path))
        if uid and not kind and not uid.startswith(_STANDARD):
            kind = "an object of a maker's own kind, without an image"
        others.setdefault(kind, []).append(path) if kind else lost.append(path)
    return Content(series, {kind: tuple(found) for kind, found in others.items()}, tuple(lost))


def _grouped(folder: Path, files: Sequence[Path]) -> dict[str, tuple[Path, ...]]:
    """The ``files`` in ``folder`` that hold images, by SeriesInstanceUID."""
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader
    try:
        with quiet():
            names = {uid: reader.GetGDCMSeriesFileNames(str(folder), uid) for uid in reader.GetGDCMSeriesIDs(str(folder))}
        return {uid: tuple(Path(name) for name in found) for uid, found in names.items()}
    except RuntimeError:  # a single object that is not understood ends it for the whole folder
        pass
    series: dict[str, list[Path]] = {}
    for path in files:
        try:
            header = open_header(path)
        except ImageError:
            continue
        if uid := _text(header, _SERIES):
            series.setdefault(uid, []).append(path)
    return {uid: tuple(found) for uid, found in series.items()}


def _kind(uid: str) -> str:
    """What an object of a class that holds no scans is called, by the longest known beginning of its UID; or ""."""
    begins = [start for start in _NO_SCANS if f"{uid}.".startswith(start if start.endswith(".") else f"{start}.")]
    return _NO_SCANS[max(begins, key=len)] if begins else ""


def _text(header: sitk.ImageFileReader, tag: str) -> str:
    return header.GetMetaData(tag).strip() if header.HasMetaDataKey(tag) else ""
