"""A model as one file to pass on: a zip of its folder, with a card, and a list of what belongs in it.

Training scans, and the names of cases, stay behind unless they are asked for.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffatlas_pipeline.datasets.workspace import LOW_RESOLUTION
from diffatlas_pipeline.errors import ModelError, UserError
from diffatlas_pipeline.files import from_json, read_json, to_json
from diffatlas_pipeline.methods.base import LearnedMethod
from diffatlas_pipeline.methods.registry import known_method
from diffatlas_pipeline.models.atlas_file import FILE as ATLASES
from diffatlas_pipeline.models.card import SCORES, TRAINING_CASES, model_card, read_scores
from diffatlas_pipeline.models.folder import (
    CALIBRATION,
    DATASET,
    KNOWN_CASES,
    METADATA,
    PLANS,
    POSTPROCESSING,
    VERSIONS,
    WEIGHTS,
    ModelFolder,
)
from diffatlas_pipeline.models.versions import versions

MANIFEST, CARD = "manifest.json", "MODEL_CARD.md"
DATASET_FOLDER, MODEL_FOLDER = re.compile(r"Dataset\d{3}_[^/\\:]+"), re.compile(r"[a-z]+__[\w-]+")
CASE_LISTS = ("training_cases", "validation_cases", "unlabelled_cases")  # of the metadata: names of cases
MOST_BYTES_OF_LIST = 2**20
_OLDEST = (1980, 1, 1, 0, 0, 0)  # of all entries: the same model makes the same file on any day


@dataclass(frozen=True)
class PackedFile:
    """What a file of the package has to be."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The list in a package. ``dataset`` and ``model`` are the names of the two folders that it is installed in."""

    dataset: str
    model: str
    folds: tuple[str, ...]
    licence: str
    training_scans: bool
    made: str
    versions: dict[str, str]
    files: dict[str, PackedFile]
    version: int = 1


# ---------------------------------------------------------------------------------------------------------------- write
def pack_model(
    model: ModelFolder,
    output: Path,
    folds: Sequence[str] | None = None,
    training_scans: bool = False,
    licence: str = "",
    overwrite: bool = False,
) -> Manifest:
    """Write the trained ``folds`` (None: those that prediction takes) of ``model`` to the zip file ``output``.

    ``training_scans``: with the few training scans that it keeps, and the names of its cases. UserError if the file is
    there already, or if the model is damaged or useless without its scans.
    """
    licence = licence or licence_of(model.path)
    if output.exists() and not overwrite:
        raise UserError(f"{output}: there already. Give another `output`, or `overwrite`.")
    dataset = model.path.parent.name
    if not DATASET_FOLDER.fullmatch(dataset) or not MODEL_FOLDER.fullmatch(model.path.name):
        raise UserError(
            f"{model.path}: a model is installed under the names of its folders, .../DatasetXXX_Name/method__recipe. Rename "
            "them so."
        )
    chosen = model.choose_folds(folds)
    for fold in chosen:
        model.load(fold)  # what is damaged is not passed on
        if model.low_resolution.is_trained(fold):
            model.low_resolution.load(fold)
    if not training_scans and not issubclass(known_method(model.method), LearnedMethod):
        raise UserError(f"{model.path}: {model.method} segments by its training cases alone. Give `with_scans` to pack them.")
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    output.parent.mkdir(parents=True, exist_ok=True)
    files: dict[str, PackedFile] = {}
    try:
        with zipfile.ZipFile(temporary, "w") as packed:
            for name, content in _contents(model, chosen, training_scans, licence):
                _write(packed, name, content)
                files[name] = PackedFile(len(content), hashlib.sha256(content).hexdigest())
            today = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d")
            manifest = Manifest(dataset, model.path.name, chosen, licence, training_scans, today, versions(), files)
            _write(packed, MANIFEST, to_json(manifest).encode())
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return manifest


