"""Scans are told apart by closed forms, and by numbers that are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.errors import ModelError
from diffatlas_pipeline.files import from_json, to_json
from diffatlas_pipeline.inference.familiarity import FEWEST, MARGIN, Description, KnownCases, described, distance
from diffatlas_pipeline.preprocessing.distance_maps import encode_labels

SPACING_MM = (1.0, 1.0, 2.0)


def scan(seed: int, brightness: float = 0.5, shift: int = 0, noise: float = 0.05) -> Description:
    """A bright box and a darker one to the right of it, in mm of 1 x 1 x 2."""
    generator = np.random.default_rng(seed)
    labels = np.zeros((32, 24, 16), dtype=np.int32)
    width = int(generator.integers(5, 8))
    labels[6 : 6 + width, 8:16, 4:10] = 1
    labels[14 + shift : 14 + shift + width, 8 - shift // 2 : 16 - shift // 2, 4 - shift // 3 : 10 - shift // 3] = 2
    image = np.choose(labels, (-0.8, brightness, 0.0)) + noise * generator.normal(size=labels.shape)
    distances = encode_labels(labels, [LabelClass("left", 1), LabelClass("right", 2)], SPACING_MM, 4.0)
    return described(image[None].astype(np.float32), distances, SPACING_MM)


def known(count: int = 12) -> KnownCases:
    return KnownCases(tuple(f"case{seed}" for seed in range(count)), True, tuple(scan(seed) for seed in range(count)))


def test_the_distance_is_in_standard_deviations() -> None:
    rows = [(1.0, 10.0), (3.0, 10.0)]  # mean 2 and 10, standard deviation sqrt(2) and 0
    assert distance((4.0, 10.0), rows, 0.0 + 1e-9) == pytest.approx(math.sqrt((2 / math.sqrt(2)) ** 2 / 2))
    assert distance((2.0, 10.3), rows, 0.1) == pytest.approx(3 / math.sqrt(2)), "no deviation is below the smallest"
    assert distance((4.0, None), rows, 0.0) == pytest.approx(math.sqrt(2)), "what is missing does not count"
    assert distance((None, None), rows, 0.1) is None


def test_scans_of_the_same_kind_are_familiar_and_others_are_not() -> None:
    cases = known()
    own = [cases.compare(scan(seed)) for seed in range(100, 140)]
    assert np.mean([one is not None and one.is_foreign for one in own]) <= 0.05
    for changed, aspect in (({"brightness": 0.0}, "brightness"), ({"shift": -14}, "places"), ({"noise": 0.5}, "texture")):
        found = cases.compare(scan(100, **changed))  # type: ignore[arg-type]
        assert found is not None and found.is_foreign and max(found.aspects, key=lambda a: found.aspects[a]) == aspect
        assert found.warning is not None and f"{found.score:.1f}" in found.warning


def test_the_limit_is_that_of_the_known_cases_among_themselves() -> None:
    cases = known(6)
    others = [KnownCases(cases.cases[1:], True, tuple(d for d in cases.described if d is not one)) for one in cases.described]
    scores = [left.compare(one) for left, one in zip(others, cases.described, strict=True)]
    found = cases.compare(scan(100))
    assert found is not None and found.limit == pytest.approx(MARGIN * max(one.score for one in scores if one is not None))


def test_another_contrast_is_judged_by_shapes_alone() -> None:
    cases = known()
    dark, moved = scan(100, brightness=0.0, noise=0.3), scan(100, brightness=0.0, shift=-14)
    plain, shapes = cases.compare(dark), cases.compare(dark, other_contrast=True)
    assert plain is not None and plain.is_foreign
    assert shapes is not None and not shapes.is_foreign and set(shapes.aspects) == {"sizes", "places"}
    foreign = cases.compare(moved, other_contrast=True)
    assert foreign is not None and foreign.is_foreign


def two_channels(seed: int, missing: int | None = None, brightness: float = 0.5, noise: float = 0.05) -> Description:
    """Two channels of the same contrast; of one that is missing, nothing is known."""
    one = scan(seed, brightness, noise=noise)
    nothing = {aspect: (None,) * len(one[aspect]) for aspect in ("brightness", "texture")}
    halves = [nothing if channel == missing else one for channel in range(2)]
    both = {aspect: halves[0][aspect] + halves[1][aspect] for aspect in ("brightness", "texture")}
    errors = {} if missing is not None else {"image_error": (-3.0 + seed % 3 / 10,), "mask_error": (-4.0,)}
    return {**one, **both, **errors}


def test_a_scan_that_lacks_a_channel_is_judged_by_what_it_has() -> None:
    described_ = tuple(two_channels(seed) for seed in range(12))
    cases = KnownCases(tuple(f"case{seed}" for seed in range(12)), True, described_)
    own = [cases.compare(two_channels(seed, missing=seed % 2), lacks_channels=True) for seed in range(100, 120)]
    assert not any(one is None or one.is_foreign for one in own)
    assert own[0] is not None and set(own[0].aspects) == {"brightness", "texture", "sizes", "places"}
    for changed in ({"brightness": 0.0}, {"noise": 0.5}):
        found = cases.compare(two_channels(100, missing=0, **changed), lacks_channels=True)  # type: ignore[arg-type]
        assert found is not None and found.is_foreign
    # The known cases have no more to differ in than the scan has.
    halved = KnownCases(cases.cases, True, tuple(two_channels(seed, missing=0) for seed in range(12)))
    assert halved.compare(two_channels(100, missing=0), lacks_channels=True) == own[0]


def test_of_a_missing_channel_nothing_is_described() -> None:
    image = np.full((2, 32, 24, 16), np.nan, np.float32)
    image[1] = np.random.default_rng(0).normal(size=image.shape[1:])
    distances = np.ones((2, 32, 24, 16), np.float32)
    distances[0, 4:9, 4:9, 4:9] = -1
    both, alone = described(image, distances, SPACING_MM), described(image[1:], distances, SPACING_MM)
    for aspect in ("brightness", "texture"):
        count = len(alone[aspect])
        assert both[aspect] == (None,) * count + alone[aspect]
    assert both["sizes"] == alone["sizes"] and both["places"] == alone["places"]


def test_a_scan_without_any_structure_is_foreign() -> None:
    empty = described(np.full((1, 32, 24, 16), -0.8, np.float32), np.ones((2, 32, 24, 16), np.float32), SPACING_MM)
    assert set(empty["places"]) == {None} and empty["sizes"] == (0.0, 0.0)
    found = known().compare(empty)
    assert found is not None and found.is_foreign


def test_too_few_cases_tell_nothing() -> None:
    assert known(FEWEST - 1).compare(scan(100)) is None and known(FEWEST).compare(scan(100)) is not None


def test_known_cases_come_back_from_their_file() -> None:
    cases = known(4)
    assert from_json(KnownCases, to_json(cases)) == cases


def test_known_cases_of_another_model_are_refused() -> None:
    one = {"sizes": (1.0, 2.0)}
    known = KnownCases(("a", "b", "c", "d"), True, (one,) * 4)
    assert known.compare({"sizes": (1.0, 2.5)}) is not None
    with pytest.raises(ModelError, match="not of this model's channels and labels"):
        known.compare({"sizes": (1.0, 2.0, 3.0)})
    for cases, numbers in ((("a",), (one, one)), (("a",), ({"sizes": (1e300,)},))):
        with pytest.raises(ValueError, match="expected one entry for each case"):
            KnownCases(cases, True, numbers)
