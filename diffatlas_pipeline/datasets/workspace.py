"""Where raw data, preprocessed cases and results lie."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from diffatlas_pipeline.errors import DatasetError

_DATASET_FOLDER = re.compile(r"Dataset(\d{3})_(.+)")


@dataclass(frozen=True)
class Workspace:
    """Three folders; each is made when first written to."""

    raw: Path
    preprocessed: Path
    results: Path

    @staticmethod
    def resolve(folder: str | Path | None = None) -> Workspace:
        """``folder``, else DIFFATLAS_WORKSPACE, else the DiffAtlas_* variables, else ./diffatlas_workspace."""
        chosen = folder or os.environ.get("DIFFATLAS_WORKSPACE")
        root = Path(chosen or "diffatlas_workspace").expanduser().resolve()

        def part(name: str) -> Path:
            variable = None if chosen else os.environ.get(f"DiffAtlas_{name}")
            return Path(variable).expanduser().resolve() if variable else root / name

        return Workspace(part("raw"), part("preprocessed"), part("results"))

    def raw_dataset(self, identifier: str) -> Path:
        """The folder of a raw data set named by number ('1', '001'), by folder name, or by path.

        Raises DatasetError that lists what there is.
        """
        as_path = Path(identifier).expanduser()
        if (as_path / "dataset.json").is_file():
            return as_path.resolve()
        return self._find(
            self.raw, identifier, "raw data set", "Put it there, or give its path: `dataset=path/to/DatasetXXX_Name`."
        )

    def preprocessed_dataset(self, identifier: str) -> Path:
        """The folder of a planned data set, named as in :meth:`raw_dataset`."""
        name = (
            Path(identifier).expanduser().resolve().name
            if (Path(identifier).expanduser() / "dataset.json").is_file()
            else identifier
        )
        hint = f'Run `plan_and_preprocess("{identifier}")` first.'
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
