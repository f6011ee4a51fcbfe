"""What prediction writes: where each file goes, and the record of what was made how."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffatlas_pipeline.datasets.cases import is_case_name
from diffatlas_pipeline.datasets.codes import shown_classes
from diffatlas_pipeline.datasets.description import CaseFiles, LabelClass
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.inference.probabilities import write_probabilities
from diffatlas_pipeline.inference.result import Result
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import ending_for_scalars, ending_of, write_labels, write_scalars

RECORD, VOLUMES = "prediction.json", "volumes.csv"
DISTANCES, UNCERTAINTY, GENERATED = "distance_maps", "uncertainty", "generated_channels"
RECONSTRUCTION, RESIDUAL, PROBABILITIES = "reconstruction", "residual", "probabilities"
DICOM = "dicom"


@dataclass(frozen=True)
class Destination:
    """Where the results of prediction go: into ``folder``, or, of a single case, to the one ``file`` and beside it.

    ``ending`` is that of segmentations of cases that have none, such as DICOM series.
    """

    folder: Path
    ending: str
    file: Path | None = None

    @staticmethod
    def of(output: Path, ending: str, cases: Sequence[CaseFiles]) -> Destination:
        """``output`` is a folder, or with an image's file ending the one file. UserError if that is not enough."""
        if output.is_dir() or ending_of(output) is None:
            return Destination(output, ending)
        if len(cases) != 1:
            raise UserError(f"`output` {output}: one file, but there are {len(cases)} cases. Give a folder.")
        return Destination(output.parent, ending, output)

    @property
    def record(self) -> Path:
        """The JSON that says how the segmentations were made."""
        return self._beside(RECORD) if self.file else self.folder / RECORD

    @property
    def volumes(self) -> Path:
        """The table of volumes."""
        return self._beside(VOLUMES) if self.file else self.folder / VOLUMES

    def labels(self, files: CaseFiles) -> Path:
        """The segmentation: named as the case, with the ending of the input, so that it fits beside it."""
        return self.file or self.folder / f"{files.case}{(ending_of(files.images[0]) or self.ending).lower()}"

    def distances(self, files: CaseFiles, label: LabelClass) -> Path:
        path = self.labels(files)
        ending = ending_for_scalars(ending_of(path) or "")
        if self.file:
            return self._beside(f"distance_{_safe(label.name)}{ending}")
        return self.folder / DISTANCES / f"{files.case}_{_safe(label.name)}{ending}"

    def uncertainty(self, files: CaseFiles) -> Path:
        ending = ending_for_scalars(ending_of(self.labels(files)) or "")
        return self._beside(f"uncertainty{ending}") if self.file else self.folder / UNCERTAINTY / f"{files.case}{ending}"

    def probabilities(self, files: CaseFiles) -> Path:
        return self._beside("probabilities.npz") if self.file else self.folder / PROBABILITIES / f"{files.case}.npz"

    def generated(self, files: CaseFiles, channel: int) -> Path:
        """Where a channel that was missing is written, named as it would be in the input."""
        return self._channel(files, channel, GENERATED, "generated")

    def reconstruction(self, files: CaseFiles, channel: int) -> Path:
        """Where a channel is written as the model makes it."""
        return self._channel(files, channel, RECONSTRUCTION, RECONSTRUCTION)

    def residual(self, files: CaseFiles, channel: int) -> Path:
        """Where a channel less its reconstruction is written."""
        return self._channel(files, channel, RESIDUAL, RESIDUAL)

    def dicom(self, files: CaseFiles, kind: str) -> Path:
        """Where a DICOM object of a ``kind`` is written."""
        return self._beside(f"{kind}.dcm") if self.file else self.folder / DICOM / f"{files.case}_{kind}.dcm"

    def _channel(self, files: CaseFiles, channel: int, folder: str, beside: str) -> Path:
        ending, number = ending_for_scalars(ending_of(self.labels(files)) or ""), f"{channel:04d}"
        if self.file:
            return self._beside(f"{beside}_{number}{ending}")
        return self.folder / folder / f"{files.case}_{number}{ending}"

    def _beside(self, name: str) -> Path:
        assert self.file is not None
        stem = self.file.name[: -len(ending_of(self.file) or "")]
        return self.folder / f"{stem}_{name}"


def check_output(destination: Destination, cases: Sequence[CaseFiles]) -> None:
    """UserError if the folder cannot be written, or is that of the scans, or a segmentation would replace one."""
    inputs = {image.resolve() for files in cases for image in files.images}
    folder = destination.folder
    if destination.file is None and folder.resolve() in {image.parent for image in inputs}:
        raise UserError(
            f"{folder}: holds the scans. Segmentations among them would be taken for scans next time: give another `output`."
        )
    for files in cases:
        if not is_case_name(files.case):
            raise UserError(f"{files.images[0]}: '{files.case}' cannot be the name of a case. Rename the scan.")
        path = destination.labels(files)
        if path.resolve() in inputs:
            raise UserError(f"{path}: would replace an input image. Give another `output`.")
    probe = folder / f".{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # a process of that number on another computer may have done it
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}). Give another `output`.") from error


def write_result(destination: Destination, files: CaseFiles, result: Result, grid: Grid, labels: Sequence[LabelClass]) -> None:
    """Write the labels last, so that a case whose label file is there is complete. ImageError if a file cannot be
    written.

    Labels have the smallest integer type that holds their values, on exactly the input's grid, and their names in NIfTI
    files; distance maps are float32 in mm, the uncertainty is the float32 probability of an error, channels are float32
    in the units of :func:`~diffatlas_pipeline.preprocessing.normalisation.denormalise`.
    """
    like = files.images[0]
    if result.distances_mm is not None:
        for label, distances in zip(labels, result.distances_mm, strict=True):
            write_scalars(destination.distances(files, label), distances, grid, like)
    if result.error_probability is not None:
        write_scalars(destination.uncertainty(files), result.error_probability, grid, like)
    if result.probabilities is not None:
        write_probabilities(destination.probabilities(files), result.probabilities, grid, shown_classes(labels))
    kinds = (
        (destination.generated, result.generated),
        (destination.reconstruction, result.reconstruction),
        (destination.residual, result.residual),
    )
    for place, channels in kinds:
        for number, channel in (channels or {}).items():
            write_scalars(place(files, number), channel, grid, like)
    write_labels(destination.labels(files), result.labels, grid, like, names_of(labels))


def names_of(labels: Sequence[LabelClass]) -> dict[int, str]:
    """The name of each value of a label map."""
    return {0: "background", **{label.value: label.name for label in shown_classes(labels)}}


def read_record(path: Path) -> dict[str, Any]:
    """What an earlier run wrote to ``path``, {} if there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write ``prediction.json``: model, settings, versions, and per case what became of it and the seconds it took."""
    try:
        write_text_atomically(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}). Give another `output`.") from error


def _safe(name: str) -> str:
    """A label's name as part of a file name."""
    return re.sub(r"[^\w-]+", "_", name)
