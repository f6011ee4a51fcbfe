"""Find the cases of a folder of images, the files of a folder of segmentations, and what is neither."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.volumes.dicom_series import has_series
from diffatlas_pipeline.volumes.io import FILE_ENDINGS, channels_in, ending_of, is_picture, is_text, name_without_ending

_OVERLAY = re.compile("^(worst|median|best)_")  # of a case: drawn by an evaluation
# What programs write beside segmentations.
_BESIDE = frozenset([".csv", ".ctbl", ".html", ".json", ".log", ".md", ".npy", ".npz", ".pkl", ".tsv", ".txt"])
_CHANNEL = re.compile(r"(.+)_(\d{4})")
Problem = tuple[str, str]  # a case, and what is wrong with it


class IncompleteCases(ImageError):
    """Some cases cannot be used for want of a channel, or of a name of their own: ``problems`` (case, what is wrong),
    and the ``complete`` others.
    """

    def __init__(self, message: str, problems: Sequence[Problem], complete: Sequence[CaseFiles]) -> None:
        super().__init__(message)
        self.problems, self.complete = tuple(problems), tuple(complete)


def is_case_name(name: str) -> bool:
    """Whether files can be named so in one folder: a name from a stranger's file must not lead to another."""
    return not {"/", "\\", "\0"} & set(name) and name not in ("", ".", "..")


def list_cases(
    folder: Path, file_ending: str | None, channels: int, may_lack: bool = False, advice: str = ""
) -> list[CaseFiles]:
    """The cases in ``folder``, sorted by name, without labels.

    A case is ``case_0000.ext``, ``case_0001.ext``, ... (one file per channel), or just ``case.ext`` when ``channels``
    is 1; a sub-folder with a DICOM series counts as a file ``case`` or ``case_0000``. A ``folder`` that itself is one
    series, or is one file, is one case. ``file_ending`` None accepts all of :data:`FILE_ENDINGS` and DICOM.

    Pictures with colours hold several channels: where the first one has several, a case is one file.

    Cases that ``may_lack`` channels tell by the number in the name which of them is there. Raises ImageError if there
    is no case, or lists all cases whose channels are missing, too many or doubled; ``advice`` says what helps where
    some are missing.
    """
    if not folder.exists():
        raise ImageError(f"{folder}: no such folder. Give a folder of images.")
    candidates = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    if file_ending is None and folder.is_dir() and not _stems(candidates, None) and has_series(folder):
        series = folder if folder.name not in ("", "..") else folder.resolve()  # "." has no name
        return cases_of([series], str(folder), None, channels, may_lack, advice)
    return cases_of(candidates, str(folder), file_ending, channels, may_lack, advice)


def cases_of(
    candidates: Sequence[Path],
    named: str,
    file_ending: str | None,
    channels: int,
    may_lack: bool = False,
    advice: str = "",
) -> list[CaseFiles]:
    """:func:`list_cases` of the files and series ``candidates``; ``named`` says in messages where they were found."""
    return cases_named(_stems(candidates, file_ending), named, _endings(file_ending), channels, may_lack, advice)


def cases_named(
    stems: Mapping[Path, str],
    named: str,
    endings: Sequence[str] = FILE_ENDINGS,
    channels: int = 1,
    may_lack: bool = False,
    advice: str = "",
) -> list[CaseFiles]:
    """:func:`list_cases` of images by their names without ending, ``stems``."""
    if volumes := {path: stem for path, stem in stems.items() if not is_picture(path)}:
        stems = volumes  # pictures beside scans are drawn of them
    found: dict[str, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    if channels > 1 and _holds_colours(stems):
        channels = 1
    for path, stem in stems.items():
        name, channel = _split(stem, channels, set(stems.values()))
        found[name][channel].append(path)
    if not found:
        raise ImageError(
            f"{named}: holds no images. Allowed are files ending in {', '.join(endings)} and sub-folders with a DICOM series."
        )
    lacks = {name: tuple(c for c in range(channels) if c not in paths) for name, paths in found.items()}
    unnumbered = {stem for stem in stems.values() if not _CHANNEL.fullmatch(stem)}  # what is which channel, they do not tell
    refused = [
        (name, _missing(found[name], lacks[name], channels, may_lack))
        for name in found
        if lacks[name] and (not may_lack or name in unnumbered)
    ]
    problems = [*refused, *((name, problem) for name, paths in found.items() for problem in _problems(paths, channels))]
    bad = {name for name, _ in problems}
    complete = [
        CaseFiles(name, tuple(found[name][c][0] for c in sorted(found[name])), None, missing=lacks[name])
        for name in sorted(found)
        if name not in bad
    ]
    if problems:
        lines = [
            f"{named}: {len(problems)} problem(s) with its files:",
            *(f"  {name}: {problem}" for name, problem in problems),
        ]
        raise IncompleteCases("\n".join([*lines, *([advice] if refused and advice else [])]), problems, complete)
    return complete


def _holds_colours(paths: Iterable[Path]) -> bool:
    """Whether the first picture that can be read has several channels."""
    for path in paths:
        if is_picture(path):
            with suppress(ImageError):
                return channels_in(path) > 1
    return False


def segmentation_files(folder: Path) -> dict[str, Path]:
    """The segmentations in ``folder`` by case, sorted; ``folder`` may be such a file itself.

    The name without its ending is the case: segmentations have no channels, so ``scan_0001`` is a case of that name.
    Raises ImageError if there is none, or lists cases that have several.
    """
    if not folder.exists():
        raise ImageError(f"{folder}: no such folder. Give a folder of segmentations.")
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()) if folder.is_dir() else [folder]:
        if ending_of(path) and not path.name.startswith("."):
            found[name_without_ending(path)].append(path)
    if any(not is_picture(path) for paths in found.values() for path in paths):  # pictures are drawn of the others
        found = _without(found, lambda case, path: is_picture(path))
    names = {*found}
    found = _without(found, lambda case, path: is_picture(path) and _is_overlay(case, path, names))
    if not found:
        raise ImageError(f"{folder}: holds no segmentations. Allowed are files ending in {', '.join(FILE_ENDINGS)}.")
    doubled = [f"  {case}: {_names(paths)}" for case, paths in found.items() if len(paths) > 1]
    if doubled:
        raise ImageError("\n".join([f"{folder}: {len(doubled)} case(s) with several files; keep one of each:", *doubled]))
    return {case: paths[0] for case, paths in found.items()}


