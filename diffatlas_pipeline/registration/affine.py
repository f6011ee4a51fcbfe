"""Affine registration by mutual information (SimpleITK): works whatever the contrast of the two images is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from diffatlas_pipeline.registration.grids import factors, shrink
from diffatlas_pipeline.registration.similarity import mutual_information
from diffatlas_pipeline.registration.warp import affine_coordinates, voxel_grid, warp_image

if TYPE_CHECKING:
    import SimpleITK as sitk

SAMPLES = 6_000  # voxels that the metric looks at
BINS = 24
ITERATIONS = 60
TRIES = 2  # starts that are followed on the coarse level
LARGEST_AXIS = 64  # the finest level's: more voxels than that make an affine map no better
LARGEST_ZOOM = 3.0  # a map that changes volumes by more than this factor to the power of three is a failure


class RegistrationFailed(Exception):
    """Two images could not be aligned; the caller falls back to something simpler."""


def centre_matrix(target_shape: Sequence[int], atlas_shape: Sequence[int]) -> np.ndarray:
    """(3, 4): target voxels to atlas voxels, volume centre on volume centre."""
    shift = [(m - n) / 2 for n, m in zip(target_shape, atlas_shape, strict=True)]
    return np.concatenate([np.eye(3), np.array(shift)[:, None]], axis=1)


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The map (3, 4) that applies ``inner`` first."""
    return np.concatenate([outer[:, :3] @ inner[:, :3], outer[:, :3] @ inner[:, 3:] + outer[:, 3:]], axis=1)


def inverse(matrix: np.ndarray) -> np.ndarray:
    """The map (3, 4) that undoes ``matrix``."""
    undone = np.linalg.inv(matrix[:, :3])
    return np.concatenate([undone, -undone @ matrix[:, 3:]], axis=1)


def moments_matrix(target: np.ndarray, atlas: np.ndarray) -> np.ndarray:
    """(3, 4): target voxels to atlas voxels, centre of brightness on centre of brightness."""
    return np.concatenate([np.eye(3), (_centroid(atlas) - _centroid(target))[:, None]], axis=1)


def agreement(target: np.ndarray, atlas: np.ndarray, matrix: np.ndarray) -> float:
    """Mutual information in nats of ``target`` and ``atlas`` under ``matrix``, over the target's voxels."""
    return mutual_information(target, warp_image(atlas, affine_coordinates(matrix, voxel_grid(target.shape))), BINS)


def align(
    target: np.ndarray, atlas: np.ndarray, spacing_mm: Sequence[float], seed: int = 0, starts: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """The affine map (3, 4) of ``target`` voxels to ``atlas`` voxels of largest mutual information; images (X, Y, Z).

    Of the alignment of the volumes' centres, that of the centres of brightness, and the maps ``starts``, the two that
    agree best are followed on a coarse level, and the better one then on a fine level. A volume of one slice is
    registered in its plane. Raises RegistrationFailed.
    """
    if not (np.isfinite(target).all() and np.isfinite(atlas).all()) or np.ptp(target) == 0 or np.ptp(atlas) == 0:
        raise RegistrationFailed("an image is constant, or not finite")
    flat = target.shape[2] == 1 or atlas.shape[2] == 1
    base = max(1.0, max(target.shape) / LARGEST_AXIS)
    by = factors(target.shape, spacing_mm, 2 * base)
    coarse = shrink(target, by), shrink(atlas, by)
    up = _diagonal(target.shape, coarse[0].shape), _diagonal(atlas.shape, coarse[1].shape)

    def coarse_agreement(matrix: np.ndarray) -> float:
        return agreement(*coarse, compose(inverse(up[1]), compose(matrix, up[0])))

    def followed(matrix: np.ndarray, factor: float) -> np.ndarray:
        by = factors(target.shape, spacing_mm, factor)
        images = [_to_itk(shrink(image, by), image.shape, spacing_mm, flat) for image in (target, atlas)]
        return _optimise(images[0], images[1], matrix, spacing_mm, flat, seed)

    moments = compose(up[1], compose(moments_matrix(*coarse), inverse(up[0])))
    tried = sorted([centre_matrix(target.shape, atlas.shape), moments, *starts], key=coarse_agreement, reverse=True)[:TRIES]
    reached, failure = [], None
    for start in tried:
        try:
            reached.append(followed(start, 2 * base))
        except RegistrationFailed as error:
            failure = error
    if failure is not None and not reached:
        raise failure
    found = max([*tried, *reached], key=coarse_agreement)
    try:
        return max([found, followed(found, base)], key=lambda matrix: agreement(target, atlas, matrix))
    except RegistrationFailed:
        return found


def _optimise(
    target: sitk.Image, atlas: sitk.Image, start: np.ndarray, spacing_mm: Sequence[float], flat: bool, seed: int
) -> np.ndarray:
    """The map that a descent from ``start`` ends at. RegistrationFailed if it is none, or no sensible one."""
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    voxels = target.GetNumberOfPixels()
    if voxels > SAMPLES:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(SAMPLES / voxels, seed % (2**31) + 1)  # a seed of 0 would mean the clock
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=max(target.GetSpacing()), minStep=1e-3 * min(target.GetSpacing()), numberOfIterations=ITERATIONS,
        relaxationFactor=0.6,
    )  # fmt: skip
    method.SetOptimizerScalesFromPhysicalShift()
    transform = _to_transform(start, spacing_mm, flat)
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(target, atlas)
    except RuntimeError as error:
        raise RegistrationFailed(str(error).strip().splitlines()[-1]) from error
    # With several threads ITK adds up in any order: without rounding, repeats would differ in the last digits.
    matrix = np.round(_to_matrix(transform, spacing_mm, flat), 6)
    volume = np.linalg.det(matrix[:, :3])
    if not LARGEST_ZOOM**-3 < volume < LARGEST_ZOOM**3:
        raise RegistrationFailed(f"the affine map changes volumes by a factor of {volume:.3g}")
    return matrix


