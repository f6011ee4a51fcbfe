"""Data flow one way: a room imports only from rooms above it in the list, which CONTRIBUTING.md explains."""

import ast
import re
from pathlib import Path

import pytest

import diffatlas_pipeline

ROOT = Path(diffatlas_pipeline.__file__).parent
ORDER = [
    "errors", "fields", "files", "machine", "scratch", "console", "processes", "children", "cluster", "parallel",
    "volumes", "datasets",
    "diffusion", "networks", "planning", "preprocessing", "registration", "data", "methods", "models", "inference",
    "atlases", "evaluation", "training", "benchmark", "report", "api", "commands",
]  # fmt: skip


def imported_rooms(path: Path) -> set[str]:
    """Rooms of this package that a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "diffatlas_pipeline" and len(parts) > 1 and parts[1] in ORDER:
                found.add(parts[1])
    return found


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_from_rooms_above(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    assert room in ORDER, f"{path}: a room that the design does not list"
    below = {other for other in imported_rooms(path) if ORDER.index(other) > ORDER.index(room)}
    assert not below, f"{path.relative_to(ROOT)} imports from below: {sorted(below)}"


def test_contributing_explains_each_room_in_this_order() -> None:
    text = (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = re.findall(r"^\| `diffatlas_pipeline/([^`]+)` \| (.+) \|$", text, flags=re.MULTILINE)
    assert [place.removesuffix("/").removesuffix(".py") for place, _ in places] == ORDER
    assert all((ROOT / place).is_dir() if place.endswith("/") else (ROOT / place).is_file() for place, _ in places)
    rooms = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES} - {"__init__", "__main__"}
    assert rooms == {*ORDER}, "a room without files, or one that is not explained"


def test_the_check_sees_imports(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from diffatlas_pipeline.training import loop\nimport diffatlas_pipeline.volumes.io\n")
    assert imported_rooms(file) == {"training", "volumes"}


def test_no_pickle_anywhere() -> None:
    for path in FILES:
        names = {node.id for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Name)}
        modules = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert not ({"pickle", "dill", "joblib"} & (names | modules)), path
