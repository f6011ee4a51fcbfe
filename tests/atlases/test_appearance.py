"""Appearance by registration: a target of another contrast as the atlases would show it."""

from dataclasses import replace

import numpy as np
import pytest

from diffatlas_pipeline.atlases.appearance import appearance
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.registration.deformable import DeformableSettings
from diffatlas_pipeline.registration.register import AtlasSettings, Registered, register_atlases
from tests.registration.shapes import SHAPE, SPACING_MM, TAU_MM, bend, distances, scan

SETTINGS = replace(AtlasSettings(), deformable=DeformableSettings(iterations=(25, 15)))


@pytest.mark.parametrize("contrast", [lambda i: -i, lambda i: np.clip(1.2 * np.abs(i) - 0.6, -1, 1)])
def test_a_target_of_another_contrast_looks_like_the_atlases(contrast) -> None:
    wanted, _ = scan(bend(size=2.0, seed=5))
    atlases = []
    for seed in (1, 2, 3):
        image, labels = scan(bend(size=2.0, seed=seed))
        atlases.append(Atlas(str(seed), image, distances(labels)))
    registered = register_atlases(contrast(wanted).astype(np.float32), atlases, SPACING_MM, TAU_MM, SETTINGS)
    made = appearance(registered)
    assert made.shape == (1, *SHAPE) and made.dtype == np.float32 and np.abs(made).max() <= 1
    error = np.abs(made - wanted).mean()
    assert error < 0.5 * min(np.abs(one.image - wanted).mean() for one in atlases)
    assert error < 0.5 * np.abs(contrast(wanted) - wanted).mean()


def test_it_is_the_weighted_mean() -> None:
    images = np.stack([np.full((2, 3, 3, 3), value, np.float32) for value in (-1.0, 1.0)])
    weights = np.stack([np.full((3, 3, 3), value, np.float32) for value in (1.0, 3.0)])
    made = appearance(Registered(images, np.zeros((2, 1, 3, 3, 3), np.float32), weights, ()))
    assert np.allclose(made, 0.5) and made.shape == (2, 3, 3, 3)
