"""Contrast adaptation: a known change of contrast is undone, and a scan of the references' own contrast is left
alone.
"""

import numpy as np
import pytest
from scipy import ndimage

from diffatlas_pipeline.atlases.contrast import adapt_contrast, contrast_curve
from diffatlas_pipeline.registration.affine import RegistrationFailed

SPACING = (1.0, 1.0, 1.0)
SHAPE = (32, 36, 30)


def scan(seed: int, shift: float = 0.0) -> np.ndarray:
    """Nested ellipsoids of three intensities with noise, (1, X, Y, Z) in [-1, 1]."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    body = (x - shift) ** 2 + (y * 0.9) ** 2 + (z * 1.1) ** 2
    core = ((x - 0.25 - shift) / 0.4) ** 2 + (y / 0.35) ** 2 + (z / 0.3) ** 2
    image = np.where(core < 1, 0.8, np.where(body < 0.55, 0.0, -0.8))
    image = ndimage.gaussian_filter(image, 0.7) + rng.normal(0, 0.04, SHAPE)
    return image.clip(-1, 1).astype(np.float32)[None]


@pytest.mark.parametrize("contrast", [lambda i: -i, lambda i: i**3, lambda i: 0.9 - 1.8 * np.abs(i + 0.1), lambda i: i])
def test_a_known_contrast_is_undone(contrast) -> None:
    references = [scan(1, 0.05), scan(2, -0.08)]
    wanted = scan(3, 0.1)
    changed = contrast(wanted).clip(-1, 1).astype(np.float32)
    adapted, (curve,) = adapt_contrast(changed, references, SPACING)
    assert adapted.shape == wanted.shape and adapted.dtype == np.float32 and np.abs(adapted).max() <= 1
    before, after = (np.abs(image - wanted).mean() for image in (changed, adapted))
    assert after < 0.2 and after < before + 0.1
    assert np.all(np.diff(curve.given) > 0)


def test_the_curve_is_the_conditional_mean_stretched_to_the_references_range() -> None:
    rng = np.random.default_rng(0)
    reference = rng.uniform(-1, 1, (40, 40, 40)).astype(np.float32)
    known = np.ones(reference.shape, bool)
    curve = contrast_curve(-reference, [reference], [known])
    middle = np.linspace(-0.7, 0.7, 9)
    assert np.allclose(curve(middle), -middle, atol=0.08)


def test_a_constant_channel_stays_as_it_is() -> None:
    constant = np.zeros((8, 8, 8), np.float32)
    curve = contrast_curve(constant, [np.ones_like(constant)], [np.ones(constant.shape, bool)])
    assert np.array_equal(curve(constant), constant)


def test_an_empty_scan_is_said() -> None:
    with pytest.raises(RegistrationFailed, match="none of the training scans"):
        adapt_contrast(np.zeros((1, *SHAPE), np.float32), [scan(1)], SPACING)
