"""The scans that a user gives: folders, files, and lists of files."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffatlas_pipeline.datasets.cases import cases_named, cases_of, image_stems, left_out, list_cases
from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.datasets.raw import listed
from diffatlas_pipeline.errors import ImageError, UserError
from diffatlas_pipeline.inference.dicom_inputs import FoundSeries, series_below, twice
from diffatlas_pipeline.volumes import dicom
from diffatlas_pipeline.volumes.io import (
    FILE_ENDINGS,
    channels_in,
    check_format,
    is_picture,
    is_series,
    name_without_ending,
)

LISTS = (".txt", ".csv")
COLUMNS = ("image", "scan", "path", "file")  # of a CSV list: the first that is there, else the first of all


@dataclass(frozen=True)
class Scans:
    """The ``cases`` that were found, DICOM objects that were ``skipped``, with the reason, and other ``warnings``."""

    cases: tuple[CaseFiles, ...]
    skipped: tuple[FoundSeries, ...] = ()
    warnings: tuple[str, ...] = ()


def find_scans(sources: Sequence[Path], channels: int, needs_all: str = "", flat: bool = True) -> Scans:
    """The scans of ``sources``: folders of scans, single files, and lists of either (:func:`read_list`).

    DICOM series are found in all folders below those that are given; those that are no scans are skipped, single slices
    among them unless scans may be ``flat``. Cases may lack channels, unless something ``needs_all``: then it is said
    what would help. ImageError names what is missing, and cases of one name in several places.
    """
    given = [path for source in sources for path in (read_list(source) if _is_list(source) else [source])]
    if absent := [str(path) for path in given if not path.exists()]:
        raise ImageError(f"{listed(absent)}: no such file or folder. Give scans as `input`.")
    below = {path: _series_of(path, flat) for path in given if path.is_dir()}
    found = [one for series in below.values() for one in series]
    alone = [path for path in given if path not in below or (len(below[path]) == 1 and _is_scan(below[path][0], path))]
    may_lack = not needs_all
    if len(given) == 1 and not given[0].is_dir():
        cases = _cases_of_file(given[0], channels, needs_all)
    else:
        cases = [case for path in below if path not in alone for case in _cases_in(path, below[path], channels, needs_all)]
        if alone:
            cases += cases_of([_with_name(path) for path in alone], "input", None, channels, may_lack, needs_all)
    _check_names(cases)
    return Scans(tuple(cases), tuple(one for one in found if one.reason), twice(found))


def check_apart(sources: Sequence[Path], output: Path) -> None:
    """UserError if ``output`` is one of the folders in which scans are looked for."""
    if output.resolve() in {source.resolve() for source in sources if source.is_dir()}:
        raise UserError(
            f"{output}: holds the scans. Segmentations among them would be taken for scans next time: give another `output`."
        )


def read_list(path: Path) -> list[Path]:
    """The files and folders that a text file names, one a line, or a CSV file in a column "image" (or its first one).

    Relative names start at the list's own folder. Empty lines, and those that begin with #, do not count. UserError if
    it names nothing or is no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a list of scans ({error}). Give one file name a line.") from error
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    names = _column(lines) if path.suffix.lower() == ".csv" else lines
    if not names:
        raise UserError(f"{path}: names no scan. Give one file name a line.")
    return [path.parent / Path(name).expanduser() for name in names]


def passed_over(sources: Sequence[Path], scans: Scans) -> tuple[str, ...]:
    """What lies in ``sources`` and is no case, a sentence each: DICOM objects that were skipped, and other files in the
    folders among them.
    """
    used = [image for files in scans.cases for image in files.images]
    used += [file for image in used if is_series(image) for file in _files_of(image)]
    used += [path for one in scans.skipped for path in (one.path, *one.files)]
    said = [f"{one.path}: is left out: {one.reason}" + _count(one) for one in scans.skipped]
    for source in sources:
        if not source.is_dir():
            continue
        inner = [source / path.relative_to(source).parts[0] for path in used if path != source and path.is_relative_to(source)]
        if passed := left_out(source, [*used, *inner]):
            said.append(f"{source}: {len(passed)} file(s) or folder(s) are no scans and are left out: {listed(passed)}")
    return (*said, *scans.warnings)


