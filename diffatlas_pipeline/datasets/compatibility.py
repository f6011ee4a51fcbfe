"""Whether a model of one data set can be tested on another, and with which cases."""

from __future__ import annotations

from dataclasses import replace

from diffatlas_pipeline.datasets.description import CaseFiles, RawDataset
from diffatlas_pipeline.datasets.label_entries import labels_entry
from diffatlas_pipeline.errors import UserError

_LISTED = 5


def check_fits(own: RawDataset, other: RawDataset) -> None:
    """UserError unless a model of ``own`` can be scored on ``other``, another data set of as many channels and equal
    labels.
    """
    if own.folder.resolve() == other.folder.resolve():
        raise UserError(f"{other.folder.name} is the data set that is trained on. Name another one.")
    counts = len(own.description.channels), len(other.description.channels)
    if counts[0] != counts[1]:
        raise UserError(
            f"{other.folder.name} has {counts[1]} channel(s), {own.folder.name} has {counts[0]}. Both need the same number."
        )
    labels = [labels_entry(replace(raw.description, ignore=None))["labels"] for raw in (own, other)]
    if labels[0] != labels[1]:
        raise UserError(
            f"{other.folder.name} has the labels {labels[1]}, {own.folder.name} has {labels[0]}. "
            "Both need the same names and numbers."
        )
    modality_of(own, other)


def modality_of(own: RawDataset, other: RawDataset) -> str | None:
    """CT or MRI, what ``other`` is, if that differs from what a model of ``own`` has learnt; else None."""
    kinds = [tuple("CT" if name.upper() == "CT" else "MRI" for name in raw.description.channels) for raw in (own, other)]
    if kinds[0] == kinds[1]:
        return None
    if len(set(kinds[1])) > 1:
        raise UserError(
            f"{other.folder.name} has channels of CT and of MRI ({', '.join(other.description.channels)}), in another order "
            f"than {own.folder.name} ({', '.join(own.description.channels)}). Bring them into the same order."
        )
    return kinds[1][0]


def labelled_test_cases(dataset: RawDataset) -> tuple[CaseFiles, ...]:
    """The cases of imagesTs with their labels in labelsTs, () if one of them is not there. UserError if labels are
    missing.
    """
    folder = dataset.folder / "labelsTs"
    if not dataset.test or not folder.is_dir() or not any(folder.iterdir()):
        return ()
    cases = [(files, folder / f"{files.case}{dataset.description.file_ending}") for files in dataset.test]
    missing = [files.case for files, label in cases if not label.is_file()]
    if missing:
        raise UserError(
            f"{folder}: no label for {len(missing)} of the {len(cases)} test cases: {some(missing)}. "
            "Add them, or remove their images from imagesTs."
        )
    return tuple(replace(files, label=label) for files, label in cases)


def some(names: list[str]) -> str:
    """The first few of ``names``, and how many more there are."""
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
