"""Small grids and arrays for the tests of files."""

from pathlib import Path

import nibabel as nib
import numpy as np

RNG = np.random.default_rng(0)
SHAPE = (5, 6, 7)


def oblique_affine(spacing=(0.7, 0.8, 2.5)) -> np.ndarray:
    a, b = np.deg2rad(25.0), np.deg2rad(-12.0)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(spacing) * [-1, 1, 1]
    affine[:3, 3] = (-91.25, 101.5, -33.75)
    return affine


def labels(shape=SHAPE, highest: int = 3) -> np.ndarray:
    array = RNG.integers(0, highest + 1, size=shape)
    array.flat[0] = highest
    return array


def nifti_image(path: Path, affine: np.ndarray, qform: int, sform: int, kind=nib.Nifti1Image, shape=SHAPE) -> Path:
    image = kind(RNG.integers(-1000, 1000, size=shape).astype(np.int16), affine)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"patient name"
    image.header["cal_max"] = 500
    image.header.set_slope_inter(1, 0)
    image.to_filename(path)
    return path
