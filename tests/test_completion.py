"""Shells complete the commands: what ``python -m diffatlas_pipeline completion`` prints is read by the shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffatlas_pipeline.__main__ import main, names
from diffatlas_pipeline.commands import _completion
from diffatlas_pipeline.diffusion.solvers import SOLVERS
from diffatlas_pipeline.methods.registry import METHODS
from diffatlas_pipeline.planning.topology import PRESETS

# Words so far, the last one being completed; what is offered; what is not.
CASES = [
    (["DiffAtlas_train", "--max"], {"--max-time"}, {"--iterations"}),
    (["DiffAtlas_train", "001", "fold"], {"fold0", "fold4"}, {"001"}),
    (["DiffAtlas_predict", "--method", "ic"], {"icf", "icmd"}, {"diffatlas"}),
    (["DiffAtlas_predict", "-i", "sca"], {"scans"}, {"scores.txt"}),
    (["DiffAtlas_info", "mod"], {"model.zip"}, {"scans"}),
    (["DiffAtlas_convert", ""], {"msd", "phantom"}, {"--workspace"}),
    (["DiffAtlas_convert", "msd", "--cases"], {"--cases-from-json"}, {"--modality"}),
    (["DiffAtlas_report", "--missing", ""], {"error", "empty", "skip"}, {"--workers"}),
]
BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9; COMP_KEY=9
function=$(complete -p "$1"); function=${function##*-F }; ${function%% *} "$1" "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script of each shell, and files to complete."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in _completion.SHELLS:
        (folder / shell).write_text(_completion.script(shell, names()), encoding="utf-8")
    (folder / "scans").mkdir()
    for name in ("model.zip", "scores.txt"):
        (folder / name).touch()
    return folder


def said_by(shell: str, code: str, folder: Path, *words: str) -> list[str]:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} on this machine")
    bare = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    call = [program, *bare, "-c", code, *([shell] if shell == "bash" else []), *words]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize(("words", "offered", "others"), CASES, ids=[" ".join(words) for words, _, _ in CASES])
def test_a_shell_completes(shell: str, words: list[str], offered: set[str], others: set[str], scripts: Path) -> None:
    if shell == "bash":
        lines = said_by(shell, BASH, scripts, str(scripts / shell), *words)
    else:
        lines = said_by(shell, 'source $argv[1]; complete -C "$argv[2]"', scripts, str(scripts / shell), " ".join(words))
    found = {line.split("\t")[0].rstrip("/") for line in lines}
    assert offered <= found and not others & found


def test_zsh_registers_every_command_by_eval_and_by_source(scripts: Path) -> None:
    for reading in (f"source {scripts}/zsh", f'eval "$(cat {scripts}/zsh)"'):
        code = f"autoload -U compinit; compinit -u -D; {reading}; print -l ${{(k)_comps[(R)_shtab_*]}}"
        assert sorted(said_by("zsh", code, scripts)) == [f"DiffAtlas_{name}" for name in names()]


def test_bash_registers_every_command(scripts: Path) -> None:
    lines = said_by("bash", 'source "$1"; complete -p', scripts, str(scripts / "bash"))
    assert {f"DiffAtlas_{name}" for name in names()} == {line.split()[-1] for line in lines if "_shtab_" in line}


def test_the_words_offered_are_those_that_there_are() -> None:
    assert {*_completion.OFFERED["method"]} == {*METHODS}
    assert {*_completion.OFFERED["solver"]} == {*SOLVERS}
    assert {*_completion.OFFERED["preset"]} == {*PRESETS}
    assert {*_completion.OFFERED["recipe"]} <= {*METHODS["diffatlas"].recipes, "any-contrast"}
    actions = {action.dest for name in names() for action in _completion.parser_of(name)._actions}
    assert {*_completion.OFFERED, *_completion._FOLDERS} <= actions


def test_it_is_printed_by_the_module(scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "bash"])
    assert capsys.readouterr().out.strip() == (scripts / "bash").read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("words", [[], ["tcsh"]])
def test_an_unknown_shell_is_told_which_there_are(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["completion", *words])
    assert stopped.value.code == 2
    assert "bash" in capsys.readouterr().err


def test_without_shtab_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as stopped:
        main(["completion", "bash"])
    assert stopped.value.code == 2
    assert "pip install shtab" in capsys.readouterr().err
