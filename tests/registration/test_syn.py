"""ANTs is optional: used where it is installed and asked for, else a clear message."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.registration.fusion import labels_of
from diffatlas_pipeline.registration.register import AtlasSettings, segment_by_atlases
from diffatlas_pipeline.registration.warp import voxel_grid
from tests.registration.shapes import SHAPE, SPACING_MM, TAU_MM, bend, distances, mean_dice, scan

SETTINGS = replace(AtlasSettings(), registration="syn")


def example() -> tuple[np.ndarray, np.ndarray, Atlas]:
    target, truth = scan(bend(size=2.5, seed=2))
    image, labels = scan(voxel_grid(SHAPE))
    return target, truth, Atlas("a", image, distances(labels))


@pytest.mark.skipif(importlib.util.find_spec("ants") is not None, reason="antspyx is installed")
def test_without_ants_the_message_says_what_to_install() -> None:
    target, _, one = example()
    with pytest.raises(UserError, match=r"antspyx, which is not installed. Install it with 'pip install antspyx'"):
        segment_by_atlases(target, [one], SPACING_MM, TAU_MM, SETTINGS, case="a")


def test_ants_registers_where_it_is_installed() -> None:
    pytest.importorskip("ants")
    target, truth, one = example()
    fused = segment_by_atlases(target, [one], SPACING_MM, TAU_MM, SETTINGS, case="a")
    assert fused.used == (("a", "syn"),)
    assert mean_dice(labels_of(fused.distances), truth) > 0.9
