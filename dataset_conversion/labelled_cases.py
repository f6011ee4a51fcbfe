"""From the cases of a source to a data set: everything is read and judged first, so that a refusal leaves no file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset_conversion.case_files import Target, common_ending, targets_of
from dataset_conversion.label_names import check_names, numbered
from dataset_conversion.raw_layout import (
    FOLDERS,
    LayoutDescription,
    check_leftovers,
    description_of,
    for_each_case,
    make_folders,
    raise_bad_cases,
    write_description,
)
from dataset_conversion.source_cases import Finding, SourceCase, check_case
from diffatlas_pipeline import console
from diffatlas_pipeline.datasets.raw import read_description
from diffatlas_pipeline.errors import DatasetError

_LISTED = 5


@dataclass(frozen=True)
class CaseOptions:
    """What a user can choose of how cases are converted."""

    leave_out_bad: bool = False  # else one bad case is enough to refuse all
    unlabelled_to_test: bool = False  # else an image without labels is a bad case
    fix_geometry: bool = False  # give labels and channels that lie elsewhere the place of the first channel
    test_cases: Sequence[str] | None = None  # of the labelled cases; None: none
    copy: bool = False  # else hard links, where the file system allows
    workers: int = 1
    overwrite: bool = False


@dataclass(frozen=True)
class Conversion:
    """What a converter has found. ``bad`` maps what cannot be a case to the reason.

    ``labels`` maps names to values, None where the source names none. With ``only_occurring`` those in no file of the
    source are left out. ``notes`` go into ``dataset.json``, as does ``origin``: what, beside ``source``, tells this
    data set from another one with the same names of cases.
    """

    converter: str
    source: Path
    title: str
    channels: tuple[str, ...]
    cases: Sequence[SourceCase]
    bad: Mapping[str, str]
    labels: Mapping[str, int] | None
    only_occurring: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)


def write_cases(folder: Path, conversion: Conversion, options: CaseOptions) -> None:
    """Write the data set ``folder``, ``dataset.json`` last; what is there already, and right, is left as it is.

    Raises DatasetError, before anything is written, that lists every bad case; or says that ``folder`` holds another
    data set. With ``leave_out_bad`` the bad cases are said and left out.
    """
    check_apart(conversion.source, folder)
    if conversion.labels is not None:
        check_names(conversion.labels, str(conversion.source))
    cases, findings, bad = _judged(conversion, options)
    if bad and not options.leave_out_bad:
        remedy = "Mend or remove these, or give `leave_out_bad` to convert the others. Nothing was written."
        raise DatasetError(f"{conversion.source}: {len(bad)} problem(s). {remedy}\n{_table(bad)}")
    if bad:
        console.warn(f"{len(bad)} case(s) or file(s) are left out:\n{_table(bad)}")
    if all(case.test for case in cases):
        raise DatasetError(f"{conversion.source}: no training case is left. At least one image with its labels is needed.")
    labels = _labels(conversion, findings)
    displaced = {name: finding.displaced for name, finding in findings.items() if finding.displaced}
    for name in sorted(displaced):
        console.warn(f"{name}: {len(displaced[name])} file(s) get the place of its first channel. Look at them.")
    ending = common_ending(cases, bool(displaced))
    targets = {case.name: targets_of(case, folder, ending, displaced.get(case.name, ())) for case in cases}
    notes = {**conversion.notes, "conversion": _origin(conversion), **({"left_out": sorted(bad)} if bad else {})}
    description = LayoutDescription(conversion.channels, labels, ending, notes)
    read_description(description_of(conversion.title, 0, description), folder / "dataset.json")  # refuses what it cannot be
    _check_folder(folder, targets, description, options.overwrite)
    expected: dict[str, set[str]] = {part: set() for part in FOLDERS}
    for target in (target for several in targets.values() for target in several):
        expected[target.path.parent.name].add(target.path.name)
    check_leftovers(folder, expected, options.overwrite)
    make_folders(folder, [part for part, names in expected.items() if names])
    edited = [target for several in targets.values() for target in several if not options.overwrite and _was_changed(target)]
    if edited:
        names = ", ".join(f"{target.path.parent.name}/{target.path.name}" for target in edited[:_LISTED])
        console.warn(
            f"{len(edited)} file(s) were changed after they were converted and are kept ({names}). `overwrite` makes them "
            "again."
        )
        targets = {name: [target for target in several if target not in edited] for name, several in targets.items()}
    jobs = [
        (name, several, options.copy)
        for name, several in targets.items()
        if options.copy or not all(target.is_there() for target in several)  # with `copy` a link that is there is replaced
    ]
    only_links = all(target.linked is not None for several in targets.values() for target in several)
    workers = options.workers if options.copy or not only_links else 1  # a process costs more than thousands of links
    raise_bad_cases(for_each_case(_write, jobs, workers, "Converting"), folder)
    write_description(folder, conversion.title, sum(not case.test for case in cases), description)


def check_apart(source: Path, folder: Path) -> None:
    """Raise DatasetError if ``source`` lies in ``folder``: writing it would change the source."""
    if folder == source or folder in source.parents:
        raise DatasetError(f"{source}: lies in {folder}, which is to be written. Choose another `name` or `dataset_id`.")


def as_test_cases(
    cases: Sequence[SourceCase], bad: Mapping[str, str], options: CaseOptions, source: Path
) -> tuple[list[SourceCase], dict[str, str]]:
    """``cases`` with those marked that the options make test cases; and ``bad`` with those that have no labels and are
    no test cases.

    Raises DatasetError for a test case that is not there.
    """
    chosen = set(options.test_cases or ())
    if unknown := sorted(chosen - {case.name for case in cases} - set(bad)):
        some = ", ".join(unknown[:_LISTED]) + (", …" if len(unknown) > _LISTED else "")
        raise DatasetError(f"{source}: {len(unknown)} test case(s) are not among its cases: {some}. Correct the list.")
    kept, bad = [], dict(bad)
    for case in cases:
        test = case.test or case.name in chosen or (case.labels is None and options.unlabelled_to_test)
        if case.labels is None and not test:
            names = ", ".join(image.path.name for image in case.images)
            bad[case.name] = f"no labels for {names} (`unlabelled_to_test` makes such cases test cases)"
        else:
            kept.append(SourceCase(case.name, case.images, case.labels, test))
    return kept, bad


# ------------------------------------------------------------------------------------------------------------ judging
def _judged(conversion: Conversion, options: CaseOptions) -> tuple[list[SourceCase], dict[str, Finding], dict[str, str]]:
    """The cases that can be used, what they hold, and what is wrong with the others."""
    bad: dict[str, str] = dict(conversion.bad)
    findings: dict[str, Finding] = {}
    known = None if conversion.labels is None else {value for value in conversion.labels.values() if value != 0}
    jobs = [(case.name, case, known, options.fix_geometry) for case in conversion.cases]
    bad |= for_each_case(check_case, jobs, options.workers, "Checking", findings)
    dimensions = Counter(finding.dimensions for finding in findings.values())
    usual = max(dimensions, key=lambda axes: (dimensions[axes], axes), default=3)
    for name, finding in findings.items():
        if finding.dimensions != usual:
            bad[name] = f"{finding.dimensions}-D image among {usual}-D ones"
    cases = [case for case in conversion.cases if case.name not in bad]
    return cases, {case.name: findings[case.name] for case in cases}, bad


def _labels(conversion: Conversion, findings: Mapping[str, Finding]) -> dict[str, int]:
    """The labels of the data set, with what is said of them."""
    occurring = sorted({value for finding in findings.values() for value in finding.values})
    if not occurring:
        raise DatasetError(f"{conversion.source}: no voxel of any case has a label. At least one label is needed.")
    if conversion.labels is None:
        labels = numbered(occurring)
        console.say(f"Nothing names the labels: they are called {', '.join(labels)}. Give `label_names` to name them.")
        return labels
    labels = {name: value for name, value in conversion.labels.items() if value != 0}
    absent = [name for name, value in labels.items() if value not in occurring]
    if absent and conversion.only_occurring:
        console.say(f"{len(absent)} of {len(labels)} named labels are in no case and left out.")
        return {name: value for name, value in labels.items() if name not in absent}
    return labels


def _table(bad: Mapping[str, str]) -> str:
    width = max(len(case) for case in bad)
    return "\n".join(f"  {case:<{width}}  {problem}" for case, problem in sorted(bad.items()))


# ------------------------------------------------------------------------------------------------ what is there already
def _origin(conversion: Conversion) -> dict[str, Any]:
    """What a ``dataset.json`` says of where its data set comes from."""
    return {"converter": conversion.converter, "source": str(conversion.source), **conversion.origin}


def _check_folder(
    folder: Path, targets: Mapping[str, Sequence[Target]], description: LayoutDescription, overwrite: bool
) -> None:
    """Raise DatasetError if ``folder`` holds what this conversion would replace: files from another source, or a
    ``dataset.json`` that says other things.
    """
    if overwrite:
        return
    found = _description_there(folder / "dataset.json")
    advice = "Give `overwrite` to replace it, or another number with `dataset_id`."
    if found.get("conversion") != description.notes["conversion"]:
        # Made files of earlier releases have no mark.
        old = {
            target for several in targets.values() for target in several if "conversion" not in found and target.linked is None
        }
        differing = [target for several in targets.values() for target in several if _differs(target)]
        other = [target.path for target in differing if not (found and target in old and _was_changed(target))]
        if other:
            names = ", ".join(f"{path.parent.name}/{path.name}" for path in other[:_LISTED])
            raise DatasetError(f"{folder}: holds another data set: {len(other)} file(s) differ ({names}). {advice}")
    wanted = description_of(folder.name, 0, description)
    for entry in ("channel_names", "labels", "file_ending"):
        if found and found.get(entry) != wanted[entry]:
            raise DatasetError(f"{folder / 'dataset.json'}: {entry} there is {found.get(entry)}, not {wanted[entry]}. {advice}")


def _differs(target: Target) -> bool:
    return target.path.exists() and not target.is_there()


def _was_changed(target: Target) -> bool:
    """Whether what is there differs, and is newer than all that it is made of: somebody's work, such as a corrected
    label.
    """
    if not _differs(target):
        return False
    written = target.path.stat().st_mtime_ns
    return all(written > source.stat().st_mtime_ns for source in target.sources if source.is_file())


def _description_there(path: Path) -> dict[str, Any]:
    """What a ``dataset.json`` says; nothing if it is not there. DatasetError if it cannot be read."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8-sig")))
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{path}: cannot be read as JSON ({error}). Correct it, or give `overwrite`.") from error


def _write(name: str, targets: Sequence[Target], copy: bool) -> None:
    for target in targets:
        target.write(copy)
