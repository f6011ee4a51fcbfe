"""Where raw data, preprocessed cases and results lie."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from diffatlas_pipeline.errors import DatasetError

LOW_RESOLUTION = "low_resolution"  # in the folder of a planned data set, and in that of a model
_DATASET_FOLDER = re.compile(r"Dataset(\d{3})_(.+)")


@dataclass(frozen=True)
class Workspace:
    """Three folders; each is made when first written to."""

    raw: Path
    preprocessed: Path
    results: Path

    @staticmethod
    def resolve(folder: str | Path | None = None, writes_raw: bool = False) -> Workspace:
        """``folder``, else DIFFATLAS_WORKSPACE, else the DiffAtlas_* variables, else ./diffatlas_workspace.

        Where nothing of this names raw data and there are none, those of nnU-Net (nnUNet_raw) are read. They are never
        written to: not for one who ``writes_raw``.
        """
        chosen = folder or os.environ.get("DIFFATLAS_WORKSPACE")
        root = Path(chosen or "diffatlas_workspace").expanduser().resolve()

        def part(name: str) -> Path:
            variable = None if chosen else os.environ.get(f"DiffAtlas_{name}")
            if name == "raw" and not (chosen or variable or writes_raw or (root / name).exists()):
                variable = os.environ.get("nnUNet_raw")  # noqa: SIM112 (nnU-Net calls it so)
            return Path(variable).expanduser().resolve() if variable else root / name

        return Workspace(part("raw"), part("preprocessed"), part("results"))

    def raw_dataset(self, identifier: str) -> Path:
        """The folder of a raw data set named by number ('1', '001'), by folder name, or by path.

        Raises DatasetError that lists what there is, or says what a folder lacks.
        """
        as_path = Path(identifier).expanduser()
        if (as_path / "dataset.json").is_file():
            return as_path.resolve()
        hint = "Put it there, or give its path: `dataset=path/to/DatasetXXX_Name`."
        try:
            return self._find(self.raw, identifier, "raw data set", hint)
        except DatasetError as error:
            if not as_path.exists():
                raise
            raise DatasetError(_no_data_set(as_path)) from error

    def preprocessed_dataset(self, identifier: str) -> Path:
        """The folder of a planned data set, named as in :meth:`raw_dataset`."""
        name = (
            Path(identifier).expanduser().resolve().name
            if (Path(identifier).expanduser() / "dataset.json").is_file()
            else identifier
        )
        hint = f"Run `plan_and_preprocess({identifier!r})` first."
        return self._find(self.preprocessed, name, "preprocessed data set", hint)

    @staticmethod
    def _find(parent: Path, identifier: str, kind: str, hint: str) -> Path:
        present = sorted(p for p in parent.glob("Dataset*_*") if p.is_dir()) if parent.is_dir() else []
        matches = [p for p in present if p.name == identifier or _same_number(p.name, identifier)]
        if len(matches) == 1:
            return matches[0]
        found = ", ".join(p.name for p in (matches or present)) or "none"
        problem = f"matches several {kind}s" if matches else f"no such {kind}"
        raise DatasetError(f"'{identifier}': {problem} in {parent} (found: {found}). {hint}")


def _same_number(folder: str, identifier: str) -> bool:
    match = _DATASET_FOLDER.fullmatch(folder)
    return bool(match and identifier.isdigit() and int(identifier) == int(match.group(1)))


def _no_data_set(path: Path) -> str:
    """What an existing ``path`` lacks to be a raw data set."""
    if not path.is_dir():
        return f"{path}: a file, but a data set is a folder with dataset.json, imagesTr and labelsTr. Give that folder."
    inside = sorted(found.parent.name for found in path.glob("Dataset*_*/dataset.json"))
    if inside:
        return f"{path}: no dataset.json in this folder. Give one of the data sets in it: {', '.join(inside)}."
    return (
        f"{path}: no dataset.json in this folder. Write one: channel names, labels, file ending (DiffAtlas_convert does it for "
        "a folder of images and labels), or give the folder that holds it."
    )