def _is_list(source: Path) -> bool:
    return source.suffix.lower() in LISTS and source.is_file()


def _column(lines: Sequence[str]) -> list[str]:
    """The entries of the column that names scans; a first row that names none of them is an entry, too."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    header = [cell.lower() for cell in rows[0]] if rows else []
    named = next((header.index(name) for name in COLUMNS if name in header), None)
    entries = rows if named is None else rows[1:]
    return [row[named or 0] for row in entries if len(row) > (named or 0) and row[named or 0]]


def _series_of(folder: Path, flat: bool) -> list[FoundSeries]:
    """The series below ``folder``; in it, too, unless it is one of image files."""
    return series_below(folder, flat, itself=all(is_picture(path) for path in image_stems(folder.iterdir())))


def _is_scan(one: FoundSeries, path: Path) -> bool:
    return not one.reason and one.path == path


def _with_name(path: Path) -> Path:
    return path if path.name not in ("", "..") else path.resolve()  # "." has no name


def _cases_in(source: Path, found: Sequence[FoundSeries], channels: int, needs_all: str) -> list[CaseFiles]:
    """The cases of a folder: of the image files in it, and of the series that were ``found`` below it.

    Series are channels of one case if their names end as those of channels do; with a single channel that holds only
    for series in folders that lie in ``source`` itself.
    """
    scans = [one for one in found if not one.reason]
    skipped = [f"  {one.path}: {one.reason}{_count(one)}" for one in found if one.reason]
    plain = {one.path: one.name for one in scans if channels > 1 or one.path.parent == source}
    stems = {**image_stems(sorted(source.iterdir())), **plain}
    cases = [CaseFiles(one.name, (one.path,), None) for one in scans if one.path not in plain]
    if not stems and not cases and skipped:
        lines = [f"{source}: holds no scan that can be segmented, but", *skipped]
        raise ImageError("\n".join(lines) + "\nGive a folder with the series of a scan.")
    if stems or not cases:
        cases += cases_named(stems, str(source), FILE_ENDINGS, channels, not needs_all, needs_all)
    return sorted(cases, key=lambda files: files.case)


def _cases_of_file(source: Path, channels: int, needs_all: str) -> list[CaseFiles]:
    """The one case of a single file."""
    check_format(source)
    if is_picture(source) and channels_in(source) == channels:  # colours are channels of one file
        return [CaseFiles(name_without_ending(source).removesuffix("_0000"), (source,), None)]
    if channels != 1 and not needs_all:
        return list_cases(source, None, channels, may_lack=True)
    if channels != 1:
        raise ImageError(
            f"{source}: one file, but the model needs {channels} channels. Give a folder with all of them. {needs_all}"
        )
    return [CaseFiles(name_without_ending(source).removesuffix("_0000"), (source,), None)]


def _files_of(image: Path) -> Sequence[Path]:
    try:
        return () if image.is_dir() else dicom.files_of(image)
    except ImageError:
        return ()


def _count(one: FoundSeries) -> str:
    return f" ({len(one.files)} files)" if len(one.files) > 1 else ""


def _check_names(cases: Sequence[CaseFiles]) -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for files in cases:
        places[files.case].append(str(files.images[0]))
    doubled = [f"  {case}: {' and '.join(paths)}" for case, paths in places.items() if len(paths) > 1]
    if doubled:
        raise ImageError(
            "\n".join([f"{len(doubled)} case(s) have one name in several places:", *doubled])
            + "\nOne segmentation would replace the other. Rename them, or give each place an `output` of its own."
        )
