from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffatlas_pipeline.atlases.late_fusion import NETWORK_SHARE, SHARES
from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.errors import ImageError, ModelError, UserError
from diffatlas_pipeline.inference.batch import Wanted, predict_cases, timing_table
from diffatlas_pipeline.inference.export import check_output, find_cases, read_record, write_record
from diffatlas_pipeline.inference.predictor import Predictor, segment_padded, settings_for
from diffatlas_pipeline.methods.base import LearnedMethod, LossReport, Segmentation, Stitch, case_generator
from diffatlas_pipeline.methods.registry import METHODS, create_method
from diffatlas_pipeline.models.folder import TrainedFold
from diffatlas_pipeline.planning.plan import Plan, Recipe
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.volumes.grids import Grid, Volume
from diffatlas_pipeline.volumes.io import read_grid, read_labels, read_volume, write_scalars
from tests.model_files import plan, recipe

CPU = torch.device("cpu")


class Mix(nn.Conv3d):
    """One linear map per voxel, called as every network is: with noise levels, which it does not need."""

    def forward(self, windows: Tensor, level_image: Tensor, level_mask: Tensor) -> Tensor:
        return super().forward(windows)


class Brightness(LearnedMethod):
    """A method known in closed form: the first label is what is bright, the second what is very bright."""

    name = "brightness"

    def build_network(self) -> nn.Module:
        return Mix(1, 2, 1)

    def loss(self, network: nn.Module, image: Tensor, distances: Tensor, generator: torch.Generator) -> LossReport:
        raise NotImplementedError

    def segment(
        self,
        network: nn.Module,
        image: Tensor,
        stitch: Stitch,
        seed: int,
        progress: object = None,
    ) -> Segmentation:
        noise = torch.randn(self.recipe.draws, generator=case_generator(seed, 0)) * 1e-3
        distances = stitch(lambda windows: network(windows, torch.zeros(len(windows)), torch.zeros(len(windows))), image)
        spread = torch.full_like(distances, float(noise.std())) if self.recipe.draws > 1 else None
        return Segmentation(distances + noise.mean(), spread)


@pytest.fixture(autouse=True)
def brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, Brightness.name, Brightness)


def fold(name: str = "fold0", level: float = 0.0, small: Plan | None = None) -> TrainedFold:
    """Weights that make the first label negative where the image is above ``level``, the second where above 0.6."""
    state = {"weight": torch.tensor([-1.0, -3.0]).reshape(2, 1, 1, 1, 1), "bias": torch.tensor([level, 3 * 0.6])}
    return TrainedFold(small or plan(), "brightness", "default", name, state, {})


