from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.networks.memory import training_bytes
from diffatlas_pipeline.planning.plan import Budget
from diffatlas_pipeline.planning.topology import PRESETS, allowed_bytes, network_for, plan_batch_size, plan_topology, preset_for
from diffatlas_pipeline.volumes.grids import Triple, TripleMm
from tests.planning.raw_data import parameters, simple_bytes

CPU, GPU8 = Budget(8, "cpu", "cpu"), Budget(8, "cuda", "gpu8")


@settings(max_examples=60)
@given(
    preset=st.sampled_from(sorted(PRESETS)),
    dimensions=st.sampled_from([2, 3]),
    shape=st.tuples(*[st.integers(8, 400)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    memory_gb=st.floats(2, 80),
)
def test_every_geometry_gets_a_valid_network(
    preset: str, dimensions: int, shape: tuple[int, int, int], spacing: tuple[float, float, float], memory_gb: float
) -> None:
    if dimensions == 2:
        shape = (shape[0], shape[1], 1)
    budget = Budget(memory_gb, "cuda", preset)
    network, patch, why = plan_topology(budget, shape, spacing, 4, simple_bytes, dimensions)
    assert all(n % t == 0 and n // t >= 1 for n, t in zip(patch, network.total_stride, strict=True))
    assert math.prod(patch) <= PRESETS[preset].most_patch_voxels
    assert simple_bytes(network, 4, patch, 2) <= allowed_bytes(budget)
    stages = len(network.strides)
    assert 1 <= stages <= len(PRESETS[preset].widths)
    assert len({len(part) for part in (network.widths, network.kernels, network.blocks, network.attention)} | {stages}) == 1
    assert all(size in (1, 3) for kernel in network.kernels for size in kernel)
    assert set(why) == {"patch_size", "network"}
    if dimensions == 2:
        assert patch[2] == 1 and all(part[2] == 1 for part in (*network.kernels, *network.strides))
    # The patch never exceeds the case by more than the rounding.
    assert all(n < size + t for n, size, t in zip(patch, shape, network.total_stride, strict=True))


def test_hippocampus_fits_in_one_patch() -> None:
    network, patch, why = plan_topology(CPU, (35, 51, 35), (1, 1, 1), 3, training_bytes)
    assert patch == (40, 56, 40) and network.total_stride == (8, 8, 8)
    assert network.strides[0] == (2, 2, 2) and network.widths == (32, 64, 128)
    assert "rounded up" in why["patch_size"]
    assert 1e6 <= parameters(network, 3) <= 3e6


def test_thick_slices_are_halved_and_convolved_late() -> None:
    network, patch, _ = plan_topology(GPU8, (320, 320, 24), (0.7, 0.7, 5.0), 3, simple_bytes)
    along_z = [(stride[2], kernel[2]) for stride, kernel in zip(network.strides, network.kernels, strict=True)]
    assert along_z[0] == along_z[1] == (1, 1)  # 5 mm against 0.7 and 1.4
    assert along_z[2] == (1, 3)  # 5 mm against 2.8
    assert along_z[3][0] == 2
    assert all(stride[:2] == (2, 2) for stride in network.strides[1:])
    assert patch[0] == patch[1] > 8 * patch[2]  # cut in proportion


def test_the_cpu_stem_leaves_short_and_coarse_axes_alone() -> None:
    stem = network_for(PRESETS["cpu"], (64, 64, 40), (0.7, 0.7, 5.0)).strides[0]
    assert stem == (2, 2, 1)
    assert network_for(PRESETS["cpu"], (64, 64, 15), (1, 1, 1)).strides[0] == (2, 2, 1)
    assert network_for(PRESETS["cpu"], (64, 64, 16), (1, 1, 1)).strides[0] == (2, 2, 2)


@pytest.mark.parametrize(
    ("patch", "spacing_mm", "strides", "kernels"),
    [
        # Z is halved from the first stage at twice the finest spacing, and convolved along; one later beyond it.
        ((64, 64, 64), (1.0, 1.0, 2.0), (1, 2, 2, 2, 2), (3, 3, 3, 3, 3)),
        ((64, 64, 64), (1.0, 1.0, 2.1), (1, 1, 2, 2, 2), (1, 3, 3, 3, 3)),
        ((64, 64, 64), (1.0, 1.0, 4.1), (1, 1, 1, 2, 2), (1, 1, 3, 3, 3)),
        # Four voxels are left at least; X and Y then are halved until they are over twice as coarse.
        ((64, 64, 8), (1.0, 1.0, 1.0), (1, 2, 1, 1), (3, 3, 3, 3)),
        ((64, 64, 7), (1.0, 1.0, 1.0), (1, 1, 1), (3, 3, 3)),
        # Nothing is left to halve.
        ((7, 7, 7), (1.0, 1.0, 1.0), (1,), (3,)),
        ((15, 15, 15), (1.0, 1.0, 1.0), (1, 2), (3, 3)),
        ((16, 16, 16), (1.0, 1.0, 1.0), (1, 2, 2), (3, 3, 3)),
    ],
)
def test_strides_and_kernels_along_z(
    patch: Triple, spacing_mm: TripleMm, strides: tuple[int, ...], kernels: tuple[int, ...]
) -> None:
    network = network_for(PRESETS["gpu8"], patch, spacing_mm)
    assert tuple(stride[2] for stride in network.strides) == strides
    assert tuple(kernel[2] for kernel in network.kernels) == kernels
    assert network.widths == PRESETS["gpu8"].widths[: len(strides)] and network.embedding == 256


@pytest.mark.parametrize(
    ("preset", "side", "attends"),
    [("gpu8", 256, True), ("gpu8", 257, False), ("gpu24", 256, True), ("gpu80", 256, True), ("cpu", 64, False)],
)
def test_attention_is_for_coarse_grids_of_at_most_16_cubed(preset: str, side: int, attends: bool) -> None:
    network = network_for(PRESETS[preset], (side, side, side), (1, 1, 1))
    assert network.attention == (*(False,) * (len(network.strides) - 1), attends)


def test_a_budget_s_share_is_for_one_step() -> None:
    assert allowed_bytes(CPU) == pytest.approx(4e9) and allowed_bytes(GPU8) == pytest.approx(6.4e9)


def test_a_patch_is_cut_where_it_is_longest_in_proportion() -> None:
    shape = (400, 300, 100)
    network, patch, _ = plan_topology(GPU8, shape, (1, 1, 1), 3, simple_bytes)
    parts = [n / whole for n, whole in zip(patch, shape, strict=True)]
    steps = [t / whole for t, whole in zip(network.total_stride, shape, strict=True)]
    assert max(parts) - min(parts) <= max(steps)
    larger = math.prod(patch) * (1 + max(t / n for t, n in zip(network.total_stride, patch, strict=True)))
    assert larger > PRESETS["gpu8"].most_patch_voxels or simple_bytes(network, 3, patch, 2) * 1.3 > allowed_bytes(GPU8)


@pytest.mark.parametrize(("side", "batch"), [(64, 16), (80, 8), (128, 2), (160, 2), (32, 16)])
def test_a_batch_holds_at_most_two_of_the_largest_patches(side: int, batch: int) -> None:
    patch = (side, side, side)
    network = network_for(PRESETS["gpu8"], patch, (1, 1, 1))
    assert plan_batch_size(GPU8, network, patch, 3, 10**12, lambda *_: 0)[0] == batch


def test_a_whole_ct_is_cut_for_speed_in_proportion() -> None:
    _, patch, why = plan_topology(CPU, (512, 512, 300), (0.8, 0.8, 1.0), 7, training_bytes)
    assert 64**3 / 2 < math.prod(patch) <= 64**3
    assert "for speed" in why["patch_size"]
    assert patch[0] == patch[1] > patch[2]


def test_more_memory_gives_larger_patches() -> None:
    volumes = [
        math.prod(plan_topology(Budget(memory, "cuda", "gpu8"), (512, 512, 300), (0.8, 0.8, 1.0), 3, simple_bytes)[1])
        for memory in (4, 8, 16)
    ]
    assert volumes == sorted(volumes) and volumes[0] < volumes[-1]


def test_the_measured_memory_is_within_the_budget() -> None:
    network, patch, why = plan_topology(GPU8, (256, 256, 160), (1, 1, 1), 6, training_bytes)
    assert training_bytes(network, 6, patch, 2) <= allowed_bytes(GPU8)
    assert "memory budget" in why["patch_size"]
    batch, _ = plan_batch_size(GPU8, network, patch, 6, 100 * 256 * 256 * 160, training_bytes)
    assert batch == 2


def test_too_small_a_budget_is_explained() -> None:
    with pytest.raises(UserError, match=r"smallest patch .* `memory_gb`"):
        plan_topology(Budget(1e-5, "cpu", "cpu"), (64, 64, 64), (1, 1, 1), 3, simple_bytes)


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(UserError, match="cpu, gpu8, gpu24, gpu80"):
        plan_topology(Budget(8, "cpu", "huge"), (64, 64, 64), (1, 1, 1), 3, simple_bytes)


@pytest.mark.parametrize(
    ("device", "memory", "preset"),
    [
        ("cpu", 64, "cpu"),
        ("cuda", 8, "gpu8"),
        ("mps", 19.9, "gpu8"),
        ("cuda", 20, "gpu24"),
        ("cuda", 63.9, "gpu24"),
        ("mps", 64, "gpu80"),
    ],
)
def test_preset_from_device_and_memory(device: str, memory: float, preset: str) -> None:
    assert preset_for(device, memory) == preset


def test_presets_of_more_memory_allow_more() -> None:
    for preset in PRESETS.values():
        assert 0 < preset.share < 1 and preset.most_patch_voxels <= preset.most_batch_voxels
        assert len(preset.widths) == len(preset.blocks) and list(preset.widths) == sorted(preset.widths)
        assert all(width % 8 == 0 for width in (*preset.widths, preset.embedding))
        assert list(preset.iterations) == sorted(preset.iterations) and 1e-4 <= preset.learning_rate <= 1e-3
        assert preset.largest_batch >= 2 and preset.stem_stride in (1, 2)
    for less, more in itertools.pairwise(PRESETS.values()):
        assert less.share <= more.share and less.iterations[1] <= more.iterations[1]
        assert less.most_patch_voxels < more.most_patch_voxels and less.largest_batch < more.largest_batch
        assert all(a <= b for a, b in zip(less.widths, more.widths, strict=False))


def test_batch_fills_the_budget_but_not_the_data_set() -> None:
    network, patch, _ = plan_topology(GPU8, (35, 51, 35), (1, 1, 1), 3, simple_bytes)
    voxels = math.prod(patch)

    def batch(patches: int, memory: float = 8) -> tuple[int, str]:
        return plan_batch_size(Budget(memory, "cuda", "gpu8"), network, patch, 3, patches * voxels, simple_bytes)

    assert batch(4)[0] == 2 and "at least two" in batch(4)[1]
    assert batch(100)[0] == 5 and "5 %" in batch(100)[1]
    assert batch(10**6)[0] == PRESETS["gpu8"].largest_batch
    tight = 5.5 * simple_bytes(network, 3, patch, 1) / 1e9 / PRESETS["gpu8"].share
    assert batch(10**6, tight) == (5, "fills the memory budget")
