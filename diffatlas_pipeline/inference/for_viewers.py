"""What goes beside segmentations for other programs: label names and colours for viewers, volumes as a table."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffatlas_pipeline.datasets.colours import label_colours
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.volumes.size_unit import AREA, VOLUME

SLICER, ITKSNAP = "labels.ctbl", "labels_itksnap.txt"
_COVERAGE = "90%"


def slicer_table(labels: Sequence[LabelClass]) -> str:
    """A colour table of 3D Slicer: index, name, red, green, blue, opacity. Names have no spaces there."""
    lines = ["# Color table file", f"# {len(labels) + 1} values", "0 background 0 0 0 0"]
    for label, (red, green, blue) in zip(labels, label_colours(len(labels)), strict=True):
        lines.append(f"{label.value} {re.sub(r'[^0-9A-Za-z.+-]+', '_', label.name)} {red} {green} {blue} 255")
    return "\n".join(lines) + "\n"


def itksnap_labels(labels: Sequence[LabelClass]) -> str:
    """A label description file of ITK-SNAP: index, red, green, blue, opacity, shown in slices, shown as mesh, name."""
    lines = ["# ITK-SnAP Label Description File", '    0     0    0    0        0  0  0    "Clear Label"']
    for label, (red, green, blue) in zip(labels, label_colours(len(labels)), strict=True):
        name = label.name.replace('"', "'")
        lines.append(f'{label.value:5d} {red:5d} {green:4d} {blue:4d}        1  1  1    "{name}"')
    return "\n".join(lines) + "\n"


def volumes_table(cases: Mapping[str, Mapping[str, Any]]) -> str:
    """As CSV, a row per case and label of prediction.json's ``cases``: the volume in ml (in two-dimensional images the
    area in mm²), and where it lies with 90 % (empty where that is not known).
    """
    entries = [(case, label, found) for case, entry in cases.items() for label, found in (entry.get("volumes") or {}).items()]
    unit = AREA if any("area_mm2" in found for _, _, found in entries) else VOLUME
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["case", "label", f"{unit.quantity}_{unit.key}", f"low_90_{unit.key}", f"high_90_{unit.key}"])
    for case, label, found in entries:
        low, high = (found.get(f"intervals_{unit.key}") or {}).get(_COVERAGE) or ("", "")
        writer.writerow([case, label, found.get(f"{unit.quantity}_{unit.key}", ""), low, high])
    return table.getvalue()


def write_beside(texts: Mapping[Path, str]) -> None:
    """Write each text to its file. UserError if that cannot be done."""
    for path, text in texts.items():
        try:
            write_text_atomically(path, text)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror or error}). Give another `output`.") from error
