"""Small raw data sets on disk, and fingerprints made by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from diffatlas_pipeline.datasets.description import DatasetDescription, LabelClass
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.networks.unet import build_network
from diffatlas_pipeline.planning.fingerprint import CaseShape, Fingerprint, IntensityStatistics, LabelStatistics, PowerSpectrum
from diffatlas_pipeline.volumes.grids import Triple, TripleMm


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def ball_case(
    shape: Sequence[int] = (24, 28, 20), seed: int = 0, dimensions: int = 3, centre_shift: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Image (X, Y, Z) float32 and labels: a large ball with value 3 and a small one, beside it along Y, with value
    7.
    """
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    if dimensions == 2:
        grid = grid[:2]
    middle = (np.array(shape[:dimensions]) - 1) / 2 + rng.uniform(-centre_shift, centre_shift, dimensions)
    large = np.sqrt(sum((g - m) ** 2 for g, m in zip(grid, middle, strict=True))) < 6
    middle[1] += 8
    small = np.sqrt(sum((g - m) ** 2 for g, m in zip(grid, middle, strict=True))) < 3
    labels = np.where(small, 7, np.where(large, 3, 0)).astype(np.uint8)
    image = (100 + 50 * large + 90 * small + rng.normal(0, 10, labels.shape)).astype(np.float32)
    return image, labels


def write_dataset(
    parent: Path,
    cases: int = 4,
    spacing_mm: TripleMm = (1.0, 1.0, 1.0),
    name: str = "Dataset007_Balls",
    channels: Sequence[str] = ("MRI",),
    dimensions: int = 3,
    shape: Sequence[int] = (24, 28, 20),
) -> Path:
    """A raw data set of balls; two-dimensional ones are stored as NIfTI of two axes."""
    folder = parent / name
    affine = np.diag([*spacing_mm, 1.0])
    for index in range(cases):
        image, labels = ball_case(shape, seed=index, dimensions=dimensions)
        if dimensions == 2:
            image, labels = image[:, :, 0], labels[:, :, 0]
        for channel in range(len(channels)):
            write_nifti(folder / f"imagesTr/case{index:02d}_{channel:04d}.nii.gz", image + channel, affine)
        write_nifti(folder / f"labelsTr/case{index:02d}.nii.gz", labels, affine)
    description = {
        "channel_names": {str(index): channel for index, channel in enumerate(channels)},
        "labels": {"background": 0, "large": 3, "small": 7},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    write_description(folder, description)
    return folder


def write_description(folder: Path, description: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(description))


def change_description(folder: Path, **changes: Any) -> None:
    path = folder / "dataset.json"
    raw = json.loads(path.read_text())
    write_description(folder, {k: v for k, v in (raw | changes).items() if v is not None})


def power_law(total: float, exponent: float) -> PowerSpectrum:
    """A 3-D spectrum flat below 0.05 cycles/voxel, then falling as frequency^-exponent, of variance ``total``."""
    frequency = (np.arange(64) + 0.5) / 64 * 0.866
    weight = frequency**2 / (frequency**2).sum()
    power = (0.05**2 + frequency**2) ** (-exponent / 2)
    power *= total / (weight * power).sum()
    return PowerSpectrum(*(tuple(float(v) for v in values) for values in (frequency, power, weight)))


def make_fingerprint(
    shape: Triple = (35, 51, 35),
    spacing_mm: TripleMm = (1.0, 1.0, 1.0),
    cases: int = 40,
    channel: str = "MRI",
    labels: Sequence[str] = ("anterior", "posterior"),
    dimensions: int = 3,
    mirrors: Sequence[dict[str, str]] | None = None,
    radius_mm: float = 4.0,
) -> Fingerprint:
    """A fingerprint of equal cases."""
    description = DatasetDescription(
        "Dataset001_Made", (channel,), tuple(LabelClass(name, i + 1) for i, name in enumerate(labels)), ".nii.gz"
    )
    return Fingerprint(
        description,
        tuple(CaseShape(f"case{i:03d}", shape, spacing_mm, shape) for i in range(cases)),
        (IntensityStatistics(40.0, 60.0, 45.0, -900.0, 1200.0, -160.0, 240.0),),
        tuple(
            LabelStatistics(name, i + 1, cases, 1500.0, radius_mm, mirrors[i] if mirrors else {})
            for i, name in enumerate(labels)
        ),
        power_law(0.25, 3.0),
        power_law(0.3, 4.0),
        dimensions,
    )


def simple_bytes(network: NetworkPlan, channels: int, patch: Triple, batch: int) -> int:
    """A stand-in that counts eight float32 feature maps per block and stage."""
    voxels, total = float(np.prod(patch)), 0.0
    for width, stride, blocks in zip(network.widths, network.strides, network.blocks, strict=True):
        voxels /= float(np.prod(stride))
        total += 8 * 4 * width * blocks * voxels
    return int(batch * total)


def parameters(network: NetworkPlan, channels: int) -> int:
    return sum(p.numel() for p in build_network(network, channels, channels).parameters())
