"""Distance maps of a short training hold no checkerboard of the network's blocks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffatlas_pipeline.methods.registry import METHODS, create_method
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.preprocessing.case import prepare_image, prepare_labels
from tests.factories import make_case, make_plan
from tests.methods.plain import plain

SHAPE = (24, 24, 24)
NETWORK = NetworkPlan((8, 16), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3),) * 2, (1, 1), (False, False), 16, smooth_output=True)


def power_at_the_corner(maps: np.ndarray) -> float:
    """Mean power of (K, X, Y, Z) about the frequency of two voxels along all axes at once."""
    window = np.ones(())
    for n in SHAPE:
        window = window[..., None] * np.hanning(n)  # the rim of the volume is no edge
    power = np.abs(np.fft.fftn((maps - maps.mean()) * window, axes=(1, 2, 3))) ** 2
    middle = slice(SHAPE[0] // 2 - 1, SHAPE[0] // 2 + 2)
    return float(power[:, middle, middle, middle].mean())


@pytest.mark.parametrize("method", ["diffatlas", "icf", "icmd"])
def test_three_hundred_iterations_leave_no_checkerboard(method: str) -> None:
    plan = make_plan(patch_size=SHAPE, network=NETWORK)
    cases = []
    for seed in range(3):
        volume, labels = make_case(SHAPE, plan.spacing_mm, seed)
        image, record = prepare_image(volume, plan)
        cases.append([torch.from_numpy(part).float() for part in (image, prepare_labels(labels, record, plan).clip(-1, 1))])

    def ratio(smooth: bool) -> float:
        torch.manual_seed(0)
        learnt = create_method(
            method, replace(plan, network=replace(NETWORK, smooth_output=smooth)), METHODS[method].recipes["default"]
        )
        network = learnt.build_network()
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
        generator = torch.Generator().manual_seed(0)
        for iteration in range(300):
            image, distances = (part[None] for part in cases[iteration % 2])
            loss = learnt.loss(network, image, distances, generator).total
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        image, distances = cases[2]
        with torch.no_grad():
            found = learnt.segment(network.eval(), image, plain, 0).distances
        return power_at_the_corner(found.numpy()) / power_at_the_corner(distances.numpy())

    assert ratio(smooth=True) < 2
    assert method != "icf" or ratio(smooth=False) > 2, "the test sees no checkerboard where there is one"