def _contents(model: ModelFolder, folds: Sequence[str], training_scans: bool, licence: str) -> Iterator[tuple[str, bytes]]:
    for name in (PLANS, DATASET, VERSIONS):
        if (model.path / name).is_file():
            yield name, (model.path / name).read_bytes()
    rough = [fold for fold in folds if model.path.name != LOW_RESOLUTION and model.low_resolution.is_trained(fold)]
    if rough:
        for name, content in _contents(model.low_resolution, rough, training_scans, licence):
            if name != CARD:
                yield f"{LOW_RESOLUTION}/{name}", content
    for fold in folds:
        folder = model.path / fold
        yield f"{fold}/{WEIGHTS}", (folder / WEIGHTS).read_bytes()
        yield f"{fold}/{METADATA}", _json(model.metadata(fold) if training_scans else _unnamed(model.metadata(fold)))
        for name in (CALIBRATION, KNOWN_CASES, POSTPROCESSING):
            if (folder / name).is_file():
                told = json.loads((folder / name).read_text(encoding="utf-8"))
                yield f"{fold}/{name}", _json(told if training_scans else _numbered(told))
        if scores := read_scores(folder / SCORES):
            kept: dict[str, Any] = {key: scores[key] for key in ("labels", "mean", "tolerance_mm") if key in scores}
            yield f"{fold}/{SCORES.as_posix()}", _json(kept)
        if training_scans and (folder / ATLASES).is_file():
            yield f"{fold}/{ATLASES}", (folder / ATLASES).read_bytes()
    yield CARD, model_card(model, folds, licence, training_scans).encode()


def _unnamed(metadata: dict[str, Any]) -> dict[str, Any]:
    """``metadata`` with numbers in place of the names of cases."""
    cases = metadata.get("training_cases") or []
    return {**metadata, **{name: [] for name in CASE_LISTS if name in metadata}, TRAINING_CASES: len(cases)}


def _numbered(told: Any) -> Any:
    """``told`` with numbers in place of the names in each list called "cases"."""
    if not isinstance(told, dict):
        return told
    numbered = {key: _numbered(value) for key, value in told.items()}
    if isinstance(told.get("cases"), list):
        numbered["cases"] = [f"case {number}" for number in range(1, len(told["cases"]) + 1)]
    return numbered


def _write(packed: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _OLDEST)
    entry.compress_type = zipfile.ZIP_STORED if name.endswith(".safetensors") else zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    packed.writestr(entry, content)


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


# ----------------------------------------------------------------------------------------------------------------- read
def read_manifest(packed: zipfile.ZipFile, archive: Path) -> Manifest | None:
    """The list of a package, checked against the entries of the zip; None for a zip that was made otherwise.

    ModelError if an entry is missing, unknown, or of another size, or if a name of the list is not allowed.
    """
    if MANIFEST not in packed.namelist():
        return None
    if packed.getinfo(MANIFEST).file_size > MOST_BYTES_OF_LIST:
        raise ModelError(f"{archive}: its list of files is too large to be one. Do not use this file.")
    manifest = from_json(Manifest, packed.read(MANIFEST).decode("utf-8", errors="replace"), f"{archive}: {MANIFEST}")
    if not DATASET_FOLDER.fullmatch(manifest.dataset) or not MODEL_FOLDER.fullmatch(manifest.model):
        raise ModelError(f"{archive}: '{manifest.dataset}/{manifest.model}' is no name of a model. Do not use this file.")
    there = {entry.filename: entry.file_size for entry in packed.infolist() if not entry.is_dir()}
    del there[MANIFEST]
    listed = {name: file.bytes for name, file in manifest.files.items()}
    wrong = sorted(name for name in there.keys() | listed.keys() if there.get(name) != listed.get(name))
    if wrong:
        raise ModelError(f"{archive}: not what was packed ({wrong[0]} is missing, added, or of another size). Copy it again.")
    return manifest


def licence_of(folder: Path) -> str:
    """What the list of an installed or unpacked model says; "" where there is none."""
    try:
        return read_json(Manifest, folder / MANIFEST).licence
    except (OSError, UserError):
        return ""


def check_content(manifest: Manifest, folder: Path, archive: Path) -> None:
    """ModelError if a file of the unpacked ``folder`` is not what was packed."""
    for name, file in manifest.files.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != file.sha256:
            raise ModelError(f"{archive}: {name} is not what was packed. Copy it again.")
