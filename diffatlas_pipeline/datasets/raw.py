"""Find and list a raw data set in the nnU-Net v2 layout, without opening any image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffatlas_pipeline.datasets.cases import IncompleteCases, Problem, is_case_name, left_out, list_cases
from diffatlas_pipeline.datasets.description import MODALITIES, CaseFiles, DatasetDescription, RawDataset
from diffatlas_pipeline.datasets.label_entries import read_labels_entry
from diffatlas_pipeline.errors import DatasetError, ImageError
from diffatlas_pipeline.volumes.io import FILE_ENDINGS, channels_in, ending_of, is_picture, name_without_ending

READER = "overwrite_image_reader_writer"
_PICTURES = (".png", ".bmp", ".tif")
READERS = {  # of nnU-Net, and what each reads; here the file's ending tells
    "SimpleITKIO": FILE_ENDINGS,
    "SimpleITKIOWithReorient": FILE_ENDINGS,
    "NibabelIO": (".nii.gz", ".nii"),
    "NibabelIOWithReorient": (".nii.gz", ".nii"),
    "NaturalImage2DIO": _PICTURES,
    "Tiff3DIO": (".tif", ".tiff"),
}
FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "imagesUn")
MAX_LISTED = 20  # problems written out in one message; the rest are counted


def read_dataset(folder: Path, problems: list[Problem] | None = None) -> RawDataset:
    """List the raw data set in ``folder`` (``dataset.json``, ``imagesTr``, ``labelsTr``, optional ``imagesTs``,
    ``imagesUn``).

    Raises DatasetError for a missing or wrong ``dataset.json``, a missing folder, and for files that are missing: one
    message lists every case concerned. With ``problems``, these are added to it instead, and the other cases are
    listed; what is left out is not, then.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        raise DatasetError(f"{path}: no such file. A raw data set holds dataset.json, imagesTr and labelsTr.")
    raw = _parse(path)
    description = read_description(raw, path)
    channels = len(description.channels)
    if "dataset" in raw:
        training = _listed_cases(folder, raw["dataset"], channels, path, problems)
    else:
        images = _list(folder / "imagesTr", description.file_ending, channels, problems, needed=True)
        training = _attach_labels(images, folder / "labelsTr", description.file_ending, problems)
    expected = raw.get("numTraining")
    if isinstance(expected, int) and expected != len(training) and not problems:
        raise DatasetError(
            f"{path}: numTraining is {expected}, but {folder} holds {len(training)} training cases. "
            "Add the missing files or correct numTraining."
        )
    test = _list(folder / "imagesTs", description.file_ending, channels, problems)
    modality = _unlabelled_modality(raw, path)
    others = _list(folder / "imagesUn", description.file_ending, channels, problems)
    unlabelled = [replace(files, modality=modality) for files in others]
    used = [path for files in (*training, *test, *unlabelled) for path in (*files.images, files.label) if path is not None]
    passed = [] if problems else [f"{kind}/{name}" for kind in FOLDERS for name in left_out(folder / kind, used)]
    return RawDataset(folder, description, tuple(training), tuple(test), tuple(unlabelled), tuple(passed))


def read_description(raw: Mapping[str, Any], path: Path) -> DatasetDescription:
    """The description in a parsed ``dataset.json``; DatasetError says which entry is wrong and how to write it."""
    if "channel_names" not in raw and "modality" in raw:
        raise DatasetError(
            f"{path}: this is the older layout with 'modality'; 'channel_names' and 'file_ending' are needed. "
            "Convert a task of the Decathlon or of nnU-Net v1 with DiffAtlas_convert msd."
        )
    missing = [key for key in ("channel_names", "labels", "file_ending") if key not in raw]
    if missing:
        raise DatasetError(
            f"{path}: no entry {', '.join(repr(key) for key in missing)}. Needed are "
            '"channel_names": {"0": "MRI"}, "labels": {"background": 0, "name": 1}, "file_ending": ".nii.gz".'
        )
    ending = raw["file_ending"]
    reader = raw.get(READER)
    if reader is not None and reader not in READERS:
        raise DatasetError(
            f"{path}: {READER} is {reader!r}; known are {', '.join(READERS)}. Files are read by their ending: leave it out."
        )
    if reader is not None and ending not in READERS[reader]:
        raise DatasetError(f"{path}: {READER} {reader} does not read {ending}. Leave it out: files are read by their ending.")
    if ending not in FILE_ENDINGS:
        raise DatasetError(f"{path}: file_ending is {ending!r}; allowed are {', '.join(FILE_ENDINGS)}.")
    known = read_labels_entry(raw, path)
    return DatasetDescription(path.parent.name, _channels(raw["channel_names"], path), known.labels, ending, known.ignore)