def scan(shape: tuple[int, int, int] = (20, 24, 30)) -> tuple[np.ndarray, np.ndarray]:
    """A bright ellipsoid with a brighter core on dark noise, and its labels (2 and 7)."""
    centred = np.stack([(i - n / 2.2) / (n / 3.2) for i, n in zip(np.indices(shape), shape, strict=True)])
    radius = np.sqrt((centred**2).sum(axis=0))
    labels = np.where(radius < 0.5, 7, np.where(radius < 1, 2, 0))
    image = np.select([labels == 7, labels == 2], [200.0, 130.0], 10.0) + np.random.default_rng(0).normal(0, 2, shape)
    return image.astype(np.float32), labels


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def affine(order: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for axis in range(3):
        matrix[order[axis], axis] = signs[axis] * spacing[axis]
    matrix[:3, 3] = (5, -7, 11)
    return matrix


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_segmentation_lies_on_the_scan_whatever_its_orientation(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    image, labels = scan()
    result = Predictor([fold()], CPU, recipe()).segment_volume(
        Volume(image[None], Grid.of(image.shape, affine(order, signs))), "a"
    )
    assert result.labels.shape == image.shape
    for value in (2, 7):
        assert overlap(result.labels == value, labels == value) > 0.97


@pytest.mark.parametrize(("shape", "spacing"), [((9, 40, 50), (2.0, 0.8, 0.7)), ((8, 8, 8), (1.0, 1.0, 1.0))])
def test_other_spacings_and_scans_smaller_than_the_patch(shape: tuple, spacing: tuple) -> None:
    image, labels = scan(shape)
    grid = Grid.of(shape, affine((0, 1, 2), (1, 1, 1), spacing))
    result = Predictor([fold()], CPU, recipe()).segment_volume(Volume(image[None], grid), "a")
    assert result.labels.shape == shape
    assert overlap(result.labels > 0, labels > 0) > 0.9


def test_maps_are_in_mm_and_agree_with_the_labels() -> None:
    image, _ = scan()
    predictor = Predictor([fold()], CPU, recipe(draws=4))
    result = predictor.segment_volume(
        Volume(image[None], Grid.of(image.shape, np.eye(4))), "a", distances=True, uncertainty=True
    )
    assert result.distances_mm is not None
    assert result.uncertainty_mm is not None
    assert result.distances_mm.shape == (2, *image.shape)
    assert np.abs(result.distances_mm).max() <= plan().distance.tau_mm
    assert np.array_equal(result.labels > 0, (result.distances_mm < 0).any(axis=0))
    assert 0 < result.uncertainty_mm.max() < 0.02
    assert result.uncertainty_mm.min() >= 0


def test_folds_are_averaged_and_their_disagreement_is_the_uncertainty() -> None:
    image, _ = scan()
    volume = Volume(image[None], Grid.of(image.shape, np.eye(4)))
    single = [Predictor([fold("a", level)], CPU, recipe()).segment_volume(volume, "x", distances=True) for level in (0.0, 0.2)]
    both = Predictor([fold("a", 0.0), fold("b", 0.2)], CPU, recipe()).segment_volume(
        volume, "x", distances=True, uncertainty=True
    )
    assert both.distances_mm is not None
    assert both.uncertainty_mm is not None
    middle = (single[0].distances_mm[0] + single[1].distances_mm[0]) / 2  # type: ignore[index]
    unclipped = np.abs(single[0].distances_mm[0]) < 2  # type: ignore[index]
    assert np.allclose(both.distances_mm[0][unclipped], middle[unclipped], atol=1e-4)
    assert np.allclose(both.uncertainty_mm, 0.1 * plan().distance.tau_mm, atol=1e-4)


def test_a_single_segmentation_has_no_uncertainty() -> None:
    image, _ = scan()
    predictor = Predictor([fold()], CPU, recipe())
    volume = Volume(image[None], Grid.of(image.shape, np.eye(4)))
    found = predictor.segment_volume(volume, "a", uncertainty=True)
    assert not predictor.has_spread(with_atlases=False)
    assert found.uncertainty_mm is None and any("no uncertainty" in warning for warning in found.warnings)
    assert np.array_equal(found.labels, predictor.segment_volume(volume, "a").labels)


def test_small_scans_are_padded_as_in_training() -> None:
    seen = []

    class Watching(nn.Module):
        def forward(self, windows: Tensor, *levels: Tensor) -> Tensor:
            seen.append(windows.clone())
            return torch.cat([windows, windows], dim=1)

    image = torch.full((1, 4, 16, 5), 0.5)
    found = segment_padded(
        create_method("brightness", plan(), recipe()),
        Watching(),
        image,
        (8, 8, 8),
        lambda run, v: run(v[None])[0],
        0,
    )
    assert found.distances.shape == (2, 4, 16, 5)
    assert seen[0].shape == (1, 1, 8, 16, 8)
    assert torch.equal(seen[0][0, 0, 2:6, :, 1:6], image[0])
    assert seen[0].sum() == pytest.approx(0.5 * image.numel() - (8 * 16 * 8 - image.numel()))


def test_a_case_does_not_depend_on_the_others_but_on_seed_and_name() -> None:
    """The real method with untrained weights: its noise belongs to the case."""
    method = create_method("diffatlas", plan(), recipe())
    torch.manual_seed(0)
    state = method.build_network().state_dict()
    trained = TrainedFold(plan(), "diffatlas", "default", "fold0", state, {})
    image, _ = scan((12, 20, 18))
    volume = Volume(image[None], Grid.of(image.shape, np.eye(4)))

    def run(seed: int, *names: str) -> list[np.ndarray]:
        predictor = Predictor([trained], CPU, recipe(), seed, "float32")
        return [predictor.segment_volume(volume, name, distances=True).distances_mm for name in names]  # type: ignore[misc]

    first = run(0, "a", "b")
    assert np.array_equal(run(0, "b")[0], first[1])
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(run(1, "a")[0], first[0])


def test_precision_is_decided_once_and_can_be_forced() -> None:
    image, labels = scan()
    volume = Volume(image[None], Grid.of(image.shape, np.eye(4)))
    predictor = Predictor([fold()], CPU, recipe(), precision="bfloat16")
    assert predictor.precision == "bfloat16"
    assert overlap(predictor.segment_volume(volume, "a").labels > 0, labels > 0) > 0.95
    assert predictor.precision == "bfloat16"
    with pytest.raises(UserError, match="float16"):
        Predictor([fold()], CPU, recipe(), precision="float16")


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ({"steps": -1}, "--steps"),
        ({"solver": "euler"}, "--solver"),
        ({"draws": 0}, "--draws"),
        ({"guidance_level": 2.0}, "--guid"),
    ],
)
def test_settings_that_are_not_allowed(given: dict, flag: str) -> None:
    with pytest.raises(UserError, match=flag):
        settings_for(recipe(), **given)


