"""DICOM objects beside the segmentations of DICOM series: which are asked for, made, kept, and where they lie."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffatlas_pipeline.datasets.description import CaseFiles, LabelClass
from diffatlas_pipeline.datasets.raw import listed
from diffatlas_pipeline.errors import ImageError, UserError
from diffatlas_pipeline.files import written_atomically
from diffatlas_pipeline.inference.dicom_seg import Author, make_segmentation
from diffatlas_pipeline.inference.dicom_source import Source, read_source, what_is_missing
from diffatlas_pipeline.inference.earlier import digest_of_file
from diffatlas_pipeline.inference.export import Destination
from diffatlas_pipeline.inference.rtstruct import make_structures
from diffatlas_pipeline.volumes.io import is_series, read_labels

if TYPE_CHECKING:
    from pydicom import Dataset

SEG, RTSTRUCT = KINDS = ("seg", "rtstruct")
_MAKERS = {SEG: make_segmentation, RTSTRUCT: make_structures}
_TILTED = (
    "its slices are shifted against each other (a tilted gantry). In the DICOM segmentation each frame lies where its slice "
    "does, but programs that stack frames to a straight block show it displaced; contours (rtstruct) are right everywhere"
)


@dataclass(frozen=True)
class Written:
    """What became of the DICOM objects of a case: ``files`` by kind, each with its name below the output, and the
    SHA-256 of the segmentation that it was made of and of itself; and ``warnings``.
    """

    files: dict[str, dict[str, str]]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class DicomOutput:
    """Writes objects of ``kinds`` for segmentations with the values of ``classes``, which ``author`` has made.

    ``known`` is what the record of earlier runs says of the cases.
    """

    kinds: tuple[str, ...]
    destination: Destination
    classes: tuple[LabelClass, ...]
    author: Author
    overwrite: bool = False
    known: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def check(self, cases: Sequence[CaseFiles]) -> None:
        """UserError if they cannot be written: something is not installed, or a case is no DICOM series, or one that
        nothing can refer to. A series that cannot be read fails when it is read.
        """
        missing = [name for name in ("highdicom", "pydicom") if not _is_installed(name)]
        if self.kinds and missing:
            raise UserError(
                f"`dicom` needs {' and '.join(missing)}, which Python does not find. Install it by "
                "'pip install -c constraints.txt -e \".[dicom]\"' in the folder of this program, or leave out `dicom`."
            )
        others = [files.case for files in cases if not is_series(files.images[0])] if self.kinds else []
        if others:
            raise UserError(
                f"`dicom` {' '.join(self.kinds)}: {len(others)} of {len(cases)} cases are no DICOM series: {listed(others)}. "
                "Give DICOM series only, or leave out `dicom`."
            )
        reasons = {files.case: _missing(files) for files in cases if self.kinds}
        if lacking := [f"  {case}: {reason}" for case, reason in reasons.items() if reason]:
            lines = [f"`dicom` {' '.join(self.kinds)}: nothing can refer to {len(lacking)} of {len(cases)} series:", *lacking]
            raise UserError(
                "\n".join(lines)
                + "\nThese are needed. Export the series from where they come from, without a conversion, or leave out "
                "`dicom`."
            )

    def write(self, files: CaseFiles, fresh: bool) -> Written:
        """Make the objects of a case from its label file, unless those that are there were made from it.

        One that was changed since, or of which no record tells, is kept, with a warning. A label file that is not
        ``fresh`` is taken for edited unless the record tells that it is as it was written. Raises UserError.
        """
        path, known = self.destination.labels(files), self.known.get(files.case) or {}
        digest = digest_of_file(path)
        edited = not fresh and known.get("output") != digest
        before: Mapping[str, Any] = known.get("dicom") or {}
        todo, said = [], []
        for kind in self.kinds:
            there, said_of = self.destination.dicom(files, kind), before.get(kind) or {}
            if not there.exists() or self.overwrite:
                todo.append(kind)
            elif said_of.get("written") != digest_of_file(there):
                said.append(f"{there} was changed, or no record tells of it: it was kept. `overwrite` replaces it")
            elif said_of.get("labels") != digest:
                todo.append(kind)
        for kind, said_of in before.items():
            if kind not in self.kinds and said_of.get("labels") != digest and self.destination.dicom(files, kind).exists():
                said.append(f"{self.destination.dicom(files, kind)} is of an earlier segmentation. `dicom` makes it anew")
        if not todo:
            return Written({kind: dict(one) for kind, one in before.items()}, tuple(said))
        labels = read_labels(path)
        source = read_source(files.images[0])
        _check_values(labels.array, self.classes, path)
        source.check_lies_on(labels.grid)
        made = {kind: self._written(kind, files, source, labels.array, digest, edited) for kind in todo}
        if SEG in made and labels.grid.is_sheared:
            said.append(_TILTED)
        return Written({**before, **made}, tuple(said))

    def _written(
        self, kind: str, files: CaseFiles, source: Source, labels: np.ndarray, digest: str, edited: bool
    ) -> dict[str, str]:
        """Write one object; what the record says of it."""
        path = self.destination.dicom(files, kind)
        try:
            made: Dataset = _MAKERS[kind](source, labels, self.classes, replace(self.author, edited=edited))
            with written_atomically(path) as temporary:
                made.save_as(temporary, enforce_file_format=True)
        except OSError as error:
            raise ImageError(
                f"{path}: cannot be written ({error.strerror or error}). Make room, or give another `output`."
            ) from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # as the libraries refuse a header
            raise ImageError(
                f"{path}: the headers of {source.name} do not allow to make it ({error}). Export the series again, or leave "
                "out `dicom`."
            ) from error
        name = path.relative_to(self.destination.folder).as_posix()
        return {"file": name, "labels": digest, "written": digest_of_file(path)}


def kinds_of(dicom: str | Sequence[str] | None) -> tuple[str, ...]:
    """The kinds that are asked for, each once. UserError for an unknown one."""
    asked = [dicom] if isinstance(dicom, str) else list(dicom or ())
    if unknown := [str(kind) for kind in asked if kind not in KINDS]:
        raise UserError(f"`dicom` {', '.join(unknown)}: unknown; choose one or both of {', '.join(KINDS)}.")
    return tuple(kind for kind in KINDS if kind in asked)


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # it was made unavailable
        return False


def _missing(files: CaseFiles) -> str:
    try:
        return what_is_missing(files.images[0])
    except ImageError:
        return ""


def _check_values(labels: np.ndarray, classes: Sequence[LabelClass], path: Path) -> None:
    known = {0, *(value for one in classes for value in one.values)}
    if unknown := sorted({int(value) for value in np.unique(labels)} - known):
        raise ImageError(
            f"{path}: holds the values {listed([str(value) for value in unknown])}, which the model does not name. Use "
            f"{listed([f'{one.value} ({one.name})' for one in classes])}, or leave out `dicom`."
        )