def _parse(path: Path) -> Mapping[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin a file with a byte order mark
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: not valid JSON ({error}). Correct it.") from error
    if not isinstance(raw, Mapping):
        raise DatasetError(f"{path}: holds a {type(raw).__name__}, an object with 'channel_names' and 'labels' is needed.")
    return raw


def _channels(raw: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(raw, Mapping) or not raw or set(raw) != {str(i) for i in range(len(raw))}:
        raise DatasetError(f'{path}: channel_names is {raw!r}; write one name per channel as {{"0": "MRI", "1": "CT"}}.')
    return tuple(str(raw[str(i)]) for i in range(len(raw)))


def _unlabelled_modality(raw: Mapping[str, Any], path: Path) -> str | None:
    """What the scans of ``imagesUn`` are, if ``dataset.json`` says so."""
    value = raw.get("unlabelled_modality")
    if value is None:
        return None
    if not isinstance(value, str) or value.upper() not in MODALITIES:
        raise DatasetError(
            f"{path}: unlabelled_modality is {value!r}; allowed are {', '.join(MODALITIES)}. Leave it out if the scans of "
            "imagesUn are like those of imagesTr."
        )
    return value.upper()


def _list(folder: Path, ending: str, channels: int, problems: list[Problem] | None, needed: bool = False) -> list[CaseFiles]:
    """The cases in ``folder``; none when an optional folder is missing or empty."""
    if not needed and (not folder.is_dir() or not any(folder.iterdir())):
        return []
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder. Put the training images there, named case_0000.nii.gz and so on.")
    try:
        return sorted(list_cases(folder, ending, channels), key=lambda files: files.case)
    except IncompleteCases as error:
        if problems is None:
            raise DatasetError(str(error)) from error
        problems += [(case, f"{folder.name}: {problem}") for case, problem in error.problems]
        return list(error.complete)
    except ImageError as error:
        raise DatasetError(str(error)) from error


def _attach_labels(images: Sequence[CaseFiles], folder: Path, ending: str, told: list[Problem] | None) -> list[CaseFiles]:
    """Give each case its label file; DatasetError lists every image without label and every label without image."""
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder. Put one label file per training case there.")
    training: list[CaseFiles] = []
    problems: list[Problem] = []
    there = [path for path in sorted(folder.iterdir()) if (ending_of(path) or "").lower() == ending]
    labels = {name_without_ending(path): path for path in there if not path.name.startswith(".")}
    for files in images:
        label = labels.get(files.case)
        if label is None:
            problems.append((files.case, f"no label file {folder / f'{files.case}{ending}'}"))
        else:
            training.append(CaseFiles(files.case, files.images, label))
    known = {files.case for files in images} | {case for case, _ in told or ()}
    problems += [(case, f"label {path} has no image") for case, path in labels.items() if case not in known]
    _tell(folder.parent, problems, "Add the missing files or remove their partners.", told)
    return training


def _listed_cases(folder: Path, raw: Any, channels: int, path: Path, told: list[Problem] | None) -> list[CaseFiles]:
    """Training cases written out in ``dataset.json`` ("dataset": {case: {"images": [...], "label": ...}})."""
    training: list[CaseFiles] = []
    problems: list[Problem] = []
    if not isinstance(raw, Mapping) or not raw:
        raise DatasetError(f"{path}: 'dataset' must map each case to its images and label.")
    for case, entry in sorted(raw.items()):
        if not isinstance(entry, Mapping) or "images" not in entry or "label" not in entry:
            raise DatasetError(f'{path}: case \'{case}\' needs {{"images": [...], "label": "..."}}, found {entry!r}.')
        if not is_case_name(case):
            problems.append((case, "cannot be the name of a case, since files are named so"))
            continue
        images = tuple((folder / image).resolve() for image in entry["images"])
        label = (folder / entry["label"]).resolve()
        in_one = len(images) == 1 and images[0].is_file() and is_picture(images[0]) and channels_in(images[0]) == channels
        wrong = [(case, f"no file {p}") for p in (*images, label) if not p.exists()]
        if len(images) != channels and not in_one:
            wrong.insert(0, (case, f"{len(images)} images for {channels} channels"))
        problems += wrong
        if not wrong:
            training.append(CaseFiles(case, images, label))
    _tell(folder, problems, "Correct 'dataset' in dataset.json or add the files.", told)
    return training


def _tell(folder: Path, problems: Sequence[Problem], remedy: str, told: list[Problem] | None) -> None:
    """Add ``problems`` to those that are ``told`` later; DatasetError at once if that is None."""
    if told is not None:
        told += problems
    elif problems:
        raise DatasetError(problem_list(folder, [f"{case}: {problem}" for case, problem in problems], remedy))


def listed(values: Sequence[object]) -> str:
    """``values`` in one line, the first few of many."""
    shown = ", ".join(str(value) for value in values[:MAX_LISTED])
    return f"{shown} and {len(values) - MAX_LISTED} more" if len(values) > MAX_LISTED else shown


def problem_list(folder: Path, problems: Sequence[str], remedy: str) -> str:
    """One message for all ``problems`` found in ``folder``."""
    lines = [f"  {problem}" for problem in problems[:MAX_LISTED]]
    if len(problems) > MAX_LISTED:
        lines.append(f"  and {len(problems) - MAX_LISTED} more")
    return "\n".join([f"{folder}: {len(problems)} problem(s). {remedy}", *lines])
