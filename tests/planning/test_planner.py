from __future__ import annotations

import dataclasses
import math

import pytest

from diffatlas_pipeline.diffusion.levels import cosine_alpha_bar
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import from_json, to_json
from diffatlas_pipeline.methods.registry import default_recipes
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.planning.describe import plan_table
from diffatlas_pipeline.planning.diffusion_steps import choose_diffusion_steps
from diffatlas_pipeline.planning.fingerprint import Fingerprint
from diffatlas_pipeline.planning.plan import Budget, Plan
from diffatlas_pipeline.planning.planner import make_plan
from diffatlas_pipeline.planning.topology import PRESETS
from diffatlas_pipeline.volumes.grids import Triple
from tests.planning.raw_data import make_fingerprint, simple_bytes

CPU = Budget(8, "cpu", "cpu")
DECISIONS = {
    "spacing_mm",
    "patch_size",
    "network",
    "batch_size",
    "channels",
    "distance",
    "diffusion",
    "training",
    "augmentation",
    "mirroring",
    "folds",
}


def plan_of(fingerprint: Fingerprint, budget: Budget = CPU) -> Plan:
    return make_plan(fingerprint, budget, default_recipes(), simple_bytes)


GEOMETRIES = {
    "hippocampus": make_fingerprint(),
    "anisotropic": make_fingerprint((320, 320, 24), (0.7, 0.7, 5.0)),
    "two-dimensional": make_fingerprint((400, 300, 1), (0.5, 0.5, 1.0), dimensions=2),
    "ct": make_fingerprint((512, 512, 300), (0.8, 0.8, 1.0), channel="CT", radius_mm=30.0),
    "one case": make_fingerprint(cases=1),
}


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("geometry", sorted(GEOMETRIES))
def test_every_data_set_is_planned_with_a_reason_for_every_choice(geometry: str, preset: str) -> None:
    fingerprint = GEOMETRIES[geometry]
    plan = plan_of(fingerprint, Budget(8, "cuda", preset))
    assert set(plan.why) == DECISIONS and all(plan.why.values())
    assert from_json(Plan, to_json(plan)) == plan
    assert plan.recipes == default_recipes()
    assert plan.distance.tau_mm >= 3 * max(plan.spacing_mm[:2])
    table = plan_table(plan)
    assert all(len(line) <= 120 for line in table.splitlines())
    assert f"{plan.distance.tau_mm:g} mm" in table and str(plan.training.iterations) in table


def test_same_fingerprint_and_budget_give_the_same_bytes() -> None:
    fingerprint = GEOMETRIES["anisotropic"]
    again = from_json(Fingerprint, to_json(fingerprint))
    plans = [to_json(make_plan(one, CPU, default_recipes())).encode() for one in (fingerprint, again)]
    assert plans[0] == plans[1]


def test_a_thick_axis_takes_its_lowest_decile() -> None:
    fingerprint = make_fingerprint((320, 320, 24), (0.7, 0.7, 5.0), cases=11)
    cases = tuple(
        dataclasses.replace(case, spacing_mm=(0.7, 0.7, 3.0 + 0.4 * index)) for index, case in enumerate(fingerprint.cases)
    )
    plan = plan_of(dataclasses.replace(fingerprint, cases=cases), Budget(24, "cuda", "gpu24"))
    assert plan.spacing_mm == pytest.approx((0.7, 0.7, 3.4))
    assert "lowest decile" in plan.why["spacing_mm"]


def test_a_coarse_but_long_axis_takes_the_median() -> None:
    fingerprint = make_fingerprint((100, 100, 90), (0.7, 0.7, 5.0), cases=3)
    cases = tuple(
        dataclasses.replace(case, spacing_mm=(0.7, 0.7, z)) for case, z in zip(fingerprint.cases, (3, 5, 9), strict=True)
    )
    assert plan_of(dataclasses.replace(fingerprint, cases=cases), Budget(8, "cuda", "gpu8")).spacing_mm == (0.7, 0.7, 5.0)


@pytest.mark.parametrize(("name", "scheme"), [("CT", "ct"), ("ct", "ct"), ("MRI", "percentile"), ("CTA", "percentile")])
def test_normalisation_follows_the_channel_s_name(name: str, scheme: str) -> None:
    channel = plan_of(make_fingerprint(channel=name)).channels[0]
    assert channel.scheme == scheme
    assert (channel.lower, channel.upper) == ((-160.0, 240.0) if scheme == "ct" else (0.5, 99.5))


@pytest.mark.parametrize(("radius", "spacing", "tau"), [(8.0, 1.0, 8.0), (1.0, 1.0, 3.0), (1.0, 0.5, 1.5)])
def test_tau_is_the_inscribed_radius_but_three_voxels_at_least(radius: float, spacing: float, tau: float) -> None:
    assert plan_of(make_fingerprint(radius_mm=radius, spacing_mm=(spacing,) * 3)).distance.tau_mm == tau


def test_tau_does_not_count_slice_thickness() -> None:
    assert plan_of(make_fingerprint((320, 320, 24), (0.7, 0.7, 5.0), radius_mm=1.0)).distance.tau_mm == 2.1