def not_segmentations(folder: Path) -> tuple[str, ...]:
    """What lies in ``folder`` and may be meant as segmentations, but :func:`segmentation_files` passes over: other
    endings, and names that are no text.
    """
    if not folder.is_dir():
        return ()
    others = [path for path in folder.iterdir() if path.is_dir() or ending_of(path) or path.suffix.lower() in _BESIDE]
    return left_out(folder, others)


def _is_overlay(case: str, path: Path, names: set[str]) -> bool:
    """Whether a picture was drawn of another case by an evaluation: in colours, which segmentations have not."""
    if _OVERLAY.match(case) is None or _OVERLAY.sub("", case) not in names:
        return False
    try:
        return channels_in(path) > 1
    except ImageError:
        return False


def _without(found: Mapping[str, list[Path]], dropped: Callable[[str, Path], bool]) -> dict[str, list[Path]]:
    """``found`` without the files that are ``dropped``, and cases that then have none."""
    kept = {case: [path for path in paths if not dropped(case, path)] for case, paths in found.items()}
    return {case: paths for case, paths in kept.items() if paths}


def left_out(folder: Path, used: Sequence[Path]) -> tuple[str, ...]:
    """What lies in ``folder`` beside the files that are ``used`` of it, by name: other endings, sub-folders without a
    series of their own, names that are no text. Hidden files, and the voxels beside a header, are not counted.
    """
    paths, place = {path.resolve() for path in used}, folder.resolve()
    if not folder.is_dir() or place in paths:  # a folder may itself be a series
        return ()
    known = {path.name for path in used if path.parent.resolve() == place}
    headers = {Path(name).stem for name in known if name.lower().endswith(".mhd")}
    names = [path.name for path in sorted(folder.iterdir()) if path.name not in known and not path.name.startswith(".")]
    names = [name for name in names if not (Path(name).stem in headers and name.lower().endswith("raw"))]
    pictures = {Path(name).stem for name in known if is_picture(Path(name))}
    spacings = {f"{stem}.json" for one in pictures for stem in (one, _split(one, 2, set())[0])}
    names = [name for name in names if name not in spacings]
    return tuple(name.encode("utf-8", "backslashreplace").decode() for name in names)


def _endings(file_ending: str | None) -> tuple[str, ...]:
    return FILE_ENDINGS if file_ending is None else (file_ending,)


def image_stems(candidates: Iterable[Path]) -> dict[Path, str]:
    """The image files among ``candidates``, without series, with their names without ending."""
    return {path: stem for path in candidates if (stem := _stem(path, FILE_ENDINGS, series=False)) is not None}


def _stems(candidates: Iterable[Path], file_ending: str | None) -> dict[Path, str]:
    """The images among ``candidates``, with their names without ending."""
    endings, series = _endings(file_ending), file_ending is None
    return {path: stem for path in candidates if (stem := _stem(path, endings, series)) is not None}


def _stem(path: Path, endings: tuple[str, ...], series: bool) -> str | None:
    """The name without its ending, or None for what is no image."""
    if path.name.startswith("."):
        return None
    if path.is_dir():
        return path.name if series and is_text(path.name) and has_series(path) else None
    return name_without_ending(path) if (ending_of(path) or "").lower() in endings else None


def _split(stem: str, channels: int, stems: set[str]) -> tuple[str, int]:
    """Case name and channel: ``case_0001`` is channel 1 of ``case``; a name without a number is channel 0.

    Where one channel is needed, ``case_0001`` alone is a case of that name, but beside a ``case_0000`` it is a second
    channel.
    """
    match = _CHANNEL.fullmatch(stem)
    if match and (channels > 1 or f"{match.group(1)}_0000" in stems):
        return match.group(1), int(match.group(2))
    return stem, 0


def _missing(paths: dict[int, list[Path]], missing: tuple[int, ...], channels: int, may_lack: bool) -> str:
    numbers = ", ".join(f"_{channel:04d}" for channel in missing)
    present = ", ".join(path.name for files in paths.values() for path in files)
    needed = "their names must end in the number of their channel" if may_lack else f"{channels} channel(s) needed"
    return f"channel {numbers} missing (found {present}; {needed})"


def _problems(paths: dict[int, list[Path]], channels: int) -> list[str]:
    """What is too much or doubled of a case."""
    problems = []
    for channel, files in paths.items():
        names = _names(files)
        if channel >= channels:
            wanted = "_0000 only" if channels == 1 else f"_0000 to _{channels - 1:04d}"
            problems.append(f"{names} is one channel too many ({wanted}); if it is a case of its own, rename it")
        if len(files) > 1:
            advice = "If one of them is a segmentation or a copy, move it to another folder"
            problems.append(f"{names} are the same channel. {advice}")
    return problems


def _names(paths: list[Path]) -> str:
    return " and ".join(path.name for path in paths)
