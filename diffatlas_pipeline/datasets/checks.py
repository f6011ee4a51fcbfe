"""Open every case once and list all that is wrong, before hours of work are spent on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffatlas_pipeline.datasets.description import CaseFiles, RawDataset
from diffatlas_pipeline.datasets.raw import MAX_LISTED
from diffatlas_pipeline.datasets.sizes import reading_memory, useful_workers
from diffatlas_pipeline.errors import DatasetError, ImageError
from diffatlas_pipeline.parallel import run_cases
from diffatlas_pipeline.volumes.grids import grid_difference
from diffatlas_pipeline.volumes.io import read_labels, read_volume


@dataclass(frozen=True)
class _Task:
    files: CaseFiles
    values: tuple[int, ...]  # label values that may occur, background included


@dataclass(frozen=True)
class _Finding:
    case: str
    dimensions: int
    has_foreground: bool
    problems: tuple[str, ...]


def check_dataset(dataset: RawDataset, workers: int) -> None:
    """Check files, grids and label values of all training and unlabelled cases, ``workers`` at a time.

    Found are: files that cannot be read, NaN, channels on different grids, constant images, a label grid that is not
    the image's, label values that ``dataset.json`` does not name, two- and three-dimensional cases mixed, no foreground
    at all. Raises one DatasetError with a table of all bad cases.
    """
    values = (0, *(label.value for label in dataset.description.labels))
    cases = [*dataset.training, *dataset.unlabelled]
    if not dataset.training:
        raise DatasetError(f"{dataset.folder / 'imagesTr'}: no training case. At least one image with its label is needed.")
    tasks = [_Task(files, values) for files in cases]
    names = [files.case for files in cases]
    workers = useful_workers(cases, workers)
    findings = run_cases(_check_case, tasks, names, workers, "Checking", memory=lambda task: reading_memory(task.files))
    rows = [(finding.case, problem) for finding in findings for problem in finding.problems]
    dimensions = [finding.dimensions for finding in findings if finding.dimensions]
    usual = max((2, 3), key=lambda d: (dimensions.count(d), d))
    rows += [
        (finding.case, f"{finding.dimensions}-D image among {usual}-D ones")
        for finding in findings
        if finding.dimensions not in (0, usual)
    ]
    if not rows and not any(finding.has_foreground for finding in findings):
        rows.append(("all cases", f"no voxel of any label ({', '.join(label.name for label in dataset.description.labels)})"))
    if rows:
        raise DatasetError(_table(dataset, rows))


def _check_case(task: _Task) -> _Finding:
    files, problems = task.files, []
    try:
        volume = read_volume(files.images)
    except ImageError as error:
        return _Finding(files.case, 0, False, (str(error),))
    problems += [f"channel {index} is constant" for index, channel in enumerate(volume.array) if np.ptp(channel) == 0]
    grid = volume.grid
    del volume
    foreground = False
    if files.label is not None:
        try:
            labels = read_labels(files.label)
        except ImageError as error:
            return _Finding(files.case, grid.dimensions, False, (*problems, str(error)))
        difference = grid_difference(grid, labels.grid)
        if difference:
            problems.append(f"label and image lie on different grids: {difference}")
        found = [int(value) for value in np.unique(labels.array)]
        foreground = any(value in task.values for value in found if value)
        foreign = [value for value in found if value not in task.values]
        if foreign:
            shown = ", ".join(map(str, foreign[:5])) + (", ..." if len(foreign) > 5 else "")
            problems.append(f"label value(s) {shown} not in dataset.json (allowed: {', '.join(map(str, sorted(task.values)))})")
    return _Finding(files.case, grid.dimensions, foreground, tuple(problems))


def _table(dataset: RawDataset, rows: list[tuple[str, str]]) -> str:
    width = max(len("case"), *(len(case) for case, _ in rows))
    bad = len({case for case, _ in rows})
    total = len(dataset.training) + len(dataset.unlabelled)
    lines = [f"{dataset.folder}: {bad} of {total} cases cannot be used. Mend or remove them."]
    lines += [f"  {'case':<{width}}  problem", *(f"  {case:<{width}}  {problem}" for case, problem in rows[:MAX_LISTED])]
    if len(rows) > MAX_LISTED:
        lines.append(f"  and {len(rows) - MAX_LISTED} more")
    return "\n".join(lines)
