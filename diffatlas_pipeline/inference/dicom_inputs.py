"""The DICOM series below a folder, however deep: which are scans, what each is called, and why the others are none."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffatlas_pipeline import console
from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.volumes.dicom_series import NUMBER, Content, content_of, why_no_scan
from diffatlas_pipeline.volumes.io import is_text
from diffatlas_pipeline.volumes.itk import open_header

_LONGEST_NAME = 150  # in characters: a file's name may have 255 bytes, and endings are added to it


@dataclass(frozen=True)
class FoundSeries:
    """A DICOM series in ``folder``, or DICOM files there that are none.

    ``path`` stands for it as the image of a case: the folder, or one of its ``files`` where others share the folder.
    ``name`` tells it from the other scans below the same source. ``reason`` says why it is no scan ("": it is one).
    """

    folder: Path
    path: Path
    files: tuple[Path, ...]
    uid: str = ""
    name: str = ""
    reason: str = ""


def series_below(source: Path, flat: bool, itself: bool = True) -> list[FoundSeries]:
    """All series below ``source`` by folder; in the folder ``itself``, too, or only in those below it.

    A scan is called by its folders, from the one below ``source`` on, joined by "_". Several scans in one folder have
    "_series" and their number behind that, or the UID where numbers do not tell them apart. Single slices are scans if
    these may be ``flat``.
    """
    folders = [source, *_below(source, {source.resolve()})]
    found: list[FoundSeries] = []
    for folder in console.each(folders, "Looking for DICOM series", len(folders), "folders"):
        if folder != source or itself:
            found += _named(_in_folder(folder, source, flat), folder, source)
    times = Counter(one.name for one in found if not one.reason)
    return [replace(one, name=f"{one.name}_{one.uid}") if times[one.name] > 1 and one.uid else one for one in found]


def twice(found: Sequence[FoundSeries]) -> tuple[str, ...]:
    """A sentence for each series of which files lie in several folders: copies, or parts of one scan."""
    folders: dict[str, list[str]] = defaultdict(list)
    for one in found:
        if one.uid and not one.reason:
            folders[one.uid].append(str(one.folder))
    return tuple(
        f"{' and '.join(places)} hold files of one DICOM series. Each folder is segmented as a scan of its own: if they are "
        "parts of it, put them into one folder"
        for places in folders.values()
        if len(places) > 1
    )


def _below(folder: Path, seen: set[Path]) -> list[Path]:
    """The folders below ``folder``, sorted, without hidden ones and those that links lead to again."""
    found = []
    try:
        inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return []
    for path in inner:
        if (place := path.resolve()) not in seen:
            seen.add(place)
            found += [path, *_below(path, seen)]
    return found


def _in_folder(folder: Path, source: Path, flat: bool) -> list[FoundSeries]:
    """What DICOM files lie in ``folder`` itself, without names."""
    try:
        content = content_of(folder)
    except ImageError:  # reading it will say what is wrong
        return [FoundSeries(folder, folder, ())]
    except OSError as error:
        if not os.access(folder, os.R_OK | os.X_OK):
            return [FoundSeries(folder, folder, (), reason=f"cannot be read ({error.strerror or error})")]
        return [FoundSeries(folder, folder, ())]  # one of its files cannot be read: the case fails, and says so
    if content.series and not is_text(str(folder)):
        files = tuple(file for group in content.series.values() for file in group)
        return [FoundSeries(folder, folder, files, reason="its folder has a name that is no text in UTF-8")]
    found = [_series(folder, uid, content, flat) for uid in content.series]
    found += [FoundSeries(folder, files[0], files, reason=kind) for kind, files in content.others.items()]
    if content.lost and not content.series and folder != source:
        found.append(FoundSeries(folder, folder, content.lost, reason="files that are empty or damaged, and no series"))
    return sorted(found, key=lambda one: str(one.path))


def _series(folder: Path, uid: str, content: Content, flat: bool) -> FoundSeries:
    files = content.series[uid]
    path = folder if len(content.series) == 1 else min(files)
    return FoundSeries(folder, path, files, uid, reason=why_no_scan(files, flat))


def _named(found: Sequence[FoundSeries], folder: Path, source: Path) -> list[FoundSeries]:
    """``found`` in one folder with names, those of scans unlike."""
    whole = folder if folder.name not in ("", "..") else folder.resolve()  # "." has no name
    name = whole.name if folder == source else "_".join(folder.relative_to(source).parts)
    scans = [one for one in found if not one.reason]
    numbers = [_number(one) for one in scans] if len(scans) > 1 else []
    told_apart = all(number.isdigit() for number in numbers) and len(set(numbers)) == len(numbers)
    behind = {
        one.path: f"_series{number}" if told_apart else f"_{_plain(one.uid)}"
        for one, number in zip(scans, numbers, strict=False)
    }
    return [replace(one, name=_short(name + behind.get(one.path, ""), _plain(one.uid))) for one in found]


def _short(name: str, uid: str) -> str:
    """``name``, or where a file could not be called so, its beginning and the UID, which has at most 64 characters."""
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    return f"{name.encode()[: _LONGEST_NAME - 65].decode(errors='ignore')}_{uid}"


def _plain(uid: str) -> str:
    """A UID as part of a file name: digits and dots are all that it may have, and all that is taken of it."""
    return re.sub(r"[^0-9.]", "", uid).strip(".")


def _number(one: FoundSeries) -> str:
    """The number of a series, "" if it has none."""
    header = open_header(one.path)
    return header.GetMetaData(NUMBER).strip() if header.HasMetaDataKey(NUMBER) else ""
