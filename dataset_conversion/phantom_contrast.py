"""What the phantom's tissues look like: CT in Hounsfield units, MRI in arbitrary units."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

# Strength of each tissue's own mottle, as a share of the image's range.
_MOTTLE = {"lung": 0.07, "liver": 0.012, "stomach": 0.05, "marrow": 0.06, "fat": 0.015, "muscle": 0.015, "blood": 0.012}


def draw_values(rng: np.random.Generator, modality: str) -> dict[str, float]:
    """Mean value of each tissue in one scan. All blood, labelled or not, has one value: it tells no chamber from
    another.
    """
    if modality == "CT":
        myocardium = rng.uniform(85, 145)
        return {
            "air": -1000.0,
            "fat": rng.uniform(-115, -85),
            "muscle": rng.uniform(45, 80),
            "bone": rng.uniform(450, 750),
            "marrow": rng.uniform(150, 300),
            "lung": rng.uniform(-880, -780),
            "stomach": rng.uniform(20, 120),
            "liver": rng.uniform(75, 140),
            "wall": myocardium * 0.95,
            "blood": rng.uniform(240, 460),
            "myocardium": myocardium,
        }
    scale = rng.uniform(300, 1200)
    myocardium = rng.uniform(0.30, 0.46)
    shares = {
        "air": 0.0,
        "fat": rng.uniform(0.7, 1.05),
        "muscle": rng.uniform(0.24, 0.36),
        "bone": rng.uniform(0.03, 0.12),
        "marrow": rng.uniform(0.4, 0.6),
        "lung": rng.uniform(0.05, 0.12),
        "stomach": rng.uniform(0.35, 0.7),
        "liver": rng.uniform(0.32, 0.5),
        "wall": myocardium,
        "blood": rng.uniform(0.75, 1.0),
        "myocardium": myocardium,
    }
    return {name: share * scale for name, share in shares.items()}


def finish(
    clean: np.ndarray,
    mottle: np.ndarray,
    values: dict[str, float],
    modality: str,
    spacing_mm: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Mottle, blur, bias field and noise on the painted image ``clean`` (X, Y, Z); whole numbers as a scanner stores
    them.

    ``mottle`` (X, Y, Z) is the local strength of the tissues' own texture, as a share of blood minus air.
    """
    span = values["blood"] - values["air"]
    texture = gaussian_filter(rng.standard_normal(clean.shape, dtype=np.float32), 4.0 / spacing_mm)
    image = clean + mottle * np.float32(span) * texture / max(float(texture.std()), 1e-6)
    image = gaussian_filter(image, rng.uniform(0.8, 2.2) / spacing_mm)
    if modality == "CT":
        noise = gaussian_filter(rng.standard_normal(clean.shape, dtype=np.float32), 0.5)
        image = image + noise * np.float32(rng.uniform(18, 45) / noise.std())
        return np.clip(np.rint(image), -1024, 3071).astype(np.float32)
    image = np.maximum(image, 0) * bias_field(clean.shape, rng)
    sigma = np.float32(values["blood"] * rng.uniform(0.025, 0.07))
    real, imaginary = (rng.standard_normal(clean.shape, dtype=np.float32) * sigma for _ in range(2))
    return np.rint(np.sqrt((image + real) ** 2 + imaginary**2)).astype(np.float32)  # Rician: the magnitude of a complex signal


def bias_field(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Smooth coil sensitivity (X, Y, Z), float32, mostly between 0.6 and 1.5: the exponential of a random quadratic."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    linear, square = rng.normal(0, 0.16, 3).astype(np.float32), rng.normal(0, 0.12, 6).astype(np.float32)
    exponent = linear[0] * x + linear[1] * y + linear[2] * z
    exponent = exponent + square[0] * x * x + square[1] * y * y + square[2] * z * z
    exponent = exponent + square[3] * x * y + square[4] * y * z + square[5] * x * z
    return np.exp(exponent - exponent.mean())


def mottle_of(tissue: str) -> float:
    """Strength of a tissue's own texture, as a share of the image's range."""
    return _MOTTLE.get(tissue, 0.006)
