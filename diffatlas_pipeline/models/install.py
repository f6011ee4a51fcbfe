"""Put a packed model where commands find it; nothing is touched before all of it is checked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import ModelError, UserError
from diffatlas_pipeline.models.archive import UnpackedModel
from diffatlas_pipeline.models.folder import ModelFolder


def install_package(archive: Path, workspace: Workspace, overwrite: bool = False) -> ModelFolder:
    """Install the model in the zip file ``archive`` into the results of ``workspace``.

    UserError if a model is there already and is not to be replaced (``overwrite``), or if the file cannot be read;
    ModelError if it is damaged or was not made by :func:`~diffatlas_pipeline.models.package.pack_model`.
    """
    if not archive.is_file():
        raise UserError(f"{archive}: no such file. Give a zip file that `export_model` wrote.")
    unpacked = UnpackedModel(archive)
    manifest = unpacked.manifest
    if manifest is None:
        raise ModelError(f"{archive}: not made by `export_model`. It can be used where it is, as `model` of `load_model`.")
    for fold in manifest.folds:
        unpacked.folder.load(fold)
    place = workspace.results / manifest.dataset / manifest.model
    if place.exists() and not overwrite:
        raise UserError(f"{place}: a model is there already. Give another `workspace`, or `overwrite` to replace it.")
    new, old = (place.with_name(f".{place.name}.{os.getpid()}.{state}") for state in ("new", "old"))
    try:
        shutil.copytree(unpacked.folder.path, new)
        if place.exists():
            place.rename(old)
        new.rename(place)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not place.exists():
            old.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    return ModelFolder(place)
