"""Open every case once and list all that is wrong or unusual, before hours of work are spent on it."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from diffatlas_pipeline import console
from diffatlas_pipeline.datasets.cases import Problem
from diffatlas_pipeline.datasets.description import CaseFiles, RawDataset
from diffatlas_pipeline.datasets.raw import MAX_LISTED, listed
from diffatlas_pipeline.datasets.sizes import largest_bytes, reading_bytes, reading_memory, useful_workers
from diffatlas_pipeline.errors import DatasetError, ImageError
from diffatlas_pipeline.parallel import run_cases
from diffatlas_pipeline.volumes.grids import grid_difference
from diffatlas_pipeline.volumes.io import read_labels, read_volume
from diffatlas_pipeline.volumes.padding import padding_value

ALL = "all cases"
Row = tuple[str, str]  # of a table: a case, and what is told of it
USUAL_MM = (0.01, 30.0)  # edges of voxels: beyond, the units of a header may be wrong
FAR_FROM_OTHERS = 5.0  # times the edge of the median voxel, likewise
FIXED_BOUNDS = ("ct", "nonorm", "rgb_to_0_1")  # channels of these names do not go by each image's own intensities


@dataclass(frozen=True)
class Inspection:
    """What was found in a data set: ``problems``, with which it cannot be used, and ``notes`` on what is unusual."""

    problems: tuple[Row, ...]
    notes: tuple[Row, ...]


@dataclass(frozen=True)
class _Task:
    files: CaseFiles
    values: tuple[int, ...]  # label values that may occur, background included


@dataclass(frozen=True)
class _Finding:
    case: str
    dimensions: int = 0
    values: tuple[int, ...] = ()  # that occur in its labels
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    digest: int | None = None  # of its voxels
    label_digest: int | None = None
    padding: tuple[float | None, ...] = ()  # what pads each channel
    spacing_mm: tuple[float, ...] = ()


def check_dataset(dataset: RawDataset, workers: int, of_files: Sequence[Problem] = ()) -> None:
    """Raise one DatasetError with a table of all bad cases; say what is unusual. See :func:`inspect_dataset`."""
    found = inspect_dataset(dataset, workers, of_files)
    if found.problems:
        raise DatasetError(problem_table(dataset, found.problems))
    for case, note in found.notes[:MAX_LISTED]:
        console.warn(f"{case}: {note}")
    if len(found.notes) > MAX_LISTED:
        console.warn(f"and {len(found.notes) - MAX_LISTED} more such notes")


def inspect_dataset(dataset: RawDataset, workers: int, of_files: Sequence[Problem] = ()) -> Inspection:
    """Look at files, grids and label values of all training and unlabelled cases, ``workers`` at a time. ``of_files``
    are the problems that listing them has found; what no case tells alone is not noted then, since some are not there.

    Problems are: files that cannot be read, NaN, channels on different grids, constant images, a label grid that is not
    the image's, label values that ``dataset.json`` does not name, two- and three-dimensional cases mixed, no foreground
    at all. Notes are: files that are left out, axes that are not perpendicular, labels in no case, one image twice,
    values that pad images, voxels of a size that is unusual or far from the others'.
    """
    description = dataset.description
    values = description.label_values + (() if description.ignore is None else (description.ignore,))
    cases = [*dataset.training, *dataset.unlabelled]
    if not dataset.training and of_files:
        return Inspection(tuple(of_files), ())
    if not dataset.training:
        raise DatasetError(f"{dataset.folder / 'imagesTr'}: no training case. At least one image with its label is needed.")
    tasks = [_Task(files, values) for files in cases]
    names = [files.case for files in cases]
    findings = run_cases(
        _look_at,
        tasks,
        names,
        useful_workers(cases, workers),
        "Checking",
        memory=lambda task: reading_memory(task.files),
        item_bytes=largest_bytes(cases, reading_bytes),
    )
    problems = [*of_files, *((finding.case, problem) for finding in findings for problem in finding.problems)]
    dimensions = [finding.dimensions for finding in findings if finding.dimensions]
    usual = max((2, 3), key=lambda d: (dimensions.count(d), d))
    problems += [
        (finding.case, f"{finding.dimensions}-D image among {usual}-D ones")
        for finding in findings
        if finding.dimensions not in (0, usual)
    ]
    seen = {value for finding in findings for value in finding.values}
    if not problems and not seen & {*description.label_values[1:]}:
        problems.append((ALL, f"no voxel of any label ({', '.join(label.name for label in dataset.description.labels)})"))
    notes = [(finding.case, note) for finding in findings for note in finding.notes]
    return Inspection(tuple(problems), (*notes, *(() if of_files else _notes_on_all(dataset, findings, seen))))


def problem_table(dataset: RawDataset, problems: Sequence[Row], most: int = MAX_LISTED) -> str:
    """``problems`` as an error shows them, at most so many."""
    bad = len({case for case, _ in problems})
    total = len({files.case for files in (*dataset.training, *dataset.unlabelled)} | {case for case, _ in problems} - {ALL})
    first = f"{dataset.folder}: {bad} of {total} cases cannot be used. Mend or remove them."
    return "\n".join([first, table(("case", "problem"), problems, most)])


def table(header: Row, rows: Sequence[Row], most: int = MAX_LISTED) -> str:
    """Two columns, at most ``most`` rows."""
    width = max(len(case) for case, _ in (header, *rows))
    lines = [f"  {case:<{width}}  {text}" for case, text in (header, *rows[:most])]
    return "\n".join([*lines, *([f"  and {len(rows) - most} more"] if len(rows) > most else [])])


def _notes_on_all(dataset: RawDataset, findings: Sequence[_Finding], seen: set[int]) -> Iterator[Row]:
    """What no case tells alone."""
    if dataset.left_out:
        ending = dataset.description.file_ending
        yield (
            ALL,
            f"{len(dataset.left_out)} file(s) are left out, since they do not end in {ending}: {listed(dataset.left_out)}",
        )
    if absent := [label.name for label in dataset.description.labels if not seen & {*label.values}]:
        yield ALL, f"no case has label {', '.join(absent)}: it is learnt as absent"
    yield from _notes_on_padding(dataset, findings)
    yield from _notes_on_spacing(findings)
    same: dict[int, list[_Finding]] = defaultdict(list)
    for finding in findings:
        if finding.digest is not None:
            same[finding.digest].append(finding)
    for first, *others in same.values():
        if others:
            which = listed([other.case for other in others])
            labels = {one.label_digest for one in (first, *others)} - {None}
            differ = ", with other labels" if len(labels) > 1 else ""
            yield first.case, f"the same image as {which}{differ}: in different folds, validation would be too good"


def _notes_on_padding(dataset: RawDataset, findings: Sequence[_Finding]) -> Iterator[Row]:
    """What pads images, of channels whose contrast goes by each image's own intensities."""
    padded: dict[tuple[int, float], list[str]] = defaultdict(list)
    for finding in findings:
        for channel, value in enumerate(finding.padding[: len(dataset.description.channels)]):
            if value is not None:
                padded[channel, value].append(finding.case)
    for (channel, value), cases in sorted(padded.items()):
        name = dataset.description.channels[channel]
        if name.lower() not in FIXED_BOUNDS:
            yield ALL, f"channel {name} is padded with {value:g}, which is taken for no intensity: {listed(cases)}"


