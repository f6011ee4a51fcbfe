"""What is around the network when a scan lacks a channel: several folds, atlases, and what is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffatlas_pipeline.atlases.policy import AtlasUse
from diffatlas_pipeline.atlases.segmenter import Segmenter
from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.inference.predictor import Predictor, Prepared
from diffatlas_pipeline.inference.result import Maps
from diffatlas_pipeline.inference.volume_intervals import VolumeErrors
from diffatlas_pipeline.methods.diffatlas import DiffAtlas
from diffatlas_pipeline.methods.joint_recipe import DEFAULT
from diffatlas_pipeline.models.folder import TrainedFold
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.volumes.grids import Grid, Volume
from tests.factories import with_options
from tests.inference.closed_form import CPU, scan
from tests.model_files import plan

LEARNT = with_options(DEFAULT, missing_channel=0.2)
PLAN = plan(channels=2)


def fold(name: str, seed: int) -> TrainedFold:
    """A network of random weights."""
    torch.manual_seed(seed)
    network = DiffAtlas(PLAN, LEARNT).build_network()
    for weight in network.parameters():  # those of the output begin at 0
        torch.nn.init.normal_(weight, std=0.2)
    return TrainedFold(PLAN, "diffatlas", "default", name, network.state_dict(), {})


def predictor(*folds: TrainedFold) -> Predictor:
    return Predictor(folds or [fold("a", 0)], CPU, LEARNT, precision="float32")


def volume(missing: int | None = None) -> Volume:
    image, _ = scan()
    array = np.stack([image, image.max() - image])
    if missing is not None:
        array[missing] = np.nan
    return Volume(array, Grid.of(image.shape, np.eye(4)), "scan")


def test_folds_generate_their_mean() -> None:
    one, other = fold("a", 0), fold("b", 1)

    def generated(*folds: TrainedFold) -> torch.Tensor:
        ready = predictor(*folds)
        found = ready.segment(ready.prepare(volume(missing=1))).generated
        assert found is not None
        return found

    torch.testing.assert_close(generated(one, other), (generated(one) + generated(other)) / 2)
    assert not torch.allclose(generated(one), generated(other), atol=1e-2)


def test_noise_belongs_to_what_is_given() -> None:
    ready = predictor()
    seeds = {ready.prepare(volume(missing)).seed for missing in (None, 0, 1)}
    assert len(seeds) == 3 and ready.prepare(volume(0)).seed in seeds


def test_what_a_scan_lacks_is_said_once_and_nothing_else_of_it() -> None:
    (said,) = predictor().prepare(volume(missing=0)).warnings
    assert said == "channel MRI is missing and was generated to fit the rest: expect a worse segmentation"


def test_errors_of_whole_scans_tell_nothing_of_the_volumes() -> None:
    ready = predictor()
    ready.volume_errors = VolumeErrors.of({f"case{n}": [(10.0 + n, 11.0), (5.0, 4.0 + n)] for n in range(4)})
    segmenter = Segmenter(ready)
    whole, part = (segmenter.prepare(one) for one in (volume(), volume(missing=0)))
    assert segmenter.volume_errors(segmenter.segment(whole), whole) is ready.volume_errors
    assert segmenter.volume_errors(segmenter.segment(part), part) is None


def test_a_model_that_has_not_learnt_it_refuses() -> None:
    never = Predictor([fold("a", 0)], CPU, with_options(LEARNT, missing_channel=0.0), precision="float32")
    with pytest.raises(ImageError, match=r"scan: channel MRI1 missing\. The model has not learnt"):
        never.prepare(volume(missing=1))
    assert never.prepare(volume()).image.shape[0] == 2


@pytest.mark.parametrize("use", [AtlasUse("curve"), AtlasUse("atlases"), AtlasUse("off", late_fusion=True)], ids=str)
@pytest.mark.parametrize("missing", [0, 1])
def test_atlases_are_compared_with_what_is_there(use: AtlasUse, missing: int) -> None:
    """The atlas is the whole scan itself, so what is adapted to it stays what it is."""
    ready = predictor()
    whole: Prepared = ready.prepare(volume())
    distances = np.stack([np.where(whole.image[0] > level, -0.5, 0.5) for level in (0.0, 0.6)]).astype(np.float16)
    segmenter = Segmenter(ready, [Atlas("kept", whole.image.astype(np.float16), distances)], use)
    prepared = segmenter.prepare(volume(missing))
    assert not [said for said in prepared.shown.warnings if "without the training scans" in said]
    shown = prepared.shown.image
    assert np.isnan(shown[missing]).all() and shown.shape == whole.image.shape
    assert np.corrcoef(shown[1 - missing].ravel(), whole.image[1 - missing].ravel())[0, 1] > 0.95
    found = segmenter.segment(prepared)
    assert found.generated is not None and found.generated.shape == (1, *whole.image.shape[1:])
    assert not any(one.isnan().any() for one in (found.distances, found.generated))
    result = segmenter.restore(found, prepared, Maps(generated=True))
    assert result.generated is not None and set(result.generated) == {missing}
    assert result.generated[missing].shape == result.labels.shape
    assert segmenter.familiarity(found, prepared) is None
