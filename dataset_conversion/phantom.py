"""A whole-heart phantom: any number of different hearts in their chest, as CT-like or MRI-like images with five labels.

Cases are functions of (seed, case number) alone. Training cases are numbered from 0, test cases from TEST_INDEX, so a
data set can grow without its test cases changing; the same seed and number give the same person in both modalities.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import label as connected_components

from dataset_conversion.phantom_anatomy import LABELS, draw_anatomy, layers
from dataset_conversion.phantom_contrast import draw_values, finish, mottle_of
from dataset_conversion.raw_layout import (
    LayoutDescription,
    check_leftovers,
    dataset_folder,
    for_each_case,
    image_name,
    make_folders,
    raise_bad_cases,
    with_temporary,
    write_description,
)
from diffatlas_pipeline.errors import DatasetError, UserError
from diffatlas_pipeline.volumes.grids import Triple

GENERATOR_VERSION = 1
FIELD_OF_VIEW_MM = 168.0
MODALITIES = ("CT", "MRI")
TEST_INDEX = 1_000_000
SMALLEST_SIZE = 16
FILE_ENDING = ".nii.gz"


def generate_case(seed: int, index: int, size: Triple, modality: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One person's scan: image (X, Y, Z) float32, labels (X, Y, Z) uint8, affine (4, 4) in mm, RAS+.

    Any ``size`` covers the same field of view. Raises ValueError for an unknown modality or a size below 16 voxels.
    """
    if modality not in MODALITIES:
        raise ValueError(f"modality is {modality!r}, must be one of {', '.join(MODALITIES)}")
    if min(size) < SMALLEST_SIZE:
        raise ValueError(f"size is {size}, must be at least {SMALLEST_SIZE} voxels along each axis")
    anatomy = draw_anatomy(np.random.default_rng([seed, index, 0]))
    rng = np.random.default_rng([seed, index, 1, zlib.crc32(modality.encode())])
    values = draw_values(rng, modality)
    spacing_mm = FIELD_OF_VIEW_MM / np.asarray(size, dtype=np.float64)
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = (spacing_mm - FIELD_OF_VIEW_MM) / 2  # the field of view is centred on the world's origin
    axes = [np.arange(n) * step + start for n, step, start in zip(size, spacing_mm, affine[:3, 3], strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1).astype(np.float32)

    image = np.full(points.shape[1], values["air"], np.float32)
    mottle = np.zeros_like(image)
    labels = np.zeros(points.shape[1], np.uint8)
    edge_mm = np.float32(spacing_mm.mean())
    for layer in layers(anatomy, points):
        # The share of a voxel inside the body, from the distance of its centre to the surface: partial volume.
        share = np.clip(0.5 - layer.distance_mm / edge_mm, 0, 1) * np.float32(layer.opacity)
        image += share * (np.float32(values[layer.tissue]) - image)
        mottle += share * (np.float32(mottle_of(layer.tissue)) - mottle)
        if layer.label:
            labels[layer.distance_mm < 0] = layer.label
    picture = finish(image.reshape(size), mottle.reshape(size), values, modality, spacing_mm, rng)
    return picture, _largest_components(labels.reshape(size)), affine


def _largest_components(labels: np.ndarray) -> np.ndarray:
    """Each label reduced to its largest connected part; slivers where two curved walls meet become background."""
    for value in LABELS.values():
        parts, count = connected_components(labels == value)
        if count > 1:
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            labels[(parts > 0) & (parts != sizes.argmax())] = 0
    return labels


# ------------------------------------------------------------------------------------------------------------ data set
def write_phantom_dataset(
    raw_folder: Path,
    dataset_id: int,
    *,
    name: str | None = None,
    training_cases: int = 24,
    test_cases: int = 6,
    size: Sequence[int] = (48,),
    modality: str = "CT",
    seed: int = 0,
    workers: int = 1,
    overwrite: bool = False,
) -> Path:
    """Write a phantom data set in the raw layout, test labels in ``labelsTs``; returns its folder.

    ``name`` None: HeartPhantomCT or HeartPhantomMRI. ``size`` in voxels: one number or three, of the same field of
    view. Cases that an earlier run with the same settings wrote are kept. Raises UserError for numbers that cannot be,
    and DatasetError if the folder holds another data set or more cases than asked for, unless ``overwrite``.
    """
    check_numbers(training_cases, test_cases, size, seed)
    x, y, z = size if len(size) == 3 else (size[0],) * 3
    name = name or f"HeartPhantom{modality}"
    folder = dataset_folder(raw_folder, dataset_id, name)
    generator = {"kind": "heart phantom", "version": GENERATOR_VERSION, "seed": seed, "size": [x, y, z], "modality": modality}
    keep = _same_generator(folder, generator, overwrite)
    training = [f"heart_{number + 1:04d}" for number in range(training_cases)]
    test = [f"heart_test_{number + 1:04d}" for number in range(test_cases)]
    expected = {
        "imagesTr": {image_name(case, 0, FILE_ENDING) for case in training},
        "labelsTr": {case + FILE_ENDING for case in training},
        "imagesTs": {image_name(case, 0, FILE_ENDING) for case in test},
        "labelsTs": {case + FILE_ENDING for case in test},
    }
    check_leftovers(folder, expected, overwrite)
    make_folders(folder, [part for part, names in expected.items() if names])
    if not keep:
        (folder / "dataset.json").unlink(missing_ok=True)
    jobs = []
    for part, cases, first in (("Tr", training, 0), ("Ts", test, TEST_INDEX)):
        for number, case in enumerate(cases):
            image = folder / f"images{part}" / image_name(case, 0, FILE_ENDING)
            label = folder / f"labels{part}" / (case + FILE_ENDING)
            if not (keep and image.is_file() and label.is_file()):
                jobs.append((case, image, label, seed, first + number, (x, y, z), modality))
    if jobs:
        raise_bad_cases(for_each_case(_write_case, jobs, workers, "Generating hearts"), folder)
    notes = {
        "description": "Synthetic whole-heart phantom: four chambers and the left ventricle's wall",
        "generator": generator,
    }
    write_description(folder, name, training_cases, LayoutDescription((modality,), LABELS, FILE_ENDING, notes))
    return folder


def check_numbers(training_cases: int, test_cases: int, size: Sequence[int], seed: int) -> None:
    """UserError for a size or for numbers of cases that cannot be."""
    if len(size) not in (1, 3) or min(size) < SMALLEST_SIZE:
        raise UserError(f"`size` {' '.join(map(str, size))}: give one number or three, each at least {SMALLEST_SIZE}.")
    if training_cases < 1 or test_cases < 0 or seed < 0:
        raise UserError("`training_cases` must be at least 1, `test_cases` and `seed` at least 0.")


def _same_generator(folder: Path, generator: dict[str, Any], overwrite: bool) -> bool:
    """Whether ``folder`` holds a finished data set of just these settings; DatasetError if it holds another one."""
    path = folder / "dataset.json"
    if not path.is_file():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("generator")
    except (json.JSONDecodeError, AttributeError):
        found = None
    if found != generator and not overwrite:
        raise DatasetError(
            f"{folder} holds a data set made with other settings ({found or 'not a phantom'}; asked for {generator}). "
            "Give `overwrite` to replace it, or another number with `dataset_id`."
        )
    return found == generator


def _write_case(case: str, image_path: Path, label_path: Path, seed: int, index: int, size: Triple, modality: str) -> None:
    image, labels, affine = generate_case(seed, index, size, modality)
    for path, array in ((image_path, image.astype(np.int16)), (label_path, labels)):
        nifti = nib.Nifti1Image(array, affine)
        nifti.set_qform(affine, 1)
        nifti.set_sform(affine, 1)
        nifti.header.set_xyzt_units("mm")
        with_temporary(path, nifti.to_filename)
