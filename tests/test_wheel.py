"""The wheel holds the whole package, and works where no repository is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("diffatlas_pipeline", "dataset_conversion")


def tracked(*folders: str) -> set[str]:
    """The files of ``folders`` that belong to the project: those that git knows of, else all but leavings of Python."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *folders], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode == 0:
        return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    found = {path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()}
    return {path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy of the repository, tests and all, so that nothing is in it that a clone would not put there."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in tracked(*PACKAGES, "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "copy" / name)
    call = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    done = subprocess.run(call, cwd=folder / "copy", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    (found,) = (entry for entry in wheel.namelist() if entry.endswith(f".dist-info/{name}"))
    return wheel.read(found).decode()


@pytest.mark.slow
def test_it_holds_all_files_of_the_package_and_no_others(wheel: zipfile.ZipFile) -> None:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == tracked(*PACKAGES)
    assert {"diffatlas_pipeline/py.typed", "diffatlas_pipeline/report/templates/viewer.js"} <= held
    assert {"diffatlas_pipeline/benchmark/table.html.j2", "dataset_conversion/msd.py"} <= held


@pytest.mark.slow
def test_licence_readme_and_commands_go_with_it(wheel: zipfile.ZipFile) -> None:
    assert metadata(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text(encoding="utf-8")
    head = HeaderParser().parsestr(metadata(wheel, "METADATA"))
    assert head["License"] == "Apache-2.0" and head["Requires-Python"] == ">=3.11"
    assert head.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line.split(" = ") for line in metadata(wheel, "entry_points.txt").splitlines() if " = " in line]
    for name, target in commands:
        module, function = target.split(":")
        assert name.startswith("DiffAtlas_") and function == "main"
        assert f"{module.replace('.', '/')}.py" in wheel.namelist()


@pytest.mark.slow
def test_its_commands_run_where_no_repository_is(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Converters lie in a package of their own; the page and the table are made from templates."""
    wheel.extractall(tmp_path / "unpacked")
    (tmp_path / "empty").mkdir()
    code = (
        "import sys; sys.path = [sys.argv.pop(1), *(place for place in sys.path if place != sys.argv[1])]; del sys.argv[1]\n"
        "import dataset_conversion, diffatlas_pipeline; print(dataset_conversion.__file__, diffatlas_pipeline.__file__)\n"
        "from diffatlas_pipeline.report.templating import environment; environment().get_template('page.html.j2')\n"
        "from diffatlas_pipeline.__main__ import main; main()"
    )
    size = ["--cases", "1", "--test-cases", "0", "--size", "16", "--workers", "1", "--workspace", "."]
    words = [str(tmp_path / "unpacked"), str(ROOT), "convert", "phantom", "-d", "2", *size]
    environment = {**os.environ, "PYTHONPATH": ""}
    call = [sys.executable, "-c", code, *words]
    done = subprocess.run(call, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *_ = done.stdout.splitlines()
    assert all(Path(place).is_relative_to(tmp_path / "unpacked") for place in first.split())
    assert (tmp_path / "empty/raw/Dataset002_HeartPhantomCT/dataset.json").is_file()