def _to_itk(image: np.ndarray, shape: Sequence[int], spacing_mm: Sequence[float], flat: bool) -> sitk.Image:
    """A volume as an ITK image whose world is millimetres from the first voxel of the full grid of ``shape``."""
    import SimpleITK as sitk

    dimensions = 2 if flat else 3
    values = image[..., 0] if flat else image
    result = sitk.GetImageFromArray(np.ascontiguousarray(values.T, dtype=np.float32))
    here_mm = [s * m / n for s, m, n in zip(spacing_mm, shape, image.shape, strict=True)]
    result.SetSpacing(here_mm[:dimensions])
    result.SetOrigin([(h - s) / 2 for h, s in zip(here_mm, spacing_mm, strict=True)][:dimensions])
    return result


def _to_transform(matrix: np.ndarray, spacing_mm: Sequence[float], flat: bool) -> sitk.AffineTransform:
    import SimpleITK as sitk

    dimensions = 2 if flat else 3
    spacing = np.asarray(spacing_mm, np.float64)
    world = matrix[:, :3] * spacing[:, None] / spacing[None]
    transform = sitk.AffineTransform(dimensions)
    transform.SetMatrix(world[:dimensions, :dimensions].ravel().tolist())
    transform.SetTranslation((matrix[:, 3] * spacing)[:dimensions].tolist())
    return transform


def _to_matrix(transform: sitk.AffineTransform, spacing_mm: Sequence[float], flat: bool) -> np.ndarray:
    """The inverse of :func:`_to_transform`."""
    dimensions = 2 if flat else 3
    spacing = np.asarray(spacing_mm, np.float64)
    world, shift = np.eye(3), np.zeros(3)
    world[:dimensions, :dimensions] = np.array(transform.GetMatrix()).reshape(dimensions, dimensions)
    shift[:dimensions] = transform.TransformPoint((0.0,) * dimensions)
    return np.concatenate([world * spacing[None] / spacing[:, None], (shift / spacing)[:, None]], axis=1)


def _centroid(image: np.ndarray) -> np.ndarray:
    weight = image.astype(np.float64) - image.min()
    total = max(float(weight.sum()), 1e-12)
    return np.array(
        [(weight.sum(axis=tuple(a for a in range(3) if a != axis)) * np.arange(n)).sum() / total
         for axis, n in enumerate(image.shape)]
    )  # fmt: skip


def _diagonal(shape: Sequence[int], coarser: Sequence[int]) -> np.ndarray:
    """(3, 4): voxels of the coarser grid to voxels of ``shape``."""
    scale = np.array([m / n for m, n in zip(shape, coarser, strict=True)])
    return np.concatenate([np.diag(scale), ((scale - 1) / 2)[:, None]], axis=1)