def test_settings_replace_the_recipe() -> None:
    assert settings_for(recipe()) == recipe()
    assert settings_for(recipe(), steps=7, solver="ddpm", guidance_level=0.0) == recipe(
        steps=7, solver="ddpm", guidance_level=0.0
    )


def test_folds_must_fit_each_other_and_their_plan() -> None:
    with pytest.raises(ModelError, match="different plans"):
        Predictor([fold(), fold("fold1", small=plan(patch=(32, 16, 16)))], CPU, recipe())
    broken = replace(fold(), state={"weight": torch.zeros(3)})
    with pytest.raises(ModelError, match="does not fit"):
        Predictor([broken], CPU, recipe())


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: (scan()[0], 4.0), "spacing of 4 mm"),
        (lambda: (scan((4, 4, 4))[0], 1.0), "only 4x4x4 voxels"),
        (lambda: (np.zeros((20, 20, 20), dtype=np.float32), 1.0), "constant"),
        (lambda: (np.zeros((20, 20, 20), dtype=np.float32), 1.0), "no structure"),
    ],
)
def test_unusual_scans_are_said(make: object, expected: str) -> None:
    image, spacing = make()  # type: ignore[operator]
    grid = Grid.of(image.shape, np.diag([spacing, 1.0, 1.0, 1.0]))
    warnings = Predictor([fold()], CPU, recipe()).segment_volume(Volume(image[None], grid), "a").warnings
    assert any(expected in warning for warning in warnings)


def test_a_scan_like_the_training_data_gives_no_warning() -> None:
    image, _ = scan()
    assert (
        Predictor([fold()], CPU, recipe()).segment_volume(Volume(image[None], Grid.of(image.shape, np.eye(4))), "a").warnings
        == ()
    )


def test_a_ct_model_says_when_a_scan_is_hardly_a_ct() -> None:
    ct = replace(plan(), channels=(replace(plan().channels[0], name="CT", scheme="ct", lower=-200, upper=300),))
    image, _ = scan()
    volume = Volume(image[None] * 100 - 2500, Grid.of(image.shape, np.eye(4)))
    predictor = Predictor([fold(small=ct)], CPU, recipe())
    assert any("--modality" in warning for warning in predictor.segment_volume(volume, "a").warnings)
    assert not any("--modality" in warning for warning in predictor.segment_volume(volume, "a", "MRI").warnings)


def write_scans(folder: Path, *names: str) -> None:
    image, _ = scan()
    for index, name in enumerate(names):
        write_scalars(folder / name, image, Grid.of(image.shape, affine((2, 0, 1), (1, -1, 1), (1.0 + index / 10, 1.2, 0.9))))


def test_many_cases_files_names_grids_and_a_corrupt_one(tmp_path: Path) -> None:
    write_scans(tmp_path / "in", "a.nii.gz", "b_0000.nii.gz", "c.mha")
    (tmp_path / "in" / "bad.nii.gz").write_bytes(b"nothing" * 100)
    cases = find_cases(tmp_path / "in", 1)
    outcomes = predict_cases(Predictor([fold()], CPU, recipe()), cases, Wanted(tmp_path / "out", distances=True), quiet=True)
    assert [(outcome.case, outcome.status) for outcome in outcomes] == [
        ("a", "segmented"),
        ("b", "segmented"),
        ("bad", "failed"),
        ("c", "segmented"),
    ]
    assert "bad.nii.gz" in outcomes[2].message
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "b.nii.gz", "c.mha", "distance_maps"]
    assert sorted(path.name for path in (tmp_path / "out" / "distance_maps").glob("a*")) == ["a_large.nii.gz", "a_small.nii.gz"]
    for made, given in (("a.nii.gz", "a.nii.gz"), ("b.nii.gz", "b_0000.nii.gz"), ("c.mha", "c.mha")):
        assert read_grid(tmp_path / "out" / made) == read_grid(tmp_path / "in" / given)
        labels = read_labels(tmp_path / "out" / made).array
        assert labels.dtype == np.uint8
        assert set(np.unique(labels)) == {0, 2, 7}
    table = timing_table(outcomes)
    assert all(stage in table for stage in ("read", "prepare", "sample", "restore", "write"))


