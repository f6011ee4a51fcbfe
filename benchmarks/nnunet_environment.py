"""nnU-Net in a virtual environment of its own, made by the benchmark."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from benchmarks import nnunet_trainer
from benchmarks.commands import CommandFailed
from diffatlas_pipeline.files import write_text_atomically

VERSION = "2.8.1"


def install(environment: Path) -> None:
    """Make the virtual environment unless it is there. It sees our packages, so that torch is the same build."""
    complete, library = environment / "complete.txt", place_in(environment, "purelib")
    holds = f"nnunetv2 {VERSION} with {site_packages()}"
    if not complete.is_file() or complete.read_text(encoding="utf-8") != holds:
        shutil.rmtree(environment, ignore_errors=True)
        call([sys.executable, "-m", "venv", str(environment)])
        (library / "of_diffatlas.pth").write_text(f"{site_packages()}\n", encoding="utf-8")
        write_text_atomically(environment / "constraints.txt", "\n".join(installed()) + "\n")
        for words in installing(environment):
            call(words)
        write_text_atomically(complete, holds)
    # Beside nnU-Net's own trainer it is found first. Elsewhere nnU-Net imports trainers that need torchvision.
    shutil.copy(nnunet_trainer.__file__, library / "nnunetv2" / "training" / "nnUNetTrainer" / "diffatlas_trainer.py")


def installing(environment: Path) -> list[list[str]]:
    """The commands that install nnU-Net into ``environment``.

    torchvision goes again: it is of no use to nnU-Net's default network, and one of another build than torch ends in
    an error wherever it is imported.
    """
    pip = [str(place_in(environment, "scripts") / "python"), "-m", "pip"]
    constraints = str(environment / "constraints.txt")
    return [[*pip, "install", "-c", constraints, f"nnunetv2=={VERSION}"], [*pip, "uninstall", "-y", "torchvision"]]


def installed() -> list[str]:
    """All packages of this environment as constraints for pip, except our own."""
    found = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    return sorted(f"{name}=={version}" for name, version in found.items() if name and "diffatlas" not in name.lower())


def site_packages() -> Path:
    """The folder with this environment's torch, and what is installed beside it."""
    found = importlib.util.find_spec("torch")
    assert found is not None and found.origin is not None
    return Path(found.origin).parents[1]


def place_in(environment: Path, kind: str) -> Path:
    """``scripts`` or ``purelib`` (site-packages) of a virtual environment."""
    return Path(sysconfig.get_path(kind, "venv", {"base": str(environment)}))


def call(words: Sequence[str], variables: dict[str, str] | None = None) -> None:
    """Print and run a command. CommandFailed if it fails."""
    line = shlex.join(words)
    print(f"\n$ {line}", flush=True)
    code = subprocess.run(words, env=variables, check=False).returncode
    if code:
        raise CommandFailed(line, code)
