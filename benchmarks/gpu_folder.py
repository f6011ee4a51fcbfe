"""The folder that is carried to a machine with a GPU: preprocessed cases, labels, lists of cases, Python packages."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import from_json, write_text_atomically
from diffatlas_pipeline.planning.plan import Plan

SITE, PREPROCESSED, LISTS, REFERENCES = "site", "preprocessed", "lists.json", "references.npz"
SETTINGS = ("full", "4-shot")
BUDGET = ("--device", "cuda", "--memory-gb", "8")
# What training and prediction import beside torch, numpy, scipy and scikit-image, each named by hand: what these
# packages say they need is far more, torch and SimpleITK among it.
PACKAGES = (
    "acvl_utils", "batchgenerators", "batchgeneratorsv2", "blosc2", "httpx", "idna", "msgpack", "ndindex", "nibabel",
    "numexpr", "safetensors", "threadpoolctl", "tqdm",
)  # fmt: skip
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


@dataclass(frozen=True)
class Packed:
    """``lists`` of cases by setting, and ``test``; ``commit`` of the code that packed it."""

    folder: Path
    plan: Plan
    lists: dict[str, list[str]]
    commit: str

    @property
    def cases(self) -> Path:
        """The preprocessed data set, with the test cases in it."""
        return self.folder / PREPROCESSED

    def references(self) -> dict[str, np.ndarray]:
        """The labels (X, Y, Z) of the test cases on their scans' own grids."""
        with np.load(self.folder / REFERENCES) as arrays:
            return {case: arrays[case] for case in self.lists["test"]}


def read_folder(folder: Path) -> Packed:
    """UserError for what :func:`write_folder` has not written."""
    plans, lists = folder / PREPROCESSED / "plans.json", folder / LISTS
    if not (plans.is_file() and lists.is_file()):
        raise UserError(f"{folder}: no data of this benchmark is in it. Make it with python -m benchmarks.gpu pack.")
    told = json.loads(lists.read_text(encoding="utf-8"))
    plan = from_json(Plan, plans.read_text(encoding="utf-8"), str(plans))
    return Packed(folder, plan, told["lists"], told["commit"])


def write_folder(folder: Path, data: Path | None, python: str) -> None:
    """Plan the hippocampus protocol for an 8 GB GPU, preprocess its training and test cases, and bring the packages.

    ``data`` holds the Decathlon's task; ``python`` is the version that runs where the folder goes. UserError if
    something is not there.
    """
    from benchmarks.case_lists import lists_of, read_protocol
    from benchmarks.commands import do
    from benchmarks.raw_data import HIPPOCAMPUS, HIPPOCAMPUS_ID, place_hippocampus
    from benchmarks.record import commit
    from diffatlas_pipeline.datasets.compatibility import labelled_test_cases
    from diffatlas_pipeline.datasets.raw import read_dataset
    from diffatlas_pipeline.datasets.workspace import Workspace
    from diffatlas_pipeline.preprocessing.run import preprocess_case
    from diffatlas_pipeline.training.job import read_plan
    from diffatlas_pipeline.volumes.io import read_labels

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        raw = place_hippocampus(data, Path(scratch))
        do("plan_and_preprocess", ["-d", str(HIPPOCAMPUS_ID), *BUDGET, "--workspace", scratch])
        source = Workspace.resolve(scratch).preprocessed_dataset(str(HIPPOCAMPUS_ID))
        plan = read_plan(source)
        references: dict[str, Any] = {}
        for files in labelled_test_cases(read_dataset(raw)):
            if problem := preprocess_case(files, plan, source, overwrite=False):
                raise UserError(problem)
            assert files.label is not None
            references[files.case] = read_labels(files.label).array
        shutil.copytree(source, folder / PREPROCESSED, dirs_exist_ok=True)
    np.savez_compressed(folder / REFERENCES, **references)
    protocol = read_protocol(lists_of(HIPPOCAMPUS))
    lists = {name: protocol[name] for name in (*SETTINGS, "test")}
    write_text_atomically(folder / LISTS, json.dumps({"lists": lists, "commit": commit()}, indent=2) + "\n")
    for name in PACKAGES:
        bring(name, folder / SITE, python)
    megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    print(f"Written: {folder}, {megabytes:.0f} MB, for Python {python}")


def bring(name: str, site: Path, python: str) -> None:
    """Put the installed version of the package ``name`` into ``site``, as it is made for the version ``python``.

    Copied from this environment; only compiled packages for another version are fetched, for Linux on x86-64. UserError
    if that fails.
    """
    found = importlib.metadata.distribution(name)
    if python == RUNNING or "Root-Is-Purelib: true" in (found.read_text("WHEEL") or ""):
        for file in found.files or ():
            if not {"..", "tests", "include", "__pycache__"} & {*file.parts}:
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(found.locate_file(file)), target)
        return
    words = ["--no-deps", "--no-compile", "--upgrade", "--only-binary=:all:", "--implementation", "cp"]
    words += ["--python-version", python, *(word for platform in PLATFORMS for word in ("--platform", platform))]
    wanted = f"{name}=={found.version}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", *words, "--target", str(site), wanted]
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"{wanted} could not be fetched for Python {python}. Give the other machine's version as --python.")
