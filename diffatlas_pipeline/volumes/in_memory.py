"""Images in memory: numpy arrays, SimpleITK's and nibabel's images, as volumes, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.volumes.channels import lacking, missing_channels
from diffatlas_pipeline.volumes.grids import Grid, Volume, grid_difference

ARRAY = "the array"


def volume_of_array(
    array: np.ndarray,
    spacing_mm: Sequence[float] | None,
    affine: np.ndarray | None = None,
    dimensions: int = 3,
    channels: int = 1,
) -> Volume:
    """An array (X, Y, Z), or (C, X, Y, Z), as a volume; (X, Y), or (C, X, Y), where ``dimensions`` is 2.

    Its grid is given by ``spacing_mm``, one number per axis, or by ``affine``, the 4x4 voxel-to-world matrix in mm
    (RAS+, as NIfTI's). With ``spacing_mm`` alone the axes are taken to run right, anterior, superior. Some of several
    channels may be missing: NaN in every voxel. Raises ImageError.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise ImageError("image: a masked array. Fill what is masked with the background's value, with its method filled().")
    values = np.asarray(array)
    if values.ndim == dimensions and channels == 1:
        values = values[None]
    if values.ndim != dimensions + 1 or values.shape[0] != channels or values.size == 0:
        axes = "XYZ"[:dimensions]
        wanted = f"({', '.join(axes)})" if channels == 1 else f"({channels}, {', '.join(axes)})"
        raise ImageError(f"image of shape {np.asarray(array).shape}: the model needs an array of shape {wanted}.")
    if values.dtype.kind not in "biuf":
        raise ImageError(f"image of type {values.dtype}: the model needs integers or real numbers.")
    if dimensions == 2:
        values = values[..., None]
    x, y, z = values.shape[1:]
    grid = Grid.of((x, y, z), _matrix(spacing_mm, affine, dimensions), 2 if z == 1 else 3)  # as files are read
    with np.errstate(over="ignore"):
        whole = values.astype(np.float32)
    missing = missing_channels(whole)
    if len(missing) == len(whole):
        missing = ()  # nothing is there: `finite` says so
    return lacking(Volume(finite(np.delete(whole, missing, axis=0) if missing else whole, ARRAY), grid, ARRAY), missing)


def volume_of_images(images: Sequence[Any]) -> Volume:
    """SimpleITK or nibabel images, one per channel, as one volume. Raises ImageError for grids that differ, and what is
    no image.
    """
    parts = [_values(image) for image in images]
    first = parts[0][1]
    for _, grid in parts[1:]:
        if difference := grid_difference(first, grid):
            raise ImageError(f"image: its channels are not on one grid ({difference}). Resample one onto the other's.")
    array = np.stack([finite(values.astype(np.float32), "the image") for values, _ in parts])
    return Volume(array, first, "the image")


def is_image(value: Any) -> bool:
    """Whether ``value`` is an image of SimpleITK or nibabel."""
    return _is_sitk(value) or _is_nibabel(value)


def to_sitk(array: np.ndarray, grid: Grid) -> Any:
    """``array`` (X, Y, Z) on ``grid`` as a SimpleITK image, of two dimensions where the grid has two."""
    from diffatlas_pipeline.volumes import itk

    return itk.image_of(array, grid)


def to_nibabel(array: np.ndarray, grid: Grid) -> Any:
    """``array`` (X, Y, Z) on ``grid`` as a nibabel image (NIfTI)."""
    from diffatlas_pipeline.volumes import nifti

    return nifti.image_of(array, grid)


def finite(channel: np.ndarray, source: str) -> np.ndarray:
    """``channel`` itself; ImageError naming ``source`` if a voxel is NaN or infinite."""
    bad = channel.size - int(np.count_nonzero(np.isfinite(channel)))
    if bad:
        raise ImageError(
            f"{source}: {bad} of {channel.size} voxels are NaN or infinite. Replace them with the background's value."
        )
    return channel


def _matrix(spacing_mm: Sequence[float] | None, affine: np.ndarray | None, dimensions: int) -> np.ndarray:
    if affine is not None:
        matrix = _numbers(affine)
        if matrix is None or matrix.shape != (4, 4) or abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
            raise ImageError("affine: an invertible 4x4 matrix of finite numbers is needed, voxels to mm.")
        return matrix
    if spacing_mm is None:
        raise ImageError("spacing_mm: an array does not tell its voxel size. Give it, such as spacing_mm=(1, 1, 1).")
    spacing = _numbers(spacing_mm)
    if spacing is None or spacing.shape not in ((dimensions,), (3,)) or (spacing <= 0).any():
        raise ImageError(f"spacing_mm {spacing_mm!r}: {dimensions} lengths in mm above 0 are needed, one per axis.")
    return np.diag([*spacing[:dimensions], *([1.0] * (3 - dimensions)), 1.0])


def _numbers(given: Any) -> np.ndarray | None:
    """``given`` as finite float64; None if it is anything else."""
    try:
        array = np.asarray(given)
    except ValueError:  # rows of unequal length
        return None
    return array.astype(np.float64) if array.dtype.kind in "iuf" and np.isfinite(array).all() else None


def _values(image: Any) -> tuple[np.ndarray, Grid]:
    """Values (X, Y, Z) of one image, and its grid."""
    if _is_sitk(image):
        from diffatlas_pipeline.volumes import itk

        return itk.values_of(image)
    if _is_nibabel(image):
        from diffatlas_pipeline.volumes import nifti

        return nifti.values_of(image)
    raise ImageError(
        f"image: a {type(image).__name__} is no image. Give a path, an array, or an image of SimpleITK or nibabel."
    )


def _is_sitk(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "SimpleITK" and hasattr(value, "GetSpacing")


def _is_nibabel(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "nibabel" and hasattr(value, "dataobj")
