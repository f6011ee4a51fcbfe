"""The scans that a user gives: folders, files, and lists of files."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from diffatlas_pipeline.datasets.cases import cases_of, left_out, list_cases
from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.datasets.raw import listed
from diffatlas_pipeline.errors import ImageError, UserError
from diffatlas_pipeline.volumes import dicom
from diffatlas_pipeline.volumes.io import channels_in, check_format, is_picture, name_without_ending

LISTS = (".txt", ".csv")
COLUMNS = ("image", "scan", "path", "file")  # of a CSV list: the first that is there, else the first of all


def find_cases(sources: Sequence[Path], channels: int, needs_all: str = "") -> list[CaseFiles]:
    """The cases of ``sources``: folders of scans, single files, and lists of either (:func:`read_list`).

    Cases may lack channels, unless something ``needs_all``: then it is said what would help. ImageError names what is
    missing, and cases of one name in several places.
    """
    given = [path for source in sources for path in (read_list(source) if _is_list(source) else [source])]
    if absent := [str(path) for path in given if not path.exists()]:
        raise ImageError(f"{listed(absent)}: no such file or folder. Give scans as `input`.")
    if len(given) == 1:
        return _cases_in(given[0], channels, needs_all)
    folders = [path for path in given if path.is_dir() and not dicom.has_series(path)]
    files = [path for path in given if path not in folders]
    cases = [case for folder in folders for case in _cases_in(folder, channels, needs_all)]
    if files:
        cases += cases_of(files, "input", None, channels, not needs_all, needs_all)
    _check_names(cases)
    return cases


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


def passed_over(sources: Sequence[Path], cases: Sequence[CaseFiles]) -> tuple[str, ...]:
    """What lies in the folders among ``sources`` and is in none of the ``cases``, a sentence each."""
    used = [image for files in cases for image in files.images]
    said = []
    for source in sources:
        if source.is_dir() and (passed := left_out(source, used)):
            said.append(f"{source}: {len(passed)} file(s) or folder(s) are no scans and are left out: {listed(passed)}")
    return tuple(said)


def _is_list(source: Path) -> bool:
    return source.suffix.lower() in LISTS and source.is_file()


def _column(lines: Sequence[str]) -> list[str]:
    """The entries of the column that names scans; a first row that names none of them is an entry, too."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    header = [cell.lower() for cell in rows[0]] if rows else []
    named = next((header.index(name) for name in COLUMNS if name in header), None)
    entries = rows if named is None else rows[1:]
    return [row[named or 0] for row in entries if len(row) > (named or 0) and row[named or 0]]


def _cases_in(source: Path, channels: int, needs_all: str) -> list[CaseFiles]:
    """The cases of a folder, or the one case of a single file."""
    if not source.is_file():
        return list_cases(source, None, channels, not needs_all, needs_all)
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
