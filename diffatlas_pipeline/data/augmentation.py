"""Random changes of a patch. Randomness is drawn first and applied after, so image and distance maps share it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform, blur_dimension
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform

from diffatlas_pipeline.data.contrast import synthesise_contrast
from diffatlas_pipeline.datasets.codes import Codes
from diffatlas_pipeline.planning.plan import STORED_LIMIT, AugmentationPlan
from diffatlas_pipeline.volumes.grids import Triple, TripleMm

ROTATION_PROBABILITY = 0.5
ZOOM_PROBABILITY = 0.5
ELASTIC_POINTS = 4  # along the patch's longest axis in mm: what moves together is about a quarter of the patch
ELASTIC_STRENGTH = (0.05, 0.22)  # standard deviation of the points' shifts, in distances of the points: no folds
BLUR_REACH = 3  # voxels; an axis of so few is neither blurred nor coarsened
_COARSE = 3.0  # low resolution is not simulated along an axis already this much coarser than the finest


@dataclass(frozen=True)
class AugmentationParameters:
    """One draw. ``angles_degrees`` about the x, y, z axes; ``zoom`` > 1 makes everything larger; ``mirror`` lists
    flipped axes; ``elastic_strength`` in distances of the control points, 0 for none, whose shifts ``elastic_seed``
    fixes; ``contrast_seed`` fixes a synthetic contrast and ``intensity_seed`` the intensity changes, None for none. The
    defaults change nothing."""

    angles_degrees: TripleMm = (0.0, 0.0, 0.0)
    zoom: float = 1.0
    mirror: tuple[int, ...] = ()
    intensity_seed: int | None = None
    elastic_strength: float = 0.0
    elastic_seed: int = 0
    contrast_seed: int | None = None

    @property
    def resamples(self) -> bool:
        return self.zoom != 1 or any(self.angles_degrees) or self.elastic_strength > 0


class Augmentation:
    """Rotation, zoom and mirroring of image and distance maps; intensity changes of the image, and in a share
    ``any_contrast`` of the samples another contrast.

    Rotation and zoom act in mm (``spacing_mm`` of the patch), are isotropic, and need a box larger than the patch:
    :meth:`source_extent` says how large. Shifts come from where the patch is cut. ``codes`` tells labels that overlap.
    Raises ValueError for a zoom that
    shrinks beyond what the stored distances allow (1 / STORED_LIMIT).
    """

    def __init__(
        self,
        plan: AugmentationPlan,
        patch: Triple,
        spacing_mm: TripleMm = (1.0, 1.0, 1.0),
        any_contrast: float = 0.0,
        codes: Codes | None = None,
    ) -> None:
        if plan.zoom[0] * STORED_LIMIT < 1 - 1e-6:
            raise ValueError(f"zoom {plan.zoom}: the smallest must be at least {1 / STORED_LIMIT:.3f}")
        self.plan = plan
        self.patch, self.any_contrast, self.codes = patch, any_contrast, codes
        self.spacing_mm = np.asarray(spacing_mm, dtype=np.float64)
        self._flat = patch[2] == 1  # a two-dimensional patch turns and zooms within its plane only
        axes = spacing_mm[:2] if self._flat else spacing_mm
        coarse = tuple(a for a, s in enumerate(axes) if s > _COARSE * min(axes) or patch[a] <= BLUR_REACH)
        self._intensity = _intensity_transforms(coarse)

    def draw(self, rng: np.random.Generator) -> AugmentationParameters:
        """Random parameters within the plan's ranges."""
        angles = (0.0, 0.0, 0.0)
        if rng.random() < ROTATION_PROBABILITY:
            x, y, z = (float(rng.uniform(-limit, limit)) if limit else 0.0 for limit in self.plan.rotation_degrees)
            angles = (0.0, 0.0, z) if self._flat else (x, y, z)
        zoom = 1.0
        if rng.random() < ZOOM_PROBABILITY:
            low, high = self.plan.zoom
            zoom = float(np.exp(rng.uniform(np.log(low), np.log(high))))  # enlarging and shrinking are equally likely
        mirror = tuple(axis for axis in self.plan.mirror_axes if rng.random() < 0.5)
        seed = int(rng.integers(2**31)) if self.plan.intensity else None
        strength, elastic_seed = 0.0, 0
        if self.plan.elastic and rng.random() < self.plan.elastic:
            strength, elastic_seed = float(rng.uniform(*ELASTIC_STRENGTH)), int(rng.integers(2**31))
        contrast_seed = int(rng.integers(2**31)) if self.any_contrast and rng.random() < self.any_contrast else None
        return AugmentationParameters(angles, zoom, mirror, seed, strength, elastic_seed, contrast_seed)

    def source_extent(self, parameters: AugmentationParameters) -> Triple:
        """Voxels per axis of the box that the changed patch is sampled from; the patch's own where nothing is
        resampled.
        """
        if not parameters.resamples:
            return self.patch
        patch = np.asarray(self.patch)
        shifts = 2 * parameters.elastic_strength * self._point_distance() * (patch > 1)  # few points go further
        reach = np.abs(self._matrix(parameters)) @ ((patch - 1) / 2 + shifts)
        # The same parity as the patch, so that both have the same centre.
        x, y, z = (int(p + 2 * math.ceil((2 * r + 1 - p) / 2 - 1e-6)) for p, r in zip(patch, reach, strict=True))
        return x, y, z

    def apply(
        self, image: np.ndarray, distances: np.ndarray, parameters: AugmentationParameters
    ) -> tuple[np.ndarray, np.ndarray]:
        """``image`` (C, *extent), ``distances`` (K, *extent) of :meth:`source_extent` -> (C, *patch), (K, *patch)
        float32.

        The image stays in [-1, 1]. Distances are scaled by the zoom, as lengths are, and clipped to [-1, 1]; where the
        patch is deformed, by how much lengths change there, the mean over all directions. Surfaces lie exactly where
        they belong.
        """
        channels = image.shape[0]
        state = torch.from_numpy(np.concatenate([image, distances]).astype(np.float32, copy=False))
        scale: torch.Tensor | float = parameters.zoom
        if parameters.resamples:
            deforms = parameters.elastic_strength and max(self.patch) > 1
            shifts = self._shifts(parameters) if deforms else None
            state = self._resample(state, parameters, shifts)
            if shifts is not None:
                scale = scale / _stretch(shifts)
            if parameters.mirror and isinstance(scale, torch.Tensor):
                scale = scale.flip(list(parameters.mirror))
        if parameters.mirror:
            state = state.flip([axis + 1 for axis in parameters.mirror])
        changed, maps = state[:channels], state[channels:]
        if parameters.contrast_seed is not None:
            rng = np.random.default_rng(parameters.contrast_seed)
            spacing_mm = tuple(self.spacing_mm)
            told = maps.numpy() if self.codes is None else self.codes.scores(maps[: self.codes.labels].numpy())
            changed = torch.from_numpy(synthesise_contrast(changed.numpy(), told, rng, spacing_mm))
        if parameters.intensity_seed is not None:
            changed = self._change_intensity(changed, parameters.intensity_seed)
        return changed.clamp(-1, 1).numpy(), (maps * scale).clamp_(-1, 1).numpy()

    def _matrix(self, parameters: AugmentationParameters) -> np.ndarray:
        """(3, 3): offset from the patch's centre in voxels -> offset from the source's centre in voxels."""
        scale = np.full(3, 1 / parameters.zoom)
        if self._flat:
            scale[2] = 1
        turn_mm = _rotation(parameters.angles_degrees) * scale
        return turn_mm * self.spacing_mm[None, :] / self.spacing_mm[:, None]

    def _point_distance(self) -> np.ndarray:
        """(3,): voxels between the control points of a deformation, the same in mm along all axes."""
        return np.max(np.asarray(self.patch) * self.spacing_mm) / ELASTIC_POINTS / self.spacing_mm

    def _shifts(self, parameters: AugmentationParameters) -> torch.Tensor:
        """(3, *patch): smooth random shifts in voxels; none along an axis of one voxel."""
        distance, patch = self._point_distance(), np.asarray(self.patch)
        points = [max(2, round(float(n / d)) + 1) if n > 1 else 1 for n, d in zip(patch, distance, strict=True)]
        generator = torch.Generator().manual_seed(parameters.elastic_seed)
        coarse = torch.randn((1, 3, *points), generator=generator) * parameters.elastic_strength
        coarse *= torch.from_numpy(distance * (patch > 1)).float().reshape(1, 3, 1, 1, 1)
        # Twice the points first: linear interpolation between few of them has creases.
        finer = [2 * n if n > 1 else 1 for n in points]
        for size in (finer, self.patch):
            coarse = torch.nn.functional.interpolate(coarse, size=tuple(size), mode="trilinear", align_corners=True)
        return coarse[0]

    def _resample(self, state: torch.Tensor, parameters: AugmentationParameters, shifts: torch.Tensor | None) -> torch.Tensor:
        """Trilinear sampling of all channels in one pass; ``shifts`` (3, *patch) in voxels of the patch come first."""
        source = np.asarray(state.shape[1:])
        # affine_grid works in units of half the extent, with the last axis first.
        theta = self._matrix(parameters) * np.asarray(self.patch)[None, :] / source[:, None]
        theta = np.concatenate([theta[::-1, ::-1], np.zeros((3, 1))], axis=1)
        size = [1, state.shape[0], *self.patch]
        grid = torch.nn.functional.affine_grid(torch.from_numpy(theta).float()[None], size, align_corners=False)
        if shifts is not None:
            half = shifts * (2 / torch.tensor(self.patch)).reshape(3, 1, 1, 1)
            linear = torch.from_numpy(theta[:, :3]).float()
            grid = grid + torch.einsum("ij,jxyz->xyzi", linear, half.flip(0))[None]
        sampled = torch.nn.functional.grid_sample(state[None], grid, padding_mode="border", align_corners=False)  # trilinear
        return sampled[0]

    def _change_intensity(self, image: torch.Tensor, seed: int) -> torch.Tensor:
        """Brightness, contrast, gamma, noise, blur and low resolution, each with its own probability."""
        # In [0, 1], so that brightness and gamma keep black black.
        unit = image.add(1).div_(2)
        if self._flat:
            unit = unit[..., 0]
        with _seeded(seed):
            unit = self._intensity(image=unit.contiguous())["image"]
        return (unit[..., None] if self._flat else unit).mul(2).sub_(1)


