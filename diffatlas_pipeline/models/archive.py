"""A model folder that was packed into a zip file."""

from __future__ import annotations

import contextlib
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from diffatlas_pipeline.errors import ModelError
from diffatlas_pipeline.files import drive_fault
from diffatlas_pipeline.models.find import model_at
from diffatlas_pipeline.models.folder import PLANS, ModelFolder
from diffatlas_pipeline.models.package import check_content, read_manifest

MOST_BYTES = 8 * 2**30  # unpacked: a model with its atlases has a hundredth of that


@contextlib.contextmanager
def opened(path: Path) -> Iterator[ModelFolder]:
    """The model at ``path``, a folder or a zip file, which is unpacked as long as it is used in here. ModelError if it
    is none.
    """
    place = path.expanduser().resolve()
    unpacked = UnpackedModel(place) if place.is_file() else None
    yield model_at(place) if unpacked is None else unpacked.folder


class UnpackedModel:
    """The model folder in a zip file, unpacked to a temporary folder that goes with this object.

    The zip holds the content of a model folder, or that folder itself. ``manifest`` lists what was packed; None for a
    zip that was made by hand. ModelError if it is damaged, is not what was packed, holds no model, or has a name that
    leads out of the folder.
    """

    def __init__(self, archive: Path) -> None:
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="diffatlas_model_")
        except OSError as error:
            raise ModelError(
                f"{archive}: there is no folder to unpack it to ({error}). Make room in the temporary folder, or set TMPDIR to "
                "another one."
            ) from error
        root = Path(self._folder.name)
        try:
            with zipfile.ZipFile(archive) as packed:
                for entry in packed.infolist():
                    _check(entry, archive)
                if sum(entry.file_size for entry in packed.infolist()) > MOST_BYTES:
                    raise ModelError(
                        f"{archive}: unpacks to more than {MOST_BYTES / 2**30:.0f} GB, so it is no model. Do not use it."
                    )
                self.manifest = read_manifest(packed, archive)
                packed.extractall(root)
        except OSError as error:
            told = drive_fault(error)
            raise ModelError(
                f"{archive}: cannot be unpacked to {root} ({error.strerror or error}). "
                + ("Make room there, or set TMPDIR to another folder." if told else "Copy it again.")
            ) from error
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeError) as error:
            raise ModelError(f"{archive}: cannot be unpacked ({error}). Copy it again.") from error
        if self.manifest is not None:
            check_content(self.manifest, root, archive)
        found = sorted(root.glob(PLANS)) or sorted(root.glob(f"*/{PLANS}"))
        if len(found) != 1:
            raise ModelError(f"{archive}: holds {len(found)} models ({PLANS}), but one is needed. Pack one model folder.")
        self.folder = ModelFolder(found[0].parent, archive)


def _check(entry: zipfile.ZipInfo, archive: Path) -> None:
    name = PurePosixPath(entry.filename.replace("\\", "/"))
    link = stat.S_ISLNK(entry.external_attr >> 16)
    if not name.parts:
        return
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[0] or link:
        raise ModelError(f"{archive}: its entry '{entry.filename}' leads out of the model's folder. Do not use this file.")