def _notes_on_spacing(findings: Sequence[_Finding]) -> Iterator[Row]:
    """Voxels whose size makes one doubt the units of the header."""
    sized = [finding for finding in findings if finding.spacing_mm]
    edges = {finding.case: float(np.prod(finding.spacing_mm)) ** (1 / len(finding.spacing_mm)) for finding in sized}
    median = float(np.median([*edges.values()])) if edges else 1.0
    for finding in sized:
        size = " x ".join(f"{edge:.3g}" for edge in finding.spacing_mm)
        ratio = edges[finding.case] / median
        if not (USUAL_MM[0] <= min(finding.spacing_mm) and max(finding.spacing_mm) <= USUAL_MM[1]):
            yield finding.case, f"its voxels are {size} mm, which is unusual: look at the units of its header"
        elif not 1 / FAR_FROM_OTHERS <= ratio <= FAR_FROM_OTHERS:
            others = f"{ratio:.3g} times as long as the median's edges"
            yield finding.case, f"its voxels are {size} mm, {others}: look at the units of its header"


def _look_at(task: _Task) -> _Finding:
    files, problems, notes = task.files, [], []
    try:
        volume = read_volume(files.images)
    except ImageError as error:
        return _Finding(files.case, problems=(str(error),))
    problems += [f"channel {index} is constant" for index, channel in enumerate(volume.array) if np.ptp(channel) == 0]
    grid, digest = volume.grid, zlib.crc32(np.ascontiguousarray(volume.array).data)
    padding = tuple(padding_value(channel) for channel in volume.array)
    spacing_mm = grid.spacing_mm[: grid.dimensions]
    if grid.is_sheared:
        notes.append("its axes are not perpendicular, as with a tilted gantry: it is resampled so that they are")
    del volume
    values: tuple[int, ...] = ()
    drawn: int | None = None
    if files.label is not None:
        try:
            labels = read_labels(files.label)
        except ImageError as error:
            problems.append(str(error))
            return _Finding(files.case, grid.dimensions, (), tuple(problems), tuple(notes), digest, None, padding, spacing_mm)
        drawn = zlib.crc32(np.ascontiguousarray(labels.array).data)
        difference = grid_difference(grid, labels.grid)
        if difference:
            same_shape = " (DiffAtlas_check can mend it in a copy)" if grid.shape == labels.grid.shape else ""
            problems.append(f"label and image lie on different grids: {difference}{same_shape}")
        values = tuple(int(value) for value in np.unique(labels.array))
        foreign = [value for value in values if value not in task.values]
        if foreign:
            shown = ", ".join(map(str, foreign[:5])) + (", ..." if len(foreign) > 5 else "")
            problems.append(f"label value(s) {shown} not in dataset.json (allowed: {', '.join(map(str, sorted(task.values)))})")
    return _Finding(files.case, grid.dimensions, values, tuple(problems), tuple(notes), digest, drawn, padding, spacing_mm)