@pytest.mark.parametrize(
    ("labels", "mirrors", "allowed", "reason"),
    [
        (("a", "b"), [{}, {}], (), "not seen to be symmetric"),
        (("a", "b"), [{"0": "a", "1": "a"}, {"0": "b"}], (0,), "Y: no"),
        (("LV", "RV"), [{"0": "RV"}, {"0": "LV"}], (), "X: never, LV and RV are left and right"),
        (("a", "b"), [{"0": "b", "1": "a"}, {"0": "a", "1": "b"}], (1,), "X: never, a and b are mirror images"),
        (("left", "b"), [{"0": "left", "1": "left"}, {"0": "b", "1": "b"}], (1,), "left names a side"),
    ],
)
def test_mirroring_needs_evidence(
    labels: tuple[str, ...], mirrors: list[dict[str, str]], allowed: tuple[int, ...], reason: str
) -> None:
    plan = plan_of(make_fingerprint(labels=labels, mirrors=mirrors))
    assert plan.augmentation.mirror_axes == allowed
    assert reason in plan.why["mirroring"]


def test_rotations_follow_the_geometry() -> None:
    rotations = {name: plan_of(fingerprint).augmentation.rotation_degrees for name, fingerprint in GEOMETRIES.items()}
    assert rotations["hippocampus"] == (15, 15, 15)
    assert rotations["anisotropic"] == rotations["two-dimensional"] == (0, 0, 15)
    for spacing_mm, expected in (((5.0, 0.7, 0.7), (15, 0, 0)), ((5.0, 0.7, 5.0), (0, 0, 0)), ((1.0, 1.0, 3.0), (15, 15, 15))):
        assert plan_of(make_fingerprint((60, 60, 60), spacing_mm)).augmentation.rotation_degrees == expected


def test_training_grows_with_the_data_set_within_its_range() -> None:
    iterations = [plan_of(make_fingerprint(cases=cases)).training.iterations for cases in (1, 200, 400, 5000)]
    fewest, _, most = PRESETS["cpu"].iterations
    assert iterations == sorted(iterations) and iterations[0] == fewest and iterations[-1] == most
    assert fewest < iterations[1] < iterations[2] < most


@pytest.mark.parametrize(("cases", "iterations"), [(20, 20000), (40, 25000), (160, 50000), (640, 100000), (2000, 150000)])
def test_iterations_are_the_preset_s_for_160_patches_and_grow_with_the_square_root(cases: int, iterations: int) -> None:
    """Each case is one patch."""
    plan = plan_of(make_fingerprint((40, 56, 40), cases=cases), Budget(8, "cuda", "gpu8"))
    assert plan.patch_size == (40, 56, 40) and plan.training.iterations == iterations
    assert plan.training.learning_rate == 3e-4


def test_what_every_plan_says_of_training_and_augmentation() -> None:
    plan = plan_of(GEOMETRIES["hippocampus"])
    training, augmentation = plan.training, plan.augmentation
    assert (training.learning_rate, training.warmup_fraction, training.weight_decay) == (1e-3, 0.05, 1e-4)
    assert (training.gradient_clip, training.ema_fraction) == (1.0, 0.05)
    assert (augmentation.zoom, augmentation.intensity, augmentation.elastic) == ((0.85, 1.18), True, 0.3)
    assert plan.diffusion.schedule == "cosine" and plan.diffusion.training_steps == choose_diffusion_steps(
        [GEOMETRIES["hippocampus"].image_spectrum, GEOMETRIES["hippocampus"].distance_spectrum], cosine_alpha_bar
    )


def test_the_patch_is_the_median_case_rounded_up() -> None:
    """Of content resampled to the planned spacing, which here is the median, 1 mm."""
    fingerprint = make_fingerprint(cases=4)
    lengths = (30, 40, 41, 90)
    cases = tuple(
        dataclasses.replace(case, shape=(200, 200, 200), cropped_shape=(n, 2 * n, 40), spacing_mm=(1.0, spacing, 1.0))
        for case, n, spacing in zip(fingerprint.cases, lengths, (0.5, 1.0, 1.0, 2.0), strict=True)
    )
    # X: 40.5 on average of the middle two. Y at 1 mm: 30, 80, 82, 360.
    assert plan_of(dataclasses.replace(fingerprint, cases=cases)).patch_size == (48, 88, 40)


def test_memory_is_asked_for_images_and_masks_together() -> None:
    asked = set()

    def training_bytes(network: NetworkPlan, channels: int, patch: Triple, batch: int) -> int:
        asked.add(channels)
        return simple_bytes(network, channels, patch, batch)

    make_plan(make_fingerprint(labels=("a", "b", "c")), CPU, default_recipes(), training_bytes)
    assert asked == {4}


def test_batch_holds_at_most_a_twentieth_of_the_data() -> None:
    fingerprint = make_fingerprint(cases=60)
    plan = plan_of(fingerprint, Budget(80, "cuda", "gpu80"))
    share = plan.training.batch_size * math.prod(plan.patch_size) / (60 * math.prod((35, 51, 35)))
    assert plan.training.batch_size >= 2 and share <= 0.05


def test_a_single_case_says_that_nothing_validates() -> None:
    assert "nothing is left to validate" in plan_of(GEOMETRIES["one case"]).why["folds"]
    assert "3 folds" in plan_of(make_fingerprint(cases=3)).why["folds"]


def test_no_case_is_an_error() -> None:
    with pytest.raises(UserError, match="no case"):
        plan_of(make_fingerprint(cases=0))
