from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffatlas_pipeline.errors import ModelError, UserError
from diffatlas_pipeline.files import to_json
from diffatlas_pipeline.inference.calibration import Calibration, Curve
from diffatlas_pipeline.inference.padded import segment_padded
from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.inference.volume_intervals import VolumeErrors
from diffatlas_pipeline.methods.registry import create_method
from diffatlas_pipeline.methods.segmentation_loss import SHARPNESS
from diffatlas_pipeline.models.folder import TrainedFold
from diffatlas_pipeline.volumes.grids import Grid, Volume
from tests.inference.closed_form import CPU, affine, fold, overlap, ready, scan, segmented
from tests.model_files import plan, recipe


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_segmentation_lies_on_the_scan_whatever_its_orientation(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    image, labels = scan()
    result = segmented(ready(), Volume(image[None], Grid.of(image.shape, affine(order, signs))))
    assert result.labels.shape == image.shape
    for value in (2, 7):
        assert overlap(result.labels == value, labels == value) > 0.97


@pytest.mark.parametrize(("shape", "spacing"), [((9, 40, 50), (2.0, 0.8, 0.7)), ((8, 8, 8), (1.0, 1.0, 1.0))])
def test_other_spacings_and_scans_smaller_than_the_patch(shape: tuple, spacing: tuple) -> None:
    image, labels = scan(shape)
    grid = Grid.of(shape, affine((0, 1, 2), (1, 1, 1), spacing))
    result = segmented(ready(), Volume(image[None], grid))
    assert result.labels.shape == shape
    assert overlap(result.labels > 0, labels > 0) > 0.9


def test_maps_are_in_mm_and_agree_with_the_labels() -> None:
    image, _ = scan()
    predictor = ready(draws=4)
    result = segmented(predictor, Volume(image[None], Grid.of(image.shape, np.eye(4))), distances=True, uncertainty=True)
    assert result.distances_mm is not None
    assert result.distances_mm.shape == (2, *image.shape)
    assert np.abs(result.distances_mm).max() <= plan().distance.tau_mm
    assert np.array_equal(result.labels > 0, (result.distances_mm < 0).any(axis=0))
    # Between background and one label, the logit is so many times the distance.
    wrong = result.error_probability
    assert wrong is not None and wrong.shape == image.shape and wrong.dtype == np.float32
    nearest = np.abs(result.distances_mm).min(axis=0) / plan().distance.tau_mm
    alone = (result.distances_mm / plan().distance.tau_mm > 0.99).sum(axis=0) == 1
    np.testing.assert_allclose(wrong[alone], 1 / (1 + np.exp(SHARPNESS * nearest[alone])), atol=1e-3)
    assert wrong.min() >= 0 and wrong.max() <= 2 / 3


def test_folds_are_averaged_and_less_sure_where_they_disagree() -> None:
    image, _ = scan()
    volume = Volume(image[None], Grid.of(image.shape, np.eye(4)))
    single = [segmented(ready(folds=[fold("a", level)]), volume, distances=True, uncertainty=True) for level in (0.0, 0.2)]
    both = segmented(
        ready(folds=[fold("a", 0.0), fold("b", 0.2)]),
        volume,
        distances=True,
        uncertainty=True,
    )
    assert both.distances_mm is not None
    middle = (single[0].distances_mm[0] + single[1].distances_mm[0]) / 2  # type: ignore[index]
    unclipped = np.abs(single[0].distances_mm[0]) < 2  # type: ignore[index]
    assert np.allclose(both.distances_mm[0][unclipped], middle[unclipped], atol=1e-4)
    one, two = (each.error_probability for each in single)
    assert one is not None and two is not None and both.error_probability is not None
    apart = (single[0].labels != single[1].labels) & unclipped
    assert (both.error_probability >= np.minimum(one, two) - 1e-3)[unclipped].all()
    assert (both.error_probability >= np.maximum(one, two) - 1e-3)[apart].all()


def test_a_calibrated_model_is_as_sure_as_its_curve_says() -> None:
    image, _ = scan()
    volume = Volume(image[None], Grid.of(image.shape, np.eye(4)))
    curve = Curve((0.01, 0.4), (0.2, 0.5))
    kept = to_json(Calibration(curve, VolumeErrors((), ())))
    plain, calibrated = (
        segmented(ready(folds=[replace(fold(), calibration=text)]), volume, uncertainty=True) for text in (None, kept)
    )
    assert plain.error_probability is not None and calibrated.error_probability is not None
    np.testing.assert_array_equal(plain.labels, calibrated.labels)
    np.testing.assert_allclose(calibrated.error_probability, curve.calibrated(plain.error_probability), atol=1e-6)


def test_small_scans_are_padded_as_in_training() -> None:
    seen = []

    class Watching(nn.Module):
        def forward(self, windows: Tensor, *levels: Tensor) -> Tensor:
            seen.append(windows.clone())
            return torch.cat([windows, windows], dim=1)

    image = torch.full((1, 4, 16, 5), 0.5)
    found = segment_padded(
        create_method("brightness", plan(patch=(8, 8, 8)), recipe()), Watching(), image, lambda run, v: run(v[None])[0], 0
    )
    assert found.distances.shape == (2, 4, 16, 5)
    assert seen[0].shape == (1, 1, 8, 16, 8)
    assert torch.equal(seen[0][0, 0, 2:6, :, 1:6], image[0])
    assert seen[0].sum() == pytest.approx(0.5 * image.numel() - (8 * 16 * 8 - image.numel()))


def test_a_scan_does_not_depend_on_the_others_but_on_seed_and_content() -> None:
    """The real method with untrained weights: its noise belongs to the scan."""
    method = create_method("diffatlas", plan(), recipe())
    torch.manual_seed(0)
    state = method.build_network().state_dict()
    trained = TrainedFold(plan(), "diffatlas", "default", "fold0", state, {})
    image, _ = scan((12, 20, 18))
    grid = Grid.of(image.shape, np.eye(4))
    a, b = Volume(image[None], grid), Volume((2 * image)[None], grid)  # alike once they are normalised

    def run(seed: int, *volumes: Volume) -> list[np.ndarray]:
        predictor = Predictor([trained], CPU, recipe(), seed, "float32")
        return [segmented(predictor, volume, distances=True).distances_mm for volume in volumes]  # type: ignore[misc]

    first = run(0, a, b)
    assert np.array_equal(run(0, b)[0], first[1])
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(run(1, a)[0], first[0])


def test_precision_is_decided_once_and_can_be_forced() -> None:
    image, labels = scan()
    volume = Volume(image[None], Grid.of(image.shape, np.eye(4)))
    predictor = Predictor([fold()], CPU, recipe(), precision="bfloat16")
    assert predictor.precision == "bfloat16"
    assert overlap(segmented(predictor, volume).labels > 0, labels > 0) > 0.95
    assert predictor.precision == "bfloat16"
    with pytest.raises(UserError, match="float16"):
        Predictor([fold()], CPU, recipe(), precision="float16")


def test_what_is_not_finite_is_refused_not_read_as_background() -> None:
    torch.manual_seed(0)
    state = create_method("diffatlas", plan(), recipe()).build_network().state_dict()
    image, _ = scan((12, 20, 18))
    volume = Volume(image[None], Grid.of(image.shape, np.eye(4)), "scan.nii.gz")
    for value, said in ((torch.nan, "of its weights, such as"), (torch.inf, "not finite"), (3e38, "scan.nii.gz: the model's")):
        wrong = {name: torch.full_like(tensor, value) for name, tensor in state.items()}
        with pytest.raises(ModelError, match=said):
            segmented(Predictor([TrainedFold(plan(), "diffatlas", "default", "fold0", wrong, {})], CPU, recipe()), volume)


def test_folds_must_fit_each_other_and_their_plan() -> None:
    with pytest.raises(ModelError, match="different plans"):
        ready(folds=[fold(), fold("fold1", small=plan(patch=(32, 16, 16)))])
    broken = replace(fold(), state={"weight": torch.zeros(3)})
    with pytest.raises(ModelError, match="does not fit"):
        ready(folds=[broken])


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
    warnings = segmented(ready(), Volume(image[None], grid)).warnings
    assert any(expected in warning for warning in warnings)


def test_a_scan_like_the_training_data_gives_no_warning() -> None:
    image, _ = scan()
    assert segmented(ready(), Volume(image[None], Grid.of(image.shape, np.eye(4)))).warnings == ()


def test_a_ct_model_says_when_a_scan_is_hardly_a_ct() -> None:
    ct = replace(plan(), channels=(replace(plan().channels[0], name="CT", scheme="ct", lower=-200, upper=300),))
    image, _ = scan()
    volume = Volume(image[None] * 100 - 2500, Grid.of(image.shape, np.eye(4)))
    predictor = ready(folds=[fold(small=ct)])
    assert any("`modality=" in warning for warning in segmented(predictor, volume).warnings)
    assert not any("`modality=" in warning for warning in segmented(predictor, volume, "MRI").warnings)


def test_padding_is_said() -> None:
    """As of a scan whose corners a program filled with -9999."""
    image, _ = scan()
    grid = Grid.of(image.shape, np.eye(4))

    def said(array: np.ndarray) -> list[str]:
        return [one for one in ready().prepare(Volume(array[None], grid)).warnings if "padded" in one]

    assert said(image) == []
    image[:4] = -9999
    assert said(image) == ["channel MRI is padded with -9999, which is taken for no intensity"]
