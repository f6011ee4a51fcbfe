"""Write the raw layout: DatasetXXX_Name/{imagesTr, labelsTr, imagesTs, labelsTs, dataset.json}.

Every file appears whole or not at all, nothing of the source is moved or changed, and writing the same data set again
changes nothing. ``dataset.json`` is written last: a folder that has one is complete. ``labelsTs`` is an extension of
the layout: the labels of the test cases, for evaluation only.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diffatlas_pipeline import console
from diffatlas_pipeline.errors import DatasetError, UserError
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.parallel import TIMEOUT_S
from diffatlas_pipeline.processes import Lost, Pools

FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class LayoutDescription:
    """What goes into ``dataset.json``: channel names in file order, foreground labels, file ending, and free notes."""

    channels: tuple[str, ...]
    labels: Mapping[str, int]
    file_ending: str
    notes: Mapping[str, Any]


def dataset_folder(raw_folder: Path, dataset_id: int, name: str) -> Path:
    """The folder of data set ``dataset_id`` (1 to 999) called ``name``. Raises DatasetError if the number is taken."""
    if not 1 <= dataset_id <= 999:
        raise DatasetError(f"Data set number {dataset_id} is not between 1 and 999. Choose another with `dataset_id`.")
    if not _NAME.fullmatch(name):
        raise DatasetError(f"Data set name '{name}' may hold only letters, digits, '_' and '-'. Choose another with `name`.")
    folder = raw_folder / f"Dataset{dataset_id:03d}_{name}"
    others = [p.name for p in sorted(raw_folder.glob(f"Dataset{dataset_id:03d}_*")) if p.is_dir() and p != folder]
    if others:
        raise DatasetError(
            f"{raw_folder} already has {', '.join(others)}. Choose another number with `dataset_id`, or the same `name`."
        )
    return folder


def image_name(case: str, channel: int, file_ending: str) -> str:
    """File name of one channel of a case."""
    return f"{case}_{channel:04d}{file_ending}"


def place_file(source: Path, target: Path, copy: bool = False) -> None:
    """Put ``source`` at ``target`` as a hard link, or as a copy where ``copy`` is set or a link is impossible.

    A target that already is this file, or a copy of its size and time, is left as it is.
    """
    if target.exists() and holds(target, source) and not (copy and target.samefile(source)):
        return
    with_temporary(target, lambda temporary: _link_or_copy(source, temporary, copy))


def holds(target: Path, source: Path) -> bool:
    """Whether ``target`` is ``source`` itself, or a copy of its size and time."""
    found, wanted = target.stat(), source.stat()
    return target.samefile(source) or (found.st_size, found.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns)


def _link_or_copy(source: Path, target: Path, copy: bool) -> None:
    source = source.resolve()  # a link to a symbolic link would break when that is removed
    if not copy:
        try:
            os.link(source, target)
            return
        except OSError as error:
            # Other file system, no links there, too many, or not permitted on another user's file.
            if error.errno not in (
                errno.EXDEV,
                errno.EPERM,
                errno.EACCES,
                errno.EMLINK,
                errno.ENOTSUP,
                errno.ENOSYS,
                errno.EINVAL,
            ):
                raise
    shutil.copyfile(source, target)
    times = source.stat()
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))


def with_temporary(target: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` with a temporary path beside ``target`` (same ending), then put the finished file in place
    atomically.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    temporary.unlink(missing_ok=True)
    try:
        write(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def make_folders(folder: Path, parts: Iterable[str]) -> None:
    """Make ``folder`` and its sub-folders. Raises DatasetError if the place cannot be written to."""
    try:
        for part in parts:
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"Cannot write to {folder} ({error.strerror}). Choose another place.") from error


def check_leftovers(folder: Path, expected: Mapping[str, set[str]], overwrite: bool) -> None:
    """Make sure that ``folder`` holds no case but the ``expected`` file names per sub-folder.

    Others are removed with ``overwrite``, else DatasetError names them: they would silently be trained on. Temporary
    files of a run that was killed are always removed.
    """
    left: list[Path] = []
    for part in FOLDERS:
        for path in sorted((folder / part).glob("*")):
            if path.name.startswith(".") and path.is_file():
                path.unlink(missing_ok=True)
            elif path.name not in expected.get(part, set()):
                left.append(path)
    if not left:
        return
    if not overwrite:
        names = ", ".join(f"{path.parent.name}/{path.name}" for path in left[:3])
        raise DatasetError(
            f"{folder} holds {len(left)} file(s) that this conversion does not make ({names}{', …' if len(left) > 3 else ''}). "
            "Give `overwrite` to remove them, or another number with `dataset_id`."
        )
    for path in left:
        if path.is_file() or path.is_symlink():
            path.unlink()
    (folder / "dataset.json").unlink(missing_ok=True)


def description_of(name: str, training_cases: int, description: LayoutDescription) -> dict[str, Any]:
    """What ``dataset.json`` holds."""
    return {
        "channel_names": {str(index): channel for index, channel in enumerate(description.channels)},
        "labels": {"background": 0, **dict(sorted(description.labels.items(), key=lambda item: item[1]))},
        "numTraining": training_cases,
        "file_ending": description.file_ending,
        "name": name,
        **description.notes,
    }


def write_description(folder: Path, name: str, training_cases: int, description: LayoutDescription) -> None:
    """Write ``dataset.json``; leaves the file alone if it says the same already."""
    content = description_of(name, training_cases, description)
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    path = folder / "dataset.json"
    if not (path.is_file() and path.read_text(encoding="utf-8") == text):
        write_text_atomically(path, text)


def for_each_case(
    work: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    workers: int,
    title: str,
    results: dict[str, Any] | None = None,
) -> dict[str, str]:
    """Run ``work(case, ...)`` for every job with a progress bar; returns what went wrong, per case, with every job
    tried.

    Only UserError and OSError count as a case's fault; any other exception is a bug and is raised. ``work`` must be a
    top-level function; what it returns is put into ``results`` under the case's name. A worker that is killed, stopped
    or does not end costs its case alone.
    """
    bad: dict[str, str] = {}
    done: dict[str, Any] = {} if results is None else results
    tried = partial(_tried, work)
    found: Iterable[tuple[int, Any]] = ((index, tried(job)) for index, job in enumerate(jobs))
    if workers > 1 and len(jobs) > 1:
        found = Pools(tried, jobs, min(workers, len(jobs)), TIMEOUT_S).finished()
    for index, result in console.each(found, title, len(jobs), "cases"):
        case = str(jobs[index][0])
        if isinstance(result, Lost):
            bad[case] = f"{result.reason} Use fewer `workers`."
        elif isinstance(result, _Fault):
            bad[case] = result.problem
        else:
            done[case] = result
    return bad


@dataclass(frozen=True)
class _Fault:
    problem: str


def _tried(work: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    try:
        return work(*job)
    except (UserError, OSError) as error:
        return _Fault(str(error))


LEAVE_OUT = "Mend these cases, or leave them out of the source's list, then run the same command again."


def raise_bad_cases(bad: Mapping[str, str], folder: Path, remedy: str = LEAVE_OUT) -> None:
    """Raise one DatasetError that lists every bad case and ends with ``remedy``, if there is any."""
    if bad:
        (folder / "dataset.json").unlink(missing_ok=True)  # an older one would declare this folder complete
        width = max(len(case) for case in bad)
        table = "\n".join(f"  {case:<{width}}  {problem}" for case, problem in sorted(bad.items()))
        raise DatasetError(
            f"{len(bad)} case(s) could not be converted:\n{table}\nThe others are in {folder}, without a dataset.json. {remedy}"
        )