def test_alone_or_among_others_a_case_gets_the_same_result(tmp_path: Path) -> None:
    write_scans(tmp_path / "in", "a.nii.gz", "b.nii.gz")
    predictor = Predictor([fold()], CPU, recipe())
    predict_cases(predictor, find_cases(tmp_path / "in", 1), Wanted(tmp_path / "out"), quiet=True)
    volume = read_volume([tmp_path / "in" / "b.nii.gz"])
    assert np.array_equal(predictor.segment_volume(volume, "b").labels, read_labels(tmp_path / "out" / "b.nii.gz").array)


def test_outputs_are_kept_unless_overwritten(tmp_path: Path) -> None:
    write_scans(tmp_path / "in", "a.nii.gz", "b.nii.gz")
    predictor, cases = Predictor([fold()], CPU, recipe()), find_cases(tmp_path / "in", 1)
    predict_cases(predictor, cases[:1], Wanted(tmp_path / "out"), quiet=True)
    before = (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns
    outcomes = predict_cases(predictor, cases, Wanted(tmp_path / "out"), quiet=True)
    assert [outcome.status for outcome in outcomes] == ["kept", "segmented"]
    assert (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns == before
    again = predict_cases(predictor, cases, Wanted(tmp_path / "out", overwrite=True), quiet=True)
    assert [outcome.status for outcome in again] == ["segmented", "segmented"]
    assert (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns > before


def test_a_bug_is_not_taken_for_the_users_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scans(tmp_path / "in", "a.nii.gz")
    predictor = Predictor([fold()], CPU, recipe())

    def broken(*arguments: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(predictor, "restore", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        predict_cases(predictor, find_cases(tmp_path / "in", 1), Wanted(tmp_path / "out"), quiet=True)


def test_single_file_input(tmp_path: Path) -> None:
    write_scans(tmp_path, "a_0000.nii.gz")
    assert [files.case for files in find_cases(tmp_path / "a_0000.nii.gz", 1)] == ["a"]
    with pytest.raises(ImageError, match="2 channels"):
        find_cases(tmp_path / "a_0000.nii.gz", 2)
    (tmp_path / "a.txt").touch()
    with pytest.raises(ImageError, match=r"a\.txt"):
        find_cases(tmp_path / "a.txt", 1)


def test_inputs_are_never_replaced(tmp_path: Path) -> None:
    write_scans(tmp_path, "a.nii.gz")
    with pytest.raises(UserError, match="replace an input"):
        check_output(tmp_path, find_cases(tmp_path, 1), ".nii.gz")


def test_unwritable_output_is_said_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        check_output(tmp_path / "file" / "out", [CaseFiles("a", (tmp_path / "a.nii.gz",), None)], ".nii.gz")


def test_record_survives_damage(tmp_path: Path) -> None:
    assert read_record(tmp_path) == {}
    path = write_record(tmp_path, {"seed": 1})
    assert json.loads(path.read_text()) == read_record(tmp_path) == {"seed": 1}
    path.write_text("{")
    assert read_record(tmp_path) == {}


def test_options_that_a_method_does_not_have_are_refused() -> None:
    with pytest.raises(UserError, match="--steps: the method icf has no such option"):
        settings_for(Recipe("default", method="icf"), steps=3)
    with pytest.raises(UserError, match="--guidance-level: the method icmd"):
        settings_for(recipe(method="icmd"), guidance_level=0.5)
    assert settings_for(recipe(method="icmd"), steps=3, draws=2).steps == 3


def test_several_draws_take_the_step_that_tells_them_apart() -> None:
    silent = recipe(steps=1, input_scaling="signal")
    assert settings_for(silent, draws=5).steps == 2 and settings_for(silent, draws=5, steps=1).steps == 1
    assert settings_for(silent).steps == 1 and settings_for(recipe(steps=1), draws=5).steps == 1
    assert settings_for(replace(silent, steps=4), draws=5).steps == 4


def training_case(image: np.ndarray, labels: np.ndarray, predictor: Predictor) -> Atlas:
    """A scan with its labels as a model keeps it."""
    prepared = predictor.prepare(Volume(image[None], Grid.of(image.shape, np.eye(4)))).image
    distances = np.stack([np.where(labels == label.value, -0.5, 0.5) for label in predictor.plan.dataset.labels])
    assert prepared.shape[1:] == distances.shape[1:]
    return Atlas("kept", prepared.astype(np.float16), distances.astype(np.float16))


@pytest.mark.parametrize("adapt", ["curve", "atlases"])
def test_contrast_is_adapted_to_the_training_scans(adapt: str) -> None:
    """The method in closed form finds what is bright: of an inverted scan it finds nothing right until that is adapted."""
    image, labels = scan()
    predictor = Predictor([fold()], CPU, recipe())
    kept = training_case(image, labels, predictor)
    adapting = Predictor([replace(fold(), references=(kept,))], CPU, recipe())
    inverted = Volume((image.max() - image)[None], Grid.of(image.shape, np.eye(4)))

    def found(used: Predictor, adapt: str) -> float:
        prepared = used.prepare(inverted, adapt=adapt)
        result = used.restore(used.sample(prepared, "a"), prepared)
        return float(((result.labels > 0) == (labels > 0)).mean())

    assert found(adapting, "off") < 0.5
    assert found(adapting, adapt) > 0.9
    with pytest.raises(ModelError, match="keeps no training scans"):
        predictor.prepare(inverted, adapt=adapt)


def test_atlases_have_their_share_of_the_answer() -> None:
    """The atlas is the scan itself, with other labels than the network finds: the answer lies between them, and says so."""
    image, labels = scan()
    predictor = Predictor([fold()], CPU, recipe())
    swapped = np.where(labels == 2, 7, np.where(labels == 7, 2, 0))
    fused = Predictor([replace(fold(), references=(training_case(image, swapped, predictor),))], CPU, recipe())
    volume = Volume(image[None], Grid.of(image.shape, np.eye(4)))
    alone = fused.sample(fused.prepare(volume), "a")
    prepared = fused.prepare(volume, with_atlases=True)
    both = fused.sample(prepared, "a")
    assert prepared.atlases is not None and both.spread is not None
    wanted = NETWORK_SHARE * alone.distances + (1 - NETWORK_SHARE) * prepared.atlases.distances
    assert torch.allclose(both.distances, wanted)
    apart = (alone.distances - prepared.atlases.distances).abs()
    assert torch.allclose(both.spread, apart * (NETWORK_SHARE * (1 - NETWORK_SHARE)) ** 0.5, atol=1e-5)
    result = fused.restore(both, prepared, uncertainty=True)
    assert result.uncertainty_mm is not None and result.uncertainty_mm.max() > 0


def test_a_scan_of_another_kind_says_itself_how_much_the_network_counts() -> None:
    """A network that has learnt nothing, beside an atlas that is the scan: the scan takes the atlas' side."""
    image, labels = scan()
    predictor = Predictor([fold()], CPU, recipe())
    fused = Predictor([replace(fold(), references=(training_case(image, labels, predictor),))], CPU, recipe())
    volume = Volume(image[None], Grid.of(image.shape, np.eye(4)))
    plain, adapted = (fused.prepare(volume, adapt=adapt, with_atlases=True) for adapt in ("off", "atlases"))
    assert plain.adapted_from is None and adapted.adapted_from is not None and adapted.atlases is not None
    np.testing.assert_array_equal(adapted.adapted_from, plain.image)
    nothing = Segmentation(torch.ones_like(adapted.atlases.distances), None)
    assert fused.network_share(plain, nothing) == NETWORK_SHARE
    assert fused.network_share(adapted, nothing) == min(SHARES)


def test_a_scan_that_cannot_be_registered_is_segmented_as_it_is() -> None:
    image, labels = scan()
    predictor = Predictor([fold()], CPU, recipe())
    fused = Predictor([replace(fold(), references=(training_case(image, labels, predictor),))], CPU, recipe())
    prepared = fused.prepare(Volume(np.zeros_like(image)[None], Grid.of(image.shape, np.eye(4))), with_atlases=True)
    assert prepared.atlases is None
    assert any("segmented as it is, without the training scans: none of 1" in warning for warning in prepared.warnings)
