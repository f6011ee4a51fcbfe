"""The files of a BIDS tree: what their names say, and which label table belongs to a segmentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffatlas_pipeline.errors import DatasetError, UserError
from diffatlas_pipeline.volumes.io import ending_of, name_without_ending

_TABLE = "dseg.tsv"


@dataclass(frozen=True)
class BidsFile:
    """``sub-01_acq-hi_T1w.nii.gz``: its ``entities`` {"sub": "01", "acq": "hi"} and its ``suffix`` T1w."""

    path: Path
    entities: Mapping[str, str]
    suffix: str

    @property
    def case(self) -> str:
        """Subject, session and run: the files of one case share them."""
        return "_".join(f"{key}-{self.entities[key]}" for key in ("sub", "ses", "run") if key in self.entities)

    def has(self, entities: Mapping[str, str]) -> bool:
        """Whether the name has all of these."""
        return all(self.entities.get(key) == value for key, value in entities.items())


def parse(path: Path) -> BidsFile:
    """What a name says; parts without a hyphen before the last one are ignored."""
    *parts, suffix = name_without_ending(path).split("_")
    return BidsFile(path, dict(part.split("-", 1) for part in parts if "-" in part), suffix)


def parse_entities(words: Sequence[str] | None, parameter: str) -> dict[str, str]:
    """Entities from words such as ``acq-hi``. Raises UserError that names ``parameter``."""
    found = {}
    for word in words or ():
        key, hyphen, value = word.partition("-")
        if not key or not hyphen or not value:
            raise UserError(f"`{parameter}` {word}: give entities as in file names, such as acq-mprage or space-orig.")
        found[key] = value
    return found


def image_files(root: Path) -> Iterator[BidsFile]:
    """All NIfTI files of the subjects below ``root``, sorted. DatasetError lists those in the folder of another one."""
    wrong = []
    for subject in sorted(path for path in root.glob("sub-*") if path.is_dir()):
        for path in sorted(subject.rglob("*")):
            if path.name.startswith(".") or not (ending_of(path) or "").lower().startswith(".nii"):
                continue
            file = parse(path)
            session = next((part for part in path.relative_to(subject).parts if part.startswith("ses-")), None)
            if f"sub-{file.entities.get('sub')}" != subject.name:
                wrong.append(f"  {path}: lies in {subject.name}, but its name does not begin with {subject.name}_")
            elif session is not None and f"ses-{file.entities.get('ses')}" != session:
                wrong.append(f"  {path}: lies in {session}, but its name has not {session}")
            else:
                yield file
    if wrong:
        raise DatasetError(
            "\n".join([f"{root}: {len(wrong)} file(s) are not named as BIDS says. Rename or move them:", *wrong])
        )


def is_label_mask(file: BidsFile) -> bool:
    """Whether it is the mask of one named label: ``sub-01_label-liver_mask.nii.gz``."""
    return file.suffix == "mask" and "label" in file.entities


def table_of(file: BidsFile, root: Path) -> Path | None:
    """The label table that applies to a segmentation in the derivatives ``root``, None if there is none.

    A ``..._dseg.tsv`` beside it or in a folder above it applies if the segmentation has all entities of the table's
    name. The nearest one counts, and of those the one with the most entities.
    """
    place = file.path.parent
    while True:
        tables = [parse_table(path) for path in sorted(place.glob(f"*{_TABLE}")) if not path.name.startswith(".")]
        fitting = [table for table in tables if table.suffix == "dseg" and file.has(table.entities)]
        if fitting:
            return max(fitting, key=lambda table: len(table.entities)).path
        if place == root or place == place.parent:
            return None
        place = place.parent


def parse_table(path: Path) -> BidsFile:
    """What the name of a table says."""
    *parts, suffix = path.name.removesuffix(".tsv").split("_")
    return BidsFile(path, dict(part.split("-", 1) for part in parts if "-" in part), suffix)
