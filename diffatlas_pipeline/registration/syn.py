"""ANTs' symmetric diffeomorphic registration (SyN), if the optional package antspyx is installed."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.registration.affine import RegistrationFailed
from diffatlas_pipeline.registration.warp import voxel_grid


def require_ants() -> Any:
    """The module of ANTs. UserError if it is not installed, or does not load."""
    if importlib.util.find_spec("ants") is None:
        raise UserError(
            "Registration with SyN needs the package antspyx, which is not installed. Install it with "
            "'pip install antspyx', or use the default registration."
        )
    try:
        return importlib.import_module("ants")
    except ImportError as error:
        raise UserError(
            f"The package antspyx is installed but does not load ({error}). Install it again, or use the default registration."
        ) from error


def deform_by_syn(target: np.ndarray, atlas: np.ndarray, spacing_mm: Sequence[float], seed: int = 0) -> np.ndarray:
    """The coordinates (3, X, Y, Z) in ``atlas`` (x, y, z) of each voxel of ``target`` (X, Y, Z), by affine + SyN.

    The metric is mutual information in both stages. Raises RegistrationFailed, and UserError without antspyx.
    """
    ants = require_ants()
    flat = target.shape[2] == 1
    dimensions = 2 if flat else 3
    fixed, moving = (
        ants.from_numpy(np.ascontiguousarray(one[..., 0] if flat else one), spacing=tuple(spacing_mm[:dimensions]))
        for one in (target, atlas)
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = ants.registration(
                fixed, moving, type_of_transform="SyN", random_seed=seed % (2**31) + 1, singleprecision=True,
                outprefix=str(Path(folder) / "syn"),
            )  # fmt: skip
            # A map is read off by warping the atlas' own coordinates.
            axes = voxel_grid(atlas.shape)[:dimensions]
            carried = [_carried(ants, axis[..., 0] if flat else axis, fixed, moving, found) for axis in axes]
        except (RuntimeError, ValueError) as error:
            raise RegistrationFailed(f"SyN: {error}") from error
    if flat:
        return np.stack([*(one[..., None] for one in carried), np.zeros(target.shape)]).astype(np.float32)
    return np.stack(carried).astype(np.float32)


def _carried(ants: Any, values: np.ndarray, fixed: Any, moving: Any, found: Any) -> np.ndarray:
    image = ants.from_numpy(np.ascontiguousarray(values, dtype=np.float32), spacing=moving.spacing)
    outside = -1e3  # beyond the atlas there is no coordinate: far away, so that nothing is known there
    return np.asarray(ants.apply_transforms(fixed, image, found["fwdtransforms"], defaultvalue=outside).numpy())
