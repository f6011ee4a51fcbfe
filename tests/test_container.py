"""The Dockerfile and what the page says of it. Nothing is built: what can be read off is checked."""

from __future__ import annotations

import fnmatch
import re
import shlex
from pathlib import Path

import pytest

from diffatlas_pipeline.datasets.workspace import Workspace

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "documentation" / "how-to" / "install.md").read_text(encoding="utf-8")
BLOCK = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
KNOWN = ("FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "VOLUME", "CMD")


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest of its line), without comments and with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def of(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def arguments() -> dict[str, str]:
    return {name: default for name, _, default in (rest.partition("=") for rest in of("ARG"))}


def extras() -> set[str]:
    text = (ROOT / "setup.py").read_text(encoding="utf-8").split("extras_require={")[1].split("},")[0]
    return {*re.findall(r'^\s*"(\w+)":', text, re.MULTILINE)}


def installs() -> list[list[str]]:
    """The words of every call of pip."""
    return [shlex.split(part) for rest in of("RUN") for part in re.findall(r"pip install [^;&]+", rest)]


def test_every_instruction_is_known_and_begins_with_a_base() -> None:
    names = [name for name, _ in instructions()]
    assert names[0] == "FROM" and {*names} <= {*KNOWN}
    version = re.fullmatch(r"python:(\d+)\.(\d+)-slim", of("FROM")[0])
    assert version and (int(version[1]), int(version[2])) >= (3, 11)


def test_what_it_copies_exists_and_goes_to_the_builder() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    allowed = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert "*" in rules
    copied = [name for rest in of("COPY") for name in rest.split()[:-1]]
    for name in copied:
        assert (ROOT / name).exists(), name
        assert any(fnmatch.fnmatch(name, rule) for rule in allowed), f"{name} is kept from the builder"
    assert {*allowed} == {*copied}, "more goes to the builder than is copied"
    for rest in of("COPY"):
        *names, target = rest.split()
        assert target == "./" or [target] == names, "a folder's content would be copied without the folder"


def test_it_copies_all_that_the_installation_reads() -> None:
    needed = {"constraints.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE"}
    packages = re.search(r"find_packages\(include=\[(.*)\]\)", (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert packages
    needed |= {name.split(".")[0] for name in re.findall(r'"([\w.*]+)"', packages[1])}
    assert needed == {name for rest in of("COPY") for name in rest.split()[:-1]}


def test_pip_installs_the_tested_versions_and_extras_that_there_are() -> None:
    assert len(installs()) == 3, "torch for CPUs, torch for CUDA, the package"
    for words in installs():
        assert words[words.index("-c") + 1] == "constraints.txt"
        given = [word for word in words[2:] if not word.startswith("-")]
        for extra in re.findall(r"\[([^\]]+)\]", "".join(given)):
            assert {*extra.split(",")} <= extras()
    assert installs()[-1][-1] == ".${EXTRAS}" and arguments()["EXTRAS"] == ""


def test_the_device_is_chosen_by_a_build_argument() -> None:
    (choice,) = [rest for rest in of("RUN") if "case" in rest]
    assert set(re.findall(r"(\w+)\) pip install", choice)) == {"cpu", "cuda"}
    assert arguments()["DEVICE"] == "cpu"


def test_variables_are_declared_before_their_use() -> None:
    known = {"HOME"}
    for name, rest in instructions():
        used = set(re.findall(r"\$\{?(\w+)", rest))
        assert used <= known, rest
        if name in ("ARG", "ENV"):
            known |= set(re.findall(r"(\w+)=", rest))


def test_it_does_not_run_as_root_and_keeps_data_outside() -> None:
    assert of("USER")[-1] == "diffatlas" and any("useradd" in rest and "diffatlas" in rest for rest in of("RUN"))
    last = max(index for index, (name, _) in enumerate(instructions()) if name == "RUN")
    assert [name for name, _ in instructions()].index("USER") > last, "files of the installation belong to root"
    assert volumes() == ["/data", "/workspace"]
    (made,) = re.findall(r"mkdir [^&]*", of("RUN")[0])
    assert {*volumes()} <= {*made.split()}


def volumes() -> list[str]:
    return re.findall(r'"([^"]+)"', of("VOLUME")[0])


def test_commands_find_the_workspace_that_is_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    (variable,) = (name for rest in of("ENV") for name in re.findall(r"(\w+)=/workspace", rest))
    monkeypatch.setenv(variable, "/workspace")
    assert Path("/workspace/raw") == Workspace.resolve(None).raw


def test_the_page_names_its_arguments_folders_and_extras() -> None:
    given = re.findall(r"--build-arg (\w+)=(\S+?)[\s`]", PAGE)
    assert {name for name, _ in given} == {*arguments()}
    for name, value in given:
        assert (value in ("cpu", "cuda")) if name == "DEVICE" else set(value.strip("[]").split(",")) <= extras()
    runs = [line for line in BLOCK.splitlines() if line.startswith(("docker run", "apptainer exec"))]
    assert len(runs) >= 4
    for line in runs:
        assert re.findall(r"(?:-v|--bind) \S+?:(/\w+)", line.replace('"', "")) == volumes()
    for named in re.findall(r'"\.\[([\w,]+)\]"', PAGE):
        assert {*named.split(",")} <= extras()
