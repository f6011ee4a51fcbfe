"""CONTRIBUTING.md names files and names that exist."""

from __future__ import annotations

import re

from tests.pages import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WHERE = TEXT.split("\n## Where is ...\n")[1]
FOLDERS = (ROOT / "diffatlas_pipeline", ROOT, ROOT / "dataset_conversion")  # that its paths may begin in


def test_named_files_exist() -> None:
    named = {name for name in re.findall(r"`([\w./]+)`", WHERE) if "/" in name or name.endswith(".py")}
    assert len(named) > 20
    assert not {name for name in named if not any((folder / name).exists() for folder in FOLDERS)}


def test_names_in_files_exist() -> None:
    """Rows that say a name and the file that it is in."""
    pairs = re.findall(r"`(\w+)` (?:in|of) `([\w./]+\.py)`", WHERE)
    assert ("loss", "methods/diffatlas.py") in pairs
    for name, file in pairs:
        path = next(folder / file for folder in FOLDERS if (folder / file).exists())
        assert re.search(rf"\b{name}\b", path.read_text(encoding="utf-8")), (name, file)
