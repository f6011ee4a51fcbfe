"""A BIDS tree and the segmentations in its derivatives to the raw layout.

``sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz`` with ``derivatives/<pipeline>/sub-01/ses-1/anat/sub-01_ses-1_dseg.nii.gz``
(and its table ``dseg.tsv``), or with one ``..._label-<name>_mask.nii.gz`` per label.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dataset_conversion.bids_files import BidsFile, image_files, is_label_mask, parse_entities, table_of
from dataset_conversion.label_names import named_labels, read_label_table
from dataset_conversion.labelled_cases import CaseOptions, Conversion, as_test_cases, check_apart, write_cases
from dataset_conversion.raw_layout import dataset_folder
from dataset_conversion.source_cases import ImageFile, LabelFiles, SourceCase
from diffatlas_pipeline import console
from diffatlas_pipeline.datasets.raw import listed
from diffatlas_pipeline.errors import DatasetError

# What a derivative's name may have beside the entities of its source.
_DERIVED = ("space", "seg", "res", "den", "desc", "label", "atlas")


@dataclass(frozen=True)
class _Segmentations:
    """What a folder of derivatives holds by case; ``labels`` maps names to values, None where nothing names them."""

    by_case: Mapping[str, Sequence[BidsFile]]
    masks: bool
    labels: Mapping[str, int] | None
    bad: Mapping[str, str]


def convert_bids(
    source: Path,
    raw_folder: Path,
    dataset_id: int,
    *,
    name: str | None = None,
    derivatives: str | None = None,
    suffixes: Sequence[str] | None = None,
    image_with: Sequence[str] | None = None,
    labels_with: Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
    label_table: Path | None = None,
    options: CaseOptions | None = None,
) -> Path:
    """Convert the images in ``source`` that have a segmentation; returns the raw data set's folder.

    ``derivatives`` is the name of a folder in ``derivatives/``, or any path; None: the only one with segmentations.
    ``suffixes`` (T1w, FLAIR) become channels; None: the only one in anat. ``image_with`` and ``labels_with`` are
    entities that names must have. Labels as in :func:`~dataset_conversion.folder.convert_folder`, by default those of
    ``dseg.tsv``. Raises DatasetError that lists all that is unmatched, ambiguous or broken, before anything is written.
    """
    options = options or CaseOptions()
    if not any(path.is_dir() for path in source.glob("sub-*")):
        raise DatasetError(f"{source}: holds no folder sub-01 or the like. Give the root of a BIDS data set.")
    given = named_labels(label_names, label_table)
    title = name or _title(source)
    folder = dataset_folder(raw_folder, dataset_id, title)
    pipeline = _pipeline(source, derivatives)
    for place in (source, pipeline):
        check_apart(place, folder)
    wanted = parse_entities(image_with, "image_with")
    images = [file for file in image_files(source) if file.suffix not in ("dseg", "mask", "probseg") and file.has(wanted)]
    channels = _channels(images, suffixes, source)
    console.say(f"Channels: {', '.join(channels)}. Segmentations: {pipeline}.")
    found = _segmentations(pipeline, parse_entities(labels_with, "labels_with"), given)
    cases, bad = _cases([file for file in images if file.suffix in channels], channels, found)
    cases, bad = as_test_cases(cases, bad, options, source)
    only_occurring = given is None and not found.masks
    labels = given if given is not None else found.labels
    origin = {"derivatives": str(pipeline), "image_with": list(image_with or ()), "labels_with": list(labels_with or ())}
    conversion = Conversion("bids", source, title, channels, cases, bad, labels, only_occurring, origin=origin)
    write_cases(folder, conversion, options)
    return folder


def _title(source: Path) -> str:
    """The data set's name, of what may be in a folder's name."""
    title = source.name
    with suppress(OSError, ValueError, KeyError, TypeError):  # the folder's name will do
        title = str(json.loads((source / "dataset_description.json").read_text(encoding="utf-8-sig"))["Name"])
    return re.sub(r"[^A-Za-z0-9]+", "", title) or "BIDS"


def _pipeline(source: Path, derivatives: str | None) -> Path:
    """The folder of derivatives that holds the segmentations. DatasetError if none does, or several do."""
    parent = source / "derivatives"
    if derivatives is not None:
        for folder in (parent / derivatives, Path(derivatives).expanduser().resolve()):
            if folder.is_dir():
                return folder
        there = ", ".join(sorted(path.name for path in parent.glob("*") if path.is_dir())) or "none"
        raise DatasetError(f"`derivatives` {derivatives}: no such folder. In {parent} there are: {there}.")
    candidates = [path for path in sorted(parent.glob("*")) if path.is_dir() and not path.name.startswith("sub-")]
    if any(path.is_dir() for path in parent.glob("sub-*")):
        candidates.append(parent)
    patterns = ("sub-*/**/*_dseg.nii*", "sub-*/**/*_label-*_mask.nii*")
    holding = [path for path in candidates if any(next(path.glob(pattern), None) for pattern in patterns)]
    if len(holding) == 1:
        return holding[0]
    if holding:
        raise DatasetError(
            f"{parent}: {len(holding)} folders hold segmentations ({', '.join(path.name for path in holding)}). "
            "Choose one with `derivatives`."
        )
    raise DatasetError(
        f"{parent}: no folder in it holds a sub-01/.../sub-01_dseg.nii.gz or sub-01_label-name_mask.nii.gz. Give the folder "
        "with the segmentations with `derivatives`."
    )


def _channels(images: Sequence[BidsFile], suffixes: Sequence[str] | None, source: Path) -> tuple[str, ...]:
    """The suffixes of the images that become channels."""
    there = sorted({file.suffix for file in images if suffixes is not None or file.path.parent.name == "anat"})
    if suffixes is not None:
        lacking = [suffix for suffix in suffixes if suffix not in there]
        if lacking or len(set(suffixes)) != len(suffixes):
            raise DatasetError(
                f"{source}: images with suffix {', '.join(lacking) or 'given twice'} are not there. Known suffixes are "
                f"{listed(there) or 'none'}; choose with `suffixes`."
            )
        return tuple(suffixes)
    if len(there) != 1:
        raise DatasetError(
            f"{source}: images in anat have the suffixes {listed(there) or 'none'}. "
            "Choose with `suffixes`: each becomes a channel."
        )
    return (there[0],)


# ------------------------------------------------------------------------------------------------------- segmentations
def _segmentations(pipeline: Path, wanted: Mapping[str, str], given: Mapping[str, int] | None) -> _Segmentations:
    """The segmentations in ``pipeline`` whose names have all ``wanted`` entities."""
    files = [file for file in image_files(pipeline) if file.has(wanted)]
    maps, masks = [file for file in files if file.suffix == "dseg"], [file for file in files if is_label_mask(file)]
    if not maps and not masks:
        raise DatasetError(
            f"{pipeline}: holds no ..._dseg.nii.gz and no ..._label-name_mask.nii.gz"
            f"{' with the entities in `labels_with`; correct it' if wanted else ''}. Or give another folder with `derivatives`."
        )
    by_case: dict[str, list[BidsFile]] = defaultdict(list)
    for file in maps or masks:
        by_case[file.case].append(file)
    if maps:
        if masks:
            console.say(f"{pipeline.name}: {len(masks)} masks of single labels are not read, since there are dseg files.")
        return _Segmentations(by_case, False, _table(maps, pipeline) if given is None else None, {})
    return _of_masks(by_case, given)


def _of_masks(by_case: Mapping[str, list[BidsFile]], given: Mapping[str, int] | None) -> _Segmentations:
    """Segmentations of one mask per label; the labels are numbered by name, unless they are ``given``."""
    names = sorted({file.entities["label"] for files in by_case.values() for file in files})
    labels = dict(given) if given is not None else {name: index for index, name in enumerate(names, start=1)}
    bad, good = {}, {}
    for case, files in by_case.items():
        own = [file.entities["label"] for file in files]
        doubled = [file.path.name for file in files if own.count(file.entities["label"]) > 1]
        if doubled:
            bad[case] = f"several masks of one label (`labels_with` chooses): {', '.join(sorted(doubled))}"
        elif lacking := [name for name in labels if name not in own and labels[name] != 0]:
            bad[case] = f"no mask of label {', '.join(lacking)}"
        elif unknown := [name for name in own if name not in labels]:
            bad[case] = f"mask of label {', '.join(unknown)}, which `label_names` does not name"
        else:
            good[case] = sorted(files, key=lambda file: labels[file.entities["label"]])
    if given is None:
        numbers = ", ".join(f"{name} {value}" for name, value in labels.items())
        console.say(f"The masks become one label map, numbered by name: {numbers}.")
    return _Segmentations(good, True, labels, bad)


def _table(maps: Sequence[BidsFile], pipeline: Path) -> dict[str, int] | None:
    """The labels that the tables of ``maps`` name; None where there is no table. DatasetError where they disagree."""
    tables = {table for file in maps if (table := table_of(file, pipeline)) is not None}
    labels: dict[str, int] = {}
    for table in sorted(tables):
        for name, value in read_label_table(table).items():
            if labels.setdefault(name, value) != value:
                raise DatasetError(f"{table}: '{name}' is {value}, but {labels[name]} in another dseg.tsv. Make them agree.")
    if not tables:
        return None
    console.say(f"Labels are named by {listed([str(table.relative_to(pipeline)) for table in sorted(tables)])}.")
    return labels


# --------------------------------------------------------------------------------------------------------------- cases
def _cases(
    images: Sequence[BidsFile], channels: Sequence[str], found: _Segmentations
) -> tuple[list[SourceCase], dict[str, str]]:
    """Images with their segmentations, and what is wrong with others."""
    by_case: dict[str, dict[str, list[BidsFile]]] = defaultdict(lambda: defaultdict(list))
    for file in images:
        by_case[file.case][file.suffix].append(file)
    bad = dict(found.bad)
    for case, files in found.by_case.items():
        if case not in by_case:
            bad[case] = f"{files[0].path.name} has no image with suffix {' or '.join(channels)}"
    cases = []
    for case, suffixes in sorted(by_case.items()):
        if case in bad:
            continue
        segmentations = found.by_case.get(case, ())
        if len(segmentations) > 1 and not found.masks:
            bad[case] = f"several segmentations (`labels_with` chooses): {_names(segmentations)}"
            continue
        of_channels = [_fitting(suffixes.get(channel, ()), segmentations) for channel in channels]
        lacking = [channel for channel, files in zip(channels, of_channels, strict=True) if not files]
        doubled = [files for files in of_channels if len(files) > 1]
        if lacking:
            there = [file for files in suffixes.values() for file in files]
            bad[case] = f"no image with suffix {', '.join(lacking)} (found {_names(there)})"
        elif doubled:
            bad[case] = f"several images with one suffix (`image_with` chooses): {_names(doubled[0])}"
        else:
            values = tuple((found.labels or {})[file.entities["label"]] for file in segmentations) if found.masks else None
            labels = LabelFiles(tuple(file.path for file in segmentations), values) if segmentations else None
            cases.append(SourceCase(case, tuple(ImageFile(files[0].path) for files in of_channels), labels))
    return cases, bad


def _fitting(files: Sequence[BidsFile], segmentations: Sequence[BidsFile]) -> Sequence[BidsFile]:
    """Of several images of a channel the one that the segmentation's name was made of, if its entities tell."""
    if len(files) < 2 or not segmentations:
        return files
    source = {key: value for key, value in segmentations[0].entities.items() if key not in _DERIVED}
    fitting = [file for file in files if dict(file.entities) == source]
    return fitting or files


def _names(files: Sequence[BidsFile]) -> str:
    return ", ".join(sorted(file.path.name for file in files))