def _stretch(shifts: torch.Tensor) -> torch.Tensor:
    """(*patch): by how much the map x -> x + shift(x) lengthens, the mean over directions: the root of its
    determinant.
    """
    axes = [axis for axis in range(3) if shifts.shape[axis + 1] > 1]
    rows = [list(torch.gradient(shifts[i], dim=axes)) for i in axes]
    for i, row in enumerate(rows):
        row[i] = row[i] + 1
    return _determinant(rows).clamp_min(0.1) ** (1 / len(axes))


def _determinant(rows: list[list[torch.Tensor]]) -> torch.Tensor:
    """Of a matrix in every voxel, by its first row: for three rows it takes a tenth of torch's time."""
    if len(rows) == 1:
        return rows[0][0]
    total = torch.zeros_like(rows[0][0])
    for column, entry in enumerate(rows[0]):
        minor = [row[:column] + row[column + 1 :] for row in rows[1:]]
        total.addcmul_(entry, _determinant(minor), value=(-1) ** column)
    return total


def _rotation(angles_degrees: TripleMm) -> np.ndarray:
    """(3, 3) rotation: about x, then y, then z."""
    a, b, c = np.deg2rad(angles_degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


class _Blur(GaussianBlurTransform):
    """Blur along those axes that are long enough: the image is reflected at their ends."""

    def _apply_to_image(self, img: torch.Tensor, **params: Any) -> torch.Tensor:
        for channel, sigmas in zip(np.flatnonzero(params["apply_to_channel"]), params["sigmas"], strict=True):
            one = img[channel : channel + 1]
            for axis, sigma in enumerate(sigmas):
                if img.shape[axis + 1] > BLUR_REACH:
                    one = blur_dimension(one, sigma, axis)
            img[channel : channel + 1] = one
        return img


def _intensity_transforms(coarse_axes: tuple[int, ...]) -> BasicTransform:
    """The chain for images in [0, 1]."""
    options = {"synchronize_channels": False, "p_per_channel": 1.0}
    contrast = BGContrast((0.7, 1.3))
    chain: list[tuple[BasicTransform, float]] = [
        (GaussianNoiseTransform(noise_variance=(0, 0.003), **options), 0.15),
        (_Blur(blur_sigma=(0.5, 1.0), synchronize_axes=True, **options), 0.15),
        (MultiplicativeBrightnessTransform(multiplier_range=(0.75, 1.25), **options), 0.2),
        (ContrastTransform(contrast_range=contrast, preserve_range=False, **options), 0.2),
        (
            SimulateLowResolutionTransform(scale=(0.5, 1), synchronize_axes=True, ignore_axes=coarse_axes, **options),
            0.1,
        ),
        (GammaTransform(gamma=(0.7, 1.5), p_invert_image=1, p_retain_stats=0, **options), 0.1),
        (GammaTransform(gamma=(0.7, 1.5), p_invert_image=0, p_retain_stats=0, **options), 0.2),
    ]
    return ComposeTransforms([RandomTransform(transform, apply_probability=p) for transform, p in chain])


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The transforms draw from the global generators: seed those, and put them back as they were."""
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)
