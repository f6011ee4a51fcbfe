"""Volumes of one to eight voxels along an axis are learnt from, with every change of a patch forced on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffatlas_pipeline.data.augmentation import Augmentation
from diffatlas_pipeline.methods.diffatlas import DiffAtlas
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.training.state import TrainingState
from diffatlas_pipeline.volumes.grids import Triple
from tests.data.test_augmentation import random_maps
from tests.factories import make_plan, make_recipe

SHORT = [(axis,) for axis in range(3)] + [(0, 1), (0, 2), (1, 2), (0, 1, 2)]


# A single voxel is no image: it is constant, and refused as such.
@pytest.mark.parametrize(("axes", "n"), [(axes, n) for axes in SHORT for n in range(1, 9) if len(axes) < 3 or n > 1])
def test_a_step_with_all_changes_at_once(axes: tuple[int, ...], n: int) -> None:
    def along(short: int, other: int) -> Triple:
        x, y, z = (short if axis in axes else other for axis in range(3))
        return x, y, z

    kernel = along(1 if n < 3 else 3, 3)
    network = NetworkPlan((8, 16), (along(1, 2),) * 2, (kernel,) * 2, (1, 1), (False, False), 16)
    changes = replace(make_plan().augmentation, elastic=1.0)
    plan = make_plan(network=network, patch_size=along(n, 8), augmentation=changes, spacing_mm=(1.0, 1.2, 2.0))
    augmentation = Augmentation(changes, plan.patch_size, plan.spacing_mm, any_contrast=1.0)
    for random in augmentation._intensity.transforms:  # type: ignore[attr-defined]
        random.apply_probability = 1.0
    method, rng = DiffAtlas(plan, make_recipe()), np.random.default_rng(n)
    state = TrainingState(method.build_network(), plan.training, 0, torch.device("cpu"))
    for _ in range(2):
        drawn = replace(augmentation.draw(rng), zoom=1.2, angles_degrees=(5.0, 3.0, 8.0), mirror=(0,), elastic_strength=0.1)
        assert drawn.intensity_seed is not None and drawn.contrast_seed is not None
        extent = augmentation.source_extent(drawn)
        image, maps = augmentation.apply(rng.uniform(-1, 1, (1, *extent)).astype(np.float32), random_maps(extent), drawn)
        batch = [torch.from_numpy(array)[None] for array in (image, maps)]
        assert all(torch.isfinite(part).all() and part.shape[2:] == plan.patch_size for part in batch)
        method.loss(state.network, *batch, state.generator).total.backward()
        state.optimiser.step()
    assert all(torch.isfinite(weight).all() for weight in state.network.parameters())
